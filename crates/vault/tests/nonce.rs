//! No key is used twice with one nonce: over crashes, copies of a folder that are opened side by side, vaults that are turned
//! back and written again, and other machines. Every place that sealed bytes are ever written to is looked at.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod harness;

use std::sync::Arc;

use harness::model::{BLOCKS, History, NAMES, Op, key, made, open, options, page};
use harness::nonces::Nonces;
use harness::paper::{Keys, SLOT, START};
use harness::power::{CUTS, after};
use harness::tape::{Call, Fault, Image, Tape};
use harness::{Dice, on_all_cores};
use twofold_vault::{Anchored, BLOCK, Keyring, MemoryAnchor, Options, Vault};

/// Some work on a copy, ended without closing.
fn work(image: &Image, anchor: &Option<Anchored>, history: &History, seed: u64, nonces: &mut Nonces) -> Tape {
    let tape = Tape::new(image.clone(), anchor.clone());
    let mut history = history.clone();
    let mut vault = open(&tape, &history).unwrap();
    let mut dice = Dice(seed);
    for _ in 0..14 {
        let op = Op::any(&mut dice);
        history.run(&tape, &mut vault, op).unwrap();
    }
    drop(vault);
    nonces.watch(&tape.reel());
    tape
}

#[test]
fn copies_turned_back_vaults_and_other_machines_use_other_nonces() {
    let (tape, history) = made();
    let mut nonces = Nonces::default();
    let image = tape.image();
    let first = work(&image, &None, &history, 1, &mut nonces);
    // The same folder, opened twelve times over from the same state, with the same writes: a rollback each time.
    for seed in [1, 1, 1, 2, 3, 4] {
        work(&image, &None, &history, seed, &mut nonces);
    }
    // A later state, copied: each copy goes its own way, and is copied again half-way.
    let later = first.image();
    let blind = |image: &Image, epoch: u32, seed: u64, nonces: &mut Nonces| {
        let tape = Tape::new(image.clone(), None);
        let ring = (1..9).fold(Keyring::new(epoch, key(epoch)), |ring, epoch| ring.with(epoch, key(epoch)));
        let how = Options { replace_anchor: true, ..options() };
        let vault = Vault::open(Arc::new(tape.clone()), ring, Arc::new(MemoryAnchor::default()), how).unwrap();
        let mut half = None;
        for nth in 0..30 {
            let (device, block) = (nth as usize % 2, nth as usize % 20);
            assert!(block < BLOCKS[device]);
            vault.device(NAMES[device]).unwrap().write((block * BLOCK) as u64, &page(seed, nth)).unwrap();
            if nth % 7 == 0 {
                vault.flush().unwrap();
            }
            if nth == 15 {
                half = Some(tape.image());
            }
        }
        vault.checkpoint().unwrap();
        nonces.watch(&tape.reel());
        half.unwrap()
    };
    for seed in 10..16 {
        let half = blind(&later, 8, seed, &mut nonces);
        blind(&half, 8, seed, &mut nonces);
        // Another machine, in a new epoch.
        let half = blind(&half, 9, seed, &mut nonces);
        blind(&half, 9, seed, &mut nonces);
    }
    println!("copies: {} slots and heads written, {} nonces", nonces.written, nonces.len());
    assert!(nonces.len() > 1000);
}

#[test]
fn what_could_not_be_written_is_written_as_it_was() {
    let (tape, history) = made();
    let (image, changes): (_, fn(Call) -> bool) = (tape.image(), |call| matches!(call, Call::Write | Call::Sync));
    let full = || std::io::ErrorKind::StorageFull.into();
    let all = std::sync::Mutex::new(Nonces::default());
    on_all_cores(0..60, |at| {
        let tape = Tape::new(image.clone(), None);
        let mut history = history.clone();
        let mut vault = open(&tape, &history).unwrap();
        tape.fail(Some(Fault { counts: changes, at, times: 2, error: full, done: at % 2 == 0 }));
        let mut dice = Dice(5);
        for _ in 0..25 {
            let op = match Op::any(&mut dice) {
                Op::Reopen => Op::Flush,
                op => op,
            };
            // Refused or not: other things are written next.
            let _ = history.run(&tape, &mut vault, op);
        }
        drop(vault);
        // The power goes too, and others write on from what is left.
        let mut nonces = Nonces::default();
        nonces.watch(&tape.reel());
        for cut in CUTS {
            let reel = tape.reel();
            let (image, anchor) = after(&reel, reel.events.len(), cut, &mut dice);
            drop(reel);
            let copy = Tape::new(image, anchor);
            let vault = open(&copy, &history).unwrap();
            vault.device(NAMES[0]).unwrap().write(0, &page(at, 1)).unwrap();
            vault.flush().unwrap();
            nonces.watch(&copy.reel());
        }
        let mut all = all.lock().unwrap();
        all.written += nonces.written;
        all.merge(nonces);
    });
    let all = all.into_inner().unwrap();
    println!("failed writes: {} slots and heads written, {} nonces", all.written, all.len());
}

/// The harness looks at what it should: a slot is what the paper says under the key that the paper says.
#[test]
fn the_paper_opens_what_the_vault_sealed() {
    let (tape, mut history) = made();
    let mut vault = open(&tape, &history).unwrap();
    history.run(&tape, &mut vault, Op::Write { device: 0, block: 7, count: 2, seed: 3 }).unwrap();
    vault.flush().unwrap();
    let image = tape.image();
    let keys = Keys { epoch: key(1), vault: image["vault"][40..56].try_into().unwrap() };
    let file = &image["s-0000000000000002"];
    assert_eq!((file.len() - START) / SLOT, 2);
    for nth in 0..2 {
        let body = keys.open(file, nth).unwrap();
        assert_eq!((body[0], body[2], body[8]), (1, 1, 7 + nth as u8));
        assert!(body[16..] == page(3, nth.into()));
    }
    assert!(keys.open_head(&image["head.a"]).is_some());
}
