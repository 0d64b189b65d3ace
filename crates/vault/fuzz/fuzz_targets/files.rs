//! Everything that lies in a vault's folder, with edits that are sealed rightly: see `tests/harness/feed.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/harness/mod.rs"]
mod harness;

fuzz_target!(|data: &[u8]| {
    harness::feed::feed(&data[..data.len().min(64)]);
});
