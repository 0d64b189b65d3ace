//! Every use of a key and a nonce, over all sessions and copies of a vault.

use std::collections::HashMap;

use super::paper::{self, SLOT, START};
use super::tape::{Event, Reel};

/// What was sealed under each (salt of a segment, index) and each salt of a head.
#[derive(Default)]
pub struct Nonces {
    seen: HashMap<([u8; 32], u32), [u8; 32]>,
    /// Slots and head records looked at, in every place that they were written to.
    pub written: u64,
}

const HEAD: u32 = u32::MAX;

impl Nonces {
    fn use_of(&mut self, salt: [u8; 32], index: u32, sealed: &[u8], name: &str) {
        self.written += 1;
        let digest = *blake3::hash(sealed).as_bytes();
        let first = *self.seen.entry((salt, index)).or_insert(digest);
        assert!(first == digest, "a nonce was used twice: {name}, slot {index}");
    }

    /// How many different ones there were.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Takes another's in.
    pub fn merge(&mut self, other: Self) {
        for ((salt, index), digest) in other.seen {
            let first = *self.seen.entry((salt, index)).or_insert(digest);
            assert!(first == digest, "a nonce was used twice: slot {index}");
        }
    }

    /// Looks at all that a session wrote.
    pub fn watch(&mut self, reel: &Reel) {
        for event in &reel.events {
            let Event::Write(file, at, data) = event else { continue };
            let (name, at) = (&reel.made[*file], *at as usize);
            if name.starts_with("s-") {
                let bytes = &reel.files[*file];
                if bytes.len() < START {
                    continue;
                }
                let salt: [u8; 32] = bytes[48..80].try_into().unwrap();
                let slots = if at == 0 { data.get(START..).unwrap_or_default() } else { &data[..] };
                let first = at.saturating_sub(START);
                assert!(first % SLOT == 0, "{name}: a write that does not begin with a slot");
                for (nth, slot) in slots.chunks_exact(SLOT).enumerate() {
                    self.use_of(salt, (first / SLOT + nth) as u32, slot, name);
                }
            } else if name.starts_with("head.") && data.len() == 192 {
                self.use_of(data[32..64].try_into().unwrap(), HEAD, &data[64..], name);
            }
        }
        for (name, file) in &reel.names {
            if name.starts_with("p-") && reel.files[*file].len() > 64 {
                for (salt, index, slot) in paper::pack_slots(&reel.files[*file]) {
                    self.use_of(salt, index, slot, name);
                }
            }
        }
    }
}
