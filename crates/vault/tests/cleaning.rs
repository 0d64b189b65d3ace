//! The cleaner: space comes back, data stays, and a server without keys can do the same.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::sync::Arc;

use support::{check, open, ring, roll, taken};
use twofold_vault::memory::Memory;
use twofold_vault::{BLOCK, Cleaning, Error, MemoryAnchor, Options, SLOT, Store, Vault};

const BLOCKS: u64 = 1000;

fn options() -> Options {
    support::options(256)
}

fn made() -> (Arc<Memory>, Arc<MemoryAnchor>, Vault) {
    support::made(BLOCKS, options())
}

/// Every block says which it is, and when it was written.
fn fill(vault: &Vault, round: u64, step: u64) {
    let disk = vault.device("disk").unwrap();
    for block in (0..BLOCKS).step_by(step as usize) {
        let mut data = [0; BLOCK];
        data[..8].copy_from_slice(&(block * 100 + round).to_le_bytes());
        disk.write(block * BLOCK as u64, &data).unwrap();
    }
}

fn content(vault: &Vault) -> Vec<u64> {
    let all = support::content(vault);
    all.chunks_exact(BLOCK).map(|block| u64::from_le_bytes(block[..8].try_into().unwrap())).collect()
}

#[test]
fn space_comes_back_and_packs_are_packed_again() {
    let (store, anchor, vault) = made();
    for round in 0..12 {
        fill(&vault, round, 1 + round % 4);
        let before = content(&vault);
        vault.clean(Cleaning { least_dead: 0.125, most: u64::MAX }).unwrap();
        assert_eq!(content(&vault), before);
    }
    let before = content(&vault);
    assert!(store.list().unwrap().iter().any(|name| name.starts_with("p-")));
    // The data, an eighth that may be dead in each file, and the log's end.
    assert!(taken(&store) < (BLOCKS as usize + 700) * SLOT, "{}", taken(&store) / SLOT);
    vault.close().unwrap();
    let again = open(&store, &anchor, options()).unwrap();
    assert_eq!(content(&again), before);
}

#[test]
fn a_recipe_makes_the_same_pack_without_a_key() {
    let (store, _, vault) = made();
    fill(&vault, 1, 1);
    fill(&vault, 2, 3);
    vault.checkpoint().unwrap();
    let before = store.kill();
    let done = vault.clean(Cleaning::default()).unwrap();
    assert!(!done.recipes.is_empty() && done.removed > done.moved);
    for recipe in done.recipes {
        let mut made = recipe.start.clone();
        for (file, offset, length) in &recipe.pieces {
            made.extend_from_slice(&before.bytes(file).unwrap()[*offset as usize..(offset + length) as usize]);
        }
        made.extend_from_slice(&recipe.start);
        assert_eq!(made.len() as u64, recipe.length);
        assert_eq!(*blake3::hash(&made).as_bytes(), recipe.digest);
        assert_eq!(store.bytes(&recipe.name).unwrap(), made);
    }
    for name in done.gone {
        assert!(store.bytes(&name).is_none());
    }
}

#[test]
fn what_is_moved_is_bounded() {
    let (_, _, vault) = made();
    // A thirteenth of each file is dead: to move the rest would not pay, whatever is asked.
    fill(&vault, 1, 1);
    fill(&vault, 2, 13);
    let all = Cleaning { least_dead: 0.0, most: u64::MAX };
    assert_eq!(vault.clean(all).unwrap().moved, 0);
    // A third is, and a pass moves no more than it may.
    fill(&vault, 3, 3);
    let most = 300 * SLOT as u64;
    let done = vault.clean(Cleaning { most, ..all }).unwrap();
    assert!(done.moved > 0 && done.moved <= most, "{}", done.moved);
    assert!(vault.clean(all).unwrap().moved > 0);
}

#[test]
fn generations_hold_what_they_need_until_they_are_dropped() {
    let (store, anchor, vault) = made();
    fill(&vault, 1, 1);
    let then = content(&vault);
    let kept = vault.commit("before").unwrap();
    fill(&vault, 2, 1);
    let now = content(&vault);
    vault.clean(Cleaning { least_dead: 0.125, most: u64::MAX }).unwrap();
    let held = taken(&store);
    assert!(held > 2 * BLOCKS as usize * SLOT);
    vault.revert(kept.number).unwrap();
    assert_eq!(content(&vault), then);
    vault.drop_generation(kept.number).unwrap();
    vault.clean(Cleaning { least_dead: 0.125, most: u64::MAX }).unwrap();
    assert!(taken(&store) < held - BLOCKS as usize * SLOT / 2);
    assert_eq!(content(&vault), then);
    assert_ne!(then, now);
    vault.close().unwrap();
    assert_eq!(content(&open(&store, &anchor, options()).unwrap()), then);
}

#[test]
fn a_full_disk_refuses_writes_and_cleaning_makes_room() {
    let (store, anchor, vault) = made();
    vault.close().unwrap();
    let reserve = 700 * SLOT as u64;
    let options = Options { reserve, ..options() };
    let vault = Vault::open(store.clone(), ring(), anchor, options).unwrap();
    fill(&vault, 1, 1);
    vault.flush().unwrap();
    store.limit(Some(taken(&store) as u64 + reserve + 1000 * SLOT as u64));
    let disk = vault.device("disk").unwrap();
    let mut written = 0;
    let refused = loop {
        match disk.write(written % 100 * BLOCK as u64, &[9; BLOCK]) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::NoSpace), "{refused}");
    assert!(written > 300);
    vault.flush().unwrap();
    let before = content(&vault);
    assert!(vault.clean(Cleaning::default()).unwrap().removed > 0);
    assert_eq!(content(&vault), before);
    disk.write(0, &[8; BLOCK]).unwrap();
}

#[test]
fn a_small_disk_is_enough_as_long_as_the_cleaner_can_make_room() {
    let (store, anchor, vault) = made();
    vault.close().unwrap();
    let options = Options { background: true, reserve: 1024 * SLOT as u64, tail_limit: 1 << 20, ..options() };
    let vault = Vault::open(store.clone(), ring(), anchor, options).unwrap();
    fill(&vault, 1, 1);
    store.limit(Some(5000 * SLOT as u64));
    let (disk, mut dice) = (vault.device("disk").unwrap(), 5u64);
    for _ in 0..20_000 {
        disk.write(roll(&mut dice, BLOCKS) * BLOCK as u64, &[7; BLOCK]).unwrap();
    }
    disk.flush().unwrap();
    assert!(check(&vault).is_sound());
}

#[test]
fn whoever_holds_the_files_or_commits_waits_for_a_step_and_not_for_a_pass() {
    const MANY: u64 = 8000;
    let (store, _, vault) = support::made(MANY, support::options(16));
    let disk = vault.device("disk").unwrap();
    let mut dice = 1;
    for nth in 0..2 * MANY {
        let block = if nth < MANY { nth } else { roll(&mut dice, MANY) };
        disk.write(block * BLOCK as u64, &[nth as u8 | 1; BLOCK]).unwrap();
    }
    let names = || -> Vec<String> { store.list().unwrap() };
    vault.checkpoint().unwrap();
    let before = names();
    std::thread::scope(|scope| {
        let pass = scope.spawn(|| vault.clean(Cleaning { least_dead: 0.125, most: u64::MAX }).unwrap());
        while !names().iter().any(|name| name.starts_with("p-")) {
            std::thread::yield_now();
        }
        vault.commit("in the midst").unwrap();
        let hold = vault.hold();
        let held = names();
        // The pass finds the hold, and leaves what there is.
        let done = pass.join().unwrap();
        assert!(done.removed > 0 && before.iter().filter(|name| held.contains(name)).count() > 100);
        assert!(held.iter().all(|name| store.bytes(name).is_some()));
        drop(hold);
    });
    assert!(vault.clean(Cleaning { least_dead: 0.125, most: u64::MAX }).unwrap().removed > 0);
    assert!(check(&vault).is_sound());
}
