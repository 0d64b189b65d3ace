//! A repair, and a vault's beginning from a copy, may be cut short anywhere: doing it again finishes, and nothing that was
//! whole is touched.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod harness;

use std::sync::Arc;

use harness::Dice;
use harness::model::{made, options, ring};
use harness::power::{CUTS, after};
use harness::tape::{Event, Image, Tape};
use twofold_vault::{Anchored, BLOCK, Error, Options, Report, SLOT, Store, Vault};

const WRITTEN: usize = 200;
const LOST: [usize; 3] = [17, 18, 140];

fn open(tape: &Tape, epochs: u32, options: Options) -> Result<Vault, Error> {
    Vault::open(Arc::new(tape.clone()), ring(epochs), tape.anchor(), options)
}

fn check(vault: &Vault) -> Report {
    vault.check(&mut |_, _| {}).unwrap()
}

fn write(vault: &Vault, device: &str, from: usize, to: usize, seed: usize) {
    let disk = vault.device(device).unwrap();
    for block in from..to {
        disk.write((block * BLOCK) as u64, &[(block ^ seed) as u8 | 1; BLOCK]).unwrap();
    }
}

fn read(vault: &Vault) -> Vec<Result<u8, ()>> {
    let (disk, mut block) = (vault.device("disk").unwrap(), [0; BLOCK]);
    let one = |nth: usize, block: &mut [u8; BLOCK]| match disk.read((nth * BLOCK) as u64, block) {
        Ok(()) => Ok(block[0]),
        Err(Error::Damaged(_)) => Err(()),
        Err(other) => panic!("{other}"),
    };
    (0..WRITTEN).map(|nth| one(nth, &mut block)).collect()
}

/// What is there before anything is given up, after some of it was, and at the end.
fn holds(vault: &Vault) {
    for (nth, found) in read(vault).into_iter().enumerate() {
        let whole = (nth ^ 3) as u8 | 1;
        assert!(found == Ok(whole) || LOST.contains(&nth) && found != Ok(whole), "block {nth}: {found:?}");
    }
}

/// A vault, closed, with damage in the present state, in a generation, and in a stream; the device may be closed to writing.
fn damaged(frozen: bool) -> Tape {
    let (tape, history) = made();
    let vault = harness::model::open(&tape, &history).unwrap();
    write(&vault, "disk", 0, WRITTEN, 3);
    vault.commit("shares what is lost").unwrap();
    write(&vault, "vars", 0, 20, 5);
    vault.commit("shares it too").unwrap();
    if frozen {
        vault.set_read_only("disk", true).unwrap();
    }
    vault.close().unwrap();
    let mut image = tape.image();
    // A block's slot is found by what reading says of it once it is damaged.
    for lost in LOST {
        let victim = (1..).flat_map(|segment| (0..64).map(move |slot| (segment, slot))).find(|(segment, slot)| {
            let mut tried = image.clone();
            flip(&mut tried, *segment, *slot)
                && open(&Tape::new(tried, tape.anchor_record()), 1, options())
                    .is_ok_and(|vault| read(&vault)[lost].is_err())
        });
        let (segment, slot) = victim.unwrap();
        assert!(flip(&mut image, segment, slot));
    }
    Tape::new(image, tape.anchor_record())
}

fn flip(image: &mut Image, segment: u64, slot: usize) -> bool {
    let byte = image.get_mut(&format!("s-{segment:016x}")).and_then(|bytes| bytes.get_mut(256 + slot * SLOT + 999));
    byte.map(|byte| *byte ^= 1).is_some()
}

#[test]
fn a_repair_may_be_cut_short_anywhere() {
    let (mut dice, mut cuts, mut partly) = (Dice(9), 0, 0);
    for frozen in [false, true] {
        let tape = damaged(frozen);
        let vault = open(&tape, 1, options()).unwrap();
        let report = check(&vault);
        let here: u64 = report.lost.iter().filter(|loss| loss.generation.is_none()).map(|loss| loss.length).sum();
        assert_eq!(here, (LOST.len() * BLOCK) as u64);
        let done = vault.repair(&report).unwrap();
        assert_eq!((done.zeroed, done.generations.clone()), (here, vec![1, 2]));
        assert_eq!(vault.devices()[0].read_only, frozen);
        drop(vault);
        let reel = tape.reel();
        for upto in 0..=reel.events.len() {
            for cut in CUTS {
                let (image, anchor) = after(&reel, upto, cut, &mut dice);
                let again = Tape::new(image, anchor);
                let vault = open(&again, 1, options()).unwrap();
                holds(&vault);
                let report = check(&vault);
                partly += usize::from(!report.is_sound() && report.lost.len() < 9);
                assert!(upto < reel.events.len() || report.is_sound(), "it was acknowledged");
                vault.repair(&report).unwrap();
                assert!(check(&vault).is_sound());
                holds(&vault);
                assert_eq!(vault.devices()[0].read_only, frozen);
                vault.close().unwrap();
                let vault = open(&again, 1, options()).unwrap();
                assert!(check(&vault).is_sound() && vault.generations().is_empty());
                holds(&vault);
                cuts += 1;
            }
        }
    }
    println!("{cuts} power cuts, {partly} of them in the middle");
    assert!(partly > 10);
}

#[test]
fn beginning_from_a_copy_may_be_cut_short_anywhere() {
    let (tape, history) = made();
    let vault = harness::model::open(&tape, &history).unwrap();
    write(&vault, "disk", 0, WRITTEN, 3);
    let generation = vault.commit("to go").unwrap();
    let manifest = vault.manifest(generation.number, |_, _| None).unwrap();
    let all = tape.image();
    let files = manifest.files.iter().map(|file| (file.name.clone(), all[&file.name][..file.length as usize].to_vec()));
    let there = Tape::new(files.collect(), None);
    let store: Arc<dyn Store> = Arc::new(there.clone());
    Vault::import(&store, &ring(2), &manifest).unwrap();
    let begun = there.len();
    let on_purpose = Options { replace_anchor: true, ..options() };
    let vault = open(&there, 2, on_purpose.clone()).unwrap();
    vault.set_keyring(ring(2)).unwrap();
    vault.close().unwrap();
    let reel = there.reel();
    let made = reel.events.iter().filter(|event| matches!(event, Event::Anchor(_))).count();
    assert!(made > 0 && begun < reel.events.len());
    let (mut dice, mut none, mut cuts) = (Dice(3), 0, 0);
    for upto in 0..=reel.events.len() {
        for cut in CUTS {
            let (image, anchor): (Image, Option<Anchored>) = after(&reel, upto, cut, &mut dice);
            let left = Tape::new(image, anchor.clone());
            match open(&left, 2, on_purpose.clone()) {
                // Begun again from the copy, it is one.
                Err(Error::NotAVault) => {
                    assert!(upto < reel.events.len());
                    let store: Arc<dyn Store> = Arc::new(left.clone());
                    Vault::import(&store, &ring(2), &manifest).unwrap();
                    none += 1;
                }
                other => {
                    holds_all(&other.unwrap());
                }
            }
            let vault = open(&left, 2, on_purpose.clone()).unwrap();
            holds_all(&vault);
            assert!(check(&vault).is_sound());
            if upto == reel.events.len() {
                assert_eq!(
                    anchor.as_ref().map(|anchor| anchor.epoch),
                    Some(2),
                    "the anchor does not know the new epoch"
                );
            }
            cuts += 1;
        }
    }
    println!("{cuts} power cuts, {none} of them before there was a vault");
    assert!(none > 10 && cuts > none);
}

fn holds_all(vault: &Vault) {
    for (nth, found) in read(vault).into_iter().enumerate() {
        assert_eq!(found, Ok((nth ^ 3) as u8 | 1));
    }
}
