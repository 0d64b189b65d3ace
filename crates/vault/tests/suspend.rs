//! A suspend that finds no room leaves nothing behind, and the guest may go on.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::sync::Arc;

use support::{check, content, taken};
use twofold_vault::memory::Memory;
use twofold_vault::{BLOCK, Cleaning, Error, MemoryAnchor, Options, SLOT, Vault};

const BLOCKS: u64 = 600;
const PAGES: usize = 500;

fn options() -> Options {
    support::options(128)
}

fn made() -> (Arc<Memory>, Arc<MemoryAnchor>, Vault) {
    let (store, anchor, vault) = support::made(BLOCKS, options());
    let disk = vault.device("disk").unwrap();
    for block in 0..BLOCKS {
        disk.write(block * BLOCK as u64, &[block as u8 | 1; BLOCK]).unwrap();
    }
    vault.flush().unwrap();
    (store, anchor, vault)
}

fn suspend(vault: &Vault) -> Result<u64, Error> {
    let mut writer = vault.stream_writer("memory", b"state")?;
    for page in 0..PAGES {
        writer.write((page * BLOCK) as u64, &[page as u8 | 1; BLOCK])?;
    }
    writer.finish((PAGES * BLOCK) as u64)
}

fn resumes(vault: &Vault) -> bool {
    let Ok(reader) = vault.stream_reader("memory") else { return false };
    let mut next = 0;
    let each = |offset: u64, data: &[u8]| {
        for page in data.chunks(BLOCK) {
            assert!(offset as usize % BLOCK == 0 && *page == [next as u8 | 1; BLOCK]);
            next += 1;
        }
        Ok(())
    };
    reader.read(each).unwrap();
    next == PAGES
}

/// The disk is full after `room` bytes more. Whether there was a suspended machine then.
fn fill_up(room: u64) -> bool {
    let (store, anchor, vault) = made();
    let (then, head) = (content(&vault), vault.head());
    store.limit(Some(taken(&store) as u64 + room));
    let result = suspend(&vault);
    let stored = !vault.streams().is_empty();
    match &result {
        Ok(_) => assert!(stored),
        Err(error) => assert!(matches!(error, Error::NoSpace), "{room}: {error}"),
    }
    assert!(!stored || resumes(&vault), "{room}: half of a machine");
    // The disks are as they were, also for whoever finds the vault after a power cut or a kill.
    for store in [store.cut(|_, _| 0), store.kill()] {
        let anchor = MemoryAnchor::new(twofold_vault::Anchor::load(&*anchor).unwrap());
        let found = support::open(&Arc::new(store), &Arc::new(anchor), options()).unwrap();
        assert!(content(&found) == then && found.head() == head && check(&found).is_sound());
        assert!(found.streams().is_empty() || resumes(&found), "{room}: half of a machine after a crash");
    }
    assert!(content(&vault) == then && vault.head() == head && check(&vault).is_sound());
    // The guest goes on as soon as it has what it needs itself.
    store.limit(Some(taken(&store) as u64 + 300 * SLOT as u64));
    vault.device("disk").unwrap().write(0, &[99; BLOCK]).unwrap();
    vault.flush().unwrap();
    assert!(vault.stream_reader("memory").is_err(), "memory of other disks");
    // What the failed attempt left in the files is the cleaner's, and then there is room for another.
    vault.clean(Cleaning { least_dead: 0.125, most: u64::MAX }).unwrap();
    store.limit(None);
    suspend(&vault).unwrap();
    vault.close().unwrap();
    let vault = support::open(&store, &anchor, options()).unwrap();
    assert!(resumes(&vault));
    stored
}

#[test]
fn no_room_at_any_point_leaves_nothing() {
    let slots = PAGES as u64 + 200;
    let stored = (0..slots).step_by(16).filter(|room| fill_up(room * SLOT as u64)).count();
    assert!((1..20).contains(&stored), "{stored}");
}

#[test]
fn a_failed_attempt_gives_its_space_back() {
    let (store, _, vault) = made();
    vault.clean(Cleaning::default()).unwrap();
    let before = taken(&store);
    store.limit(Some(before as u64 + 400 * SLOT as u64));
    assert!(matches!(suspend(&vault), Err(Error::NoSpace)));
    assert!(taken(&store) > before + 200 * SLOT);
    store.limit(None);
    // What is written next begins another segment; then nobody needs the old ones.
    vault.commit("next").unwrap();
    vault.clean(Cleaning::default()).unwrap();
    assert!(taken(&store) < before + 160 * SLOT, "{} of {before}", taken(&store));
}

/// Bytes that a generation of now would have sent.
fn sent(vault: &Vault) -> u64 {
    let made = vault.commit("").unwrap();
    vault.manifest(made.number, |_, _| None).unwrap().files.iter().map(|file| file.length).sum()
}

#[test]
fn what_a_resume_leaves_is_in_no_generation() {
    let (_, _, vault) = made();
    let before = sent(&vault);
    suspend(&vault).unwrap();
    vault.consume("memory").unwrap();
    let then = content(&vault);
    assert!(vault.sweep().unwrap().removed > 0);
    let after = sent(&vault);
    // Its last segment may hold something of the disks' too.
    assert!(after < before + (128 + 32) * SLOT as u64, "{before} before it slept, {after} now");
    assert!(content(&vault) == then && check(&vault).is_sound());
    assert_eq!(vault.sweep().unwrap().removed, 0, "nothing is left to do");
    vault.close().unwrap();
}
