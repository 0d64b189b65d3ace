//! Branches, older keys and missing files: what is not the continuation of what was anchored is refused.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod harness;
mod support;

use std::sync::Arc;

use harness::paper::{Keys, SLOT, START, u64_at};
use twofold_vault::memory::Memory;
use twofold_vault::{Anchor, BLOCK, DeviceSpec, Error, Keyring, MemoryAnchor, Options, Store, Vault};

fn options() -> Options {
    support::options(64)
}

fn old() -> Keyring {
    support::ring()
}

fn new() -> Keyring {
    Keyring::new(2, [2; 32]).with(1, [7; 32])
}

fn made() -> (Arc<Memory>, Arc<MemoryAnchor>, Vault) {
    support::made(1024, options())
}

fn write(vault: &Vault, blocks: u64, byte: u8) {
    for block in 0..blocks {
        vault.device("disk").unwrap().write(block * BLOCK as u64, &[byte; BLOCK]).unwrap();
    }
    vault.flush().unwrap();
}
fn first(vault: &Vault) -> u8 {
    let mut byte = [0];
    vault.device("disk").unwrap().read(0, &mut byte).unwrap();
    byte[0]
}
fn replaced() -> Options {
    Options { replace_anchor: true, ..options() }
}

/// A backup from before the anchor, written elsewhere, is not what was anchored.
#[test]
fn a_copy_that_went_another_way_is_refused() {
    let (store, anchor, vault) = made();
    write(&vault, 5, 1);
    let copy = Arc::new(store.kill());
    write(&vault, 5, 2);
    vault.tend().unwrap();
    let other = Vault::open(copy.clone(), old(), Arc::new(MemoryAnchor::default()), replaced()).unwrap();
    write(&other, 5, 3);
    for _ in 0..4 {
        other.commit("x").unwrap();
    }
    other.close().unwrap();
    let result = Vault::open(copy, old(), anchor, options());
    assert!(matches!(result, Err(Error::Stale { .. })), "opened, block 0 holds {}", first(&result.unwrap()));
}

/// Whoever has only an old epoch's key (a device that was taken out) makes nothing that a newer epoch's holder takes.
#[test]
fn an_old_key_makes_no_new_state() {
    let (store, anchor, vault) = made();
    write(&vault, 5, 1);
    vault.checkpoint().unwrap();
    let stolen = Arc::new(store.kill());
    vault.set_keyring(new()).unwrap();
    write(&vault, 5, 2);
    vault.close().unwrap();
    // The thief goes on from the older copy; a number is skipped so that no anchored segment is met.
    for number in 3..9u64 {
        stolen.put(&format!("s-{number:016x}"), Vec::new());
    }
    let thief = Vault::open(stolen.clone(), old(), Arc::new(MemoryAnchor::default()), replaced()).unwrap();
    write(&thief, 5, 66);
    for _ in 0..4 {
        thief.commit("x").unwrap();
    }
    thief.close().unwrap();
    let result = Vault::open(stolen, new(), anchor, options());
    assert!(result.is_err(), "opened under the ring of epoch 2, block 0 holds {}", first(&result.unwrap()));
}

/// One file of the log's end is lost; later ones prove that it had been flushed.
#[test]
fn a_missing_segment_in_the_tail_is_damage() {
    let (store, anchor, vault) = made();
    for round in 1..6 {
        write(&vault, 60, round);
    }
    let cut = store.kill();
    let mut names: Vec<String> = cut.list().unwrap().into_iter().filter(|name| name.starts_with("s-")).collect();
    names.sort();
    cut.remove(&names[names.len() - 3]).unwrap();
    let result = Vault::open(Arc::new(cut), old(), anchor, options());
    assert!(matches!(result, Err(Error::TailDamaged(_))), "opened, block 0 holds {}", first(&result.unwrap()));
}

/// The same, where nothing refuses: what was flushed is removed from the disk.
#[test]
fn opening_removes_nothing_that_was_flushed() {
    let (store, anchor, vault) = made();
    for round in 1..6 {
        write(&vault, 60, round);
    }
    let cut = Arc::new(store.kill());
    let names = || {
        let mut names: Vec<String> = cut.list().unwrap().into_iter().filter(|name| name.starts_with("s-")).collect();
        names.sort();
        names
    };
    let before = names();
    cut.remove(&before[before.len() - 3]).unwrap();
    let _ = Vault::open(cut.clone(), old(), anchor, options());
    assert_eq!(names().len(), before.len() - 1, "{:?} of {before:?} are left", names());
}

#[test]
fn another_device_is_another_head() {
    let (_, _, vault) = made();
    let head = vault.head();
    vault.add_device(&DeviceSpec { name: "more".into(), size: 4 << 20 }).unwrap();
    assert_ne!(vault.head(), head);
}

/// What a segment says that wants to be the log's next, and the byte that it writes to block 0.
#[derive(Clone, Copy)]
struct Forged {
    epoch: u8,
    /// Above the log's last.
    above: u64,
    /// The salt that it takes for its predecessor's is that.
    salt: bool,
    /// Slots of the predecessor that it leaves out.
    short: u32,
    byte: u8,
}

impl Forged {
    /// Its file, sealed rightly, behind the log's `last`.
    fn file(self, last: &[u8]) -> (String, Vec<u8>) {
        let number = u64_at(last, 32);
        let keys = Keys { epoch: [if self.epoch == 1 { 7 } else { 2 }; 32], vault: last[16..32].try_into().unwrap() };
        let mut file = last[..START].to_vec();
        let end = ((last.len() - START) / SLOT) as u32 - self.short;
        file[32..40].copy_from_slice(&(number + self.above).to_le_bytes());
        file[40..44].copy_from_slice(&u32::from(self.epoch).to_le_bytes());
        file[44..48].fill(0);
        file[48..80].fill(self.byte);
        file[80..88].copy_from_slice(&number.to_le_bytes());
        file[88..92].copy_from_slice(&end.to_le_bytes());
        file[96..112].copy_from_slice(&blake3::hash(&last[48..80]).as_bytes()[..16]);
        file[96] ^= u8::from(!self.salt);
        keys.mac_segment(&mut file);
        file.resize(START + SLOT, 0);
        let mut body = vec![self.byte; SLOT - 16];
        body[..16].copy_from_slice(&[1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        keys.seal(&mut file, 0, &body);
        (format!("s-{:016x}", number + self.above), file)
    }
}

#[test]
fn only_a_segment_of_this_epoch_that_names_the_end_as_it_is_continues_the_log() {
    let (store, _, vault) = made();
    write(&vault, 5, 1);
    vault.set_keyring(new()).unwrap();
    write(&vault, 5, 2);
    vault.close().unwrap();
    let name = store.list().unwrap().into_iter().filter(|name| name.starts_with("s-")).max().unwrap();
    let last = store.bytes(&name).unwrap();
    let next = Forged { epoch: 2, above: 1, salt: true, short: 0, byte: 66 };
    let cases: [(&[Forged], u8); 6] = [
        (&[next], 66),
        // An old epoch's key goes no further than its epoch.
        (&[Forged { epoch: 1, ..next }], 2),
        // The end of another copy of this vault.
        (&[Forged { salt: false, ..next }], 2),
        // The root that was read lies beyond the end that it declares.
        (&[Forged { short: 1, ..next }], 2),
        // Begun twice from one end: the later counts.
        (&[next, Forged { above: 2, byte: 77, ..next }], 77),
        (&[Forged { above: 3, byte: 77, ..next }, next], 77),
    ];
    for (nth, (forged, expected)) in cases.into_iter().enumerate() {
        let store = Arc::new(store.kill());
        for one in forged {
            let (name, file) = one.file(&last);
            store.put(&name, file);
        }
        let how = Options { replace_anchor: true, ..options() };
        let vault = Vault::open(store, new(), Arc::new(MemoryAnchor::default()), how).unwrap();
        assert_eq!(first(&vault), expected, "case {nth}");
    }
}

#[test]
fn what_is_promised_on_return_is_anchored_on_return() {
    let (_, anchor, vault) = made();
    let anchored = |what: &str| assert_eq!(anchor.load().unwrap().unwrap().counter, vault.info().counter, "{what}");
    write(&vault, 5, 1);
    let kept = vault.commit("kept").unwrap();
    anchored("a generation");
    let mut writer = vault.stream_writer("memory", b"state").unwrap();
    writer.write(0, &[1; BLOCK]).unwrap();
    writer.finish(BLOCK as u64).unwrap();
    anchored("a stream");
    vault.consume("memory").unwrap();
    anchored("its use");
    vault.revert(kept.number).unwrap();
    anchored("a revert");
}
