//! A vault gets features that only a later version knows. The power goes at every step of it: an older version opens what was
//! there, or heeds what the paper says of the bit; the later one carries on and finishes. Nothing is ever lost.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod harness;

use std::sync::Arc;

use harness::Dice;
use harness::model::{made, options, ring};
use harness::power::{CUTS, Cut, after};
use harness::tape::{Image, Tape};
use twofold_vault::{Anchored, BLOCK, Error, Features, Options, Vault};

const NONE: Features = Features { incompatible: 0, read_compatible: 0, compatible: 0 };
const KINDS: [Features; 4] = [
    Features { incompatible: 1, ..NONE },
    Features { read_compatible: 2, ..NONE },
    Features { compatible: 4, ..NONE },
    Features { incompatible: 1, read_compatible: 2, compatible: 4 },
];
const WRITTEN: usize = 200;

fn open(tape: &Tape, known: Features) -> Result<Vault, Error> {
    Vault::open(Arc::new(tape.clone()), ring(1), tape.anchor(), Options { known, ..options() })
}

fn write(vault: &Vault, seed: usize) {
    let disk = vault.device("disk").unwrap();
    for block in 0..WRITTEN {
        disk.write((block * BLOCK) as u64, &[(block ^ seed) as u8 | 1; BLOCK]).unwrap();
    }
}

fn holds(vault: &Vault, seed: usize) {
    let disk = vault.device("disk").unwrap();
    let mut data = vec![0; WRITTEN * BLOCK];
    disk.read(0, &mut data).unwrap();
    for (block, found) in data.chunks(BLOCK).enumerate() {
        assert!(found.iter().all(|byte| *byte == (block ^ seed) as u8 | 1), "block {block}");
    }
}

/// The features that the file `vault` names.
fn stated(image: &Image) -> Features {
    let number = |at: usize| u64::from_le_bytes(image["vault"][at..at + 8].try_into().unwrap());
    Features { incompatible: number(16), read_compatible: number(24), compatible: number(32) }
}

/// A vault with content and a generation, closed: as a version that knows no features left it.
fn filled() -> Tape {
    let (tape, history) = made();
    let vault = harness::model::open(&tape, &history).unwrap();
    write(&vault, 1);
    vault.commit("kept").unwrap();
    write(&vault, 0);
    vault.close().unwrap();
    let anchor = tape.reel().anchor.clone();
    Tape::new(tape.image(), anchor)
}

/// What an older version does with it. True: it could write.
fn older(image: &Image, anchor: &Option<Anchored>, to: &Features, must_heed: bool) -> bool {
    let tape = Tape::new(image.clone(), anchor.clone());
    let vault = match open(&tape, NONE) {
        Err(Error::Incompatible(_)) if to.incompatible != 0 => return false,
        other => other.unwrap(),
    };
    holds(&vault, 0);
    let has = vault.info().format.1;
    assert!(has == NONE || has == *to);
    assert!(has.incompatible == 0, "opened what it had to refuse");
    assert!(!must_heed || has == *to, "an upgrade that was acknowledged is not seen");
    assert_eq!(vault.info().read_only, has.read_compatible != 0);
    if vault.info().read_only {
        assert!(matches!(vault.device("disk").unwrap().write(0, &[9; BLOCK]), Err(Error::ReadOnly)));
        return false;
    }
    // It writes, and keeps the bits that it may ignore.
    write(&vault, 7);
    vault.close().unwrap();
    let vault = open(&tape, *to).unwrap();
    holds(&vault, 7);
    assert_eq!(vault.info().format.1, has);
    vault.upgrade(to).unwrap();
    holds(&vault, 7);
    vault.close().unwrap();
    assert_eq!(stated(&tape.image()), *to);
    true
}

/// The later version carries on where it was cut short, and then all is said in both places.
fn later(image: &Image, anchor: &Option<Anchored>, to: &Features) {
    let tape = Tape::new(image.clone(), anchor.clone());
    let vault = open(&tape, *to).unwrap();
    if vault.info().format.1 == *to {
        assert_eq!(stated(&tape.image()), *to, "opening did not carry on");
    }
    let lacked = vault.info().format.1 != *to;
    assert_eq!(vault.upgrade(to).unwrap(), lacked);
    assert!(!vault.upgrade(to).unwrap());
    holds(&vault, 0);
    vault.revert(1).unwrap();
    holds(&vault, 1);
    assert_eq!(vault.info().format.1, *to, "a generation of before does not take it back");
    drop(vault);
    assert_eq!(stated(&tape.image()), *to);
}

#[test]
fn an_upgrade_may_be_cut_short_anywhere() {
    let mut dice = Dice(4);
    let (mut cuts, mut written) = (0, 0);
    for to in KINDS {
        let tape = filled();
        let vault = open(&tape, to).unwrap();
        assert!(vault.upgrade(&to).unwrap());
        let done = tape.len();
        drop(vault);
        let reel = tape.reel();
        // No second copy: a root, heads and the file `vault`.
        let bytes: usize = reel
            .events
            .iter()
            .map(|event| if let harness::tape::Event::Write(_, _, data) = event { data.len() } else { 0 })
            .sum();
        assert!(bytes < 16 * BLOCK, "{bytes} bytes written");
        for upto in 0..=done {
            for cut in CUTS {
                let (image, anchor) = after(&reel, upto, cut, &mut dice);
                written += usize::from(older(&image, &anchor, &to, upto == done));
                later(&image, &anchor, &to);
                cuts += 1;
            }
        }
        // Any error on the way is not the end either.
        let whole = after(&reel, done, Cut::Nothing, &mut dice).0;
        assert_eq!(stated(&whole), to, "acknowledged, and not durable");
    }
    println!("{cuts} power cuts, {written} times an older version wrote on");
    assert!(written > 50);
}

#[test]
fn a_disk_that_fails_once_leaves_an_upgrade_that_can_be_done_again() {
    use harness::tape::{Call, Fault};
    for to in KINDS {
        for at in 0.. {
            let tape = filled();
            let vault = open(&tape, to).unwrap();
            let changes: fn(Call) -> bool =
                |call| matches!(call, Call::Create | Call::Rename | Call::Names | Call::Write | Call::Sync);
            let error = || std::io::Error::from(std::io::ErrorKind::StorageFull);
            tape.fail(Some(Fault { counts: changes, at, times: 1, error, done: false }));
            let result = vault.upgrade(&to);
            let failed = tape.reel().failed;
            tape.fail(None);
            if failed == 0 {
                assert!(result.unwrap() && at > 4);
                break;
            }
            let _ = vault.upgrade(&to);
            let _ = vault.close();
            drop(vault);
            let anchor = tape.reel().anchor.clone();
            later(&tape.image(), &anchor, &to);
        }
    }
}

#[test]
fn nobody_gives_a_vault_what_it_does_not_know_itself() {
    let tape = filled();
    let vault = open(&tape, NONE).unwrap();
    for to in KINDS {
        assert!(matches!(vault.upgrade(&to), Err(Error::Invalid(_))));
    }
    assert!(!vault.upgrade(&NONE).unwrap());
    let before = tape.len();
    assert!(!vault.upgrade(&Features::KNOWN).unwrap());
    assert_eq!(tape.len(), before, "there was nothing to do");
}
