//! Bytes that nobody should have written, rightly sealed, to everything that reads them: no panic. `crates/vault/fuzz` does the
//! same with a fuzzer.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod harness;

use std::collections::BTreeMap;
use std::sync::Mutex;

use harness::feed::feed;
use harness::{Dice, on_all_cores, setting};
use proptest::prelude::*;
use twofold_vault::{Anchor, FileAnchor};

#[test]
fn nothing_that_is_read_makes_it_panic() {
    let seen = Mutex::new(BTreeMap::<&str, u64>::new());
    let failures = Mutex::new(Vec::new());
    on_all_cores(0..setting("TWOFOLD_CASES", 24) * 60, |seed| {
        let mut dice = Dice(seed);
        let length = 2 + 4 * (1 + dice.below(6));
        let how: Vec<u8> = (0..length).map(|_| dice.roll() as u8).collect();
        match std::panic::catch_unwind(|| feed(&how)) {
            Ok(what) => *seen.lock().unwrap().entry(what).or_default() += 1,
            Err(_) => failures.lock().unwrap().push(how),
        }
    });
    println!("{:?}", seen.into_inner().unwrap());
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} inputs, such as {:?}", failures.len(), failures[0]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn an_anchor_of_any_bytes_is_one_or_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..128usize, value in any::<u8>(), summed in any::<bool>(),
    ) {
        let path = std::env::temp_dir().join(format!("twofold-anchor-{}", std::process::id()));
        let anchor = FileAnchor::new(&path);
        let record = twofold_vault::Anchored { vault: [1; 16], counter: 2, segment: 3, slots: 4, digest: [5; 16], epoch: 1 };
        anchor.store(&record).unwrap();
        let mut good = std::fs::read(&path).unwrap();
        let before = good[at];
        good[at] = value;
        if summed {
            let sum = *blake3::hash(&good[..96]).as_bytes();
            good[96..].copy_from_slice(&sum);
        }
        std::fs::write(&path, &good).unwrap();
        let found = anchor.load();
        prop_assert!(summed || found.is_err() || value == before);
        std::fs::write(&path, &bytes).unwrap();
        prop_assert!(anchor.load().is_err());
        std::fs::remove_file(&path).unwrap();
        prop_assert!(anchor.load().unwrap().is_none());
    }
}
