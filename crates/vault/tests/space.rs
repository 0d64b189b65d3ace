//! However fast one writes, the files hold little more than twice what is needed; nobody is refused, nobody waits long.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use support::{check, open, roll, taken};
use twofold_vault::{BLOCK, Folder, MemoryAnchor, Options, SLOT, Vault};

const BLOCKS: u64 = 8000;
const SEGMENT: u64 = 64;

fn options() -> Options {
    Options { background: true, tail_limit: 2 << 20, ..support::options(SEGMENT as u32) }
}

/// Twice what is live, and 32 segments' worth for what is being written, moved and said about it.
fn bound(live: u64) -> u64 {
    (2 * live + 32 * SEGMENT) * SLOT as u64
}

fn overwrite(vault: &Vault, seed: u64, count: u64, mut each: impl FnMut()) {
    let (disk, mut dice) = (vault.device("disk").unwrap(), seed);
    for nth in 0..count {
        disk.write(roll(&mut dice, BLOCKS) * BLOCK as u64, &[nth as u8 | 1; BLOCK]).unwrap();
        if nth % 32 == 0 {
            disk.push().unwrap();
            each();
        }
    }
}

#[test]
fn the_cleaner_is_never_left_behind() {
    let (store, anchor, vault) = support::made(BLOCKS, options());
    vault.device("disk").unwrap().write(0, &vec![1; BLOCKS as usize * BLOCK]).unwrap();
    let done = AtomicBool::new(false);
    let mut most = 0;
    std::thread::scope(|scope| {
        for seed in 1..3 {
            let (vault, done) = (&vault, &done);
            scope.spawn(move || {
                overwrite(vault, seed, 15 * BLOCKS, || {});
                done.store(true, Ordering::Release);
            });
        }
        while !done.load(Ordering::Acquire) {
            // What a list of names says may be gone a moment later: such a file counts as nothing.
            most = most.max(taken(&store) as u64);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    });
    println!("at most {most} bytes of {} live", BLOCKS * SLOT as u64);
    assert!(most <= bound(BLOCKS), "{most} bytes, {} allowed", bound(BLOCKS));
    assert!(check(&vault).is_sound());
    vault.close().unwrap();
    assert!(check(&open(&store, &anchor, options()).unwrap()).is_sound());
}

#[test]
fn what_is_written_over_is_not_needed_any_more() {
    let (_, _, vault) = support::made(BLOCKS, support::options(1024));
    let disk = vault.device("disk").unwrap();
    let write = |byte| (0..100).for_each(|block| disk.write(block * BLOCK as u64, &[byte; BLOCK]).unwrap());
    write(1);
    let before = vault.space();
    (2..7).for_each(write);
    disk.zero(0, 50 * BLOCK as u64).unwrap();
    let (now, slots) = (vault.space(), |count| count * SLOT as u64);
    assert_eq!(now.live, before.live - slots(50));
    // What says that a range is zeroes is dead from the first.
    assert_eq!(now.dead, before.dead + slots(500 + 50 + 1));
}

#[test]
fn what_a_generation_needs_is_nobodys_debt() {
    let (store, _, vault) = support::made(BLOCKS, options());
    vault.device("disk").unwrap().write(0, &vec![1; BLOCKS as usize * BLOCK]).unwrap();
    let kept = vault.commit("kept").unwrap();
    overwrite(&vault, 3, 4 * BLOCKS, || {});
    let space = vault.space();
    assert!(space.live >= 2 * (BLOCKS - BLOCKS / 20) * SLOT as u64 * 19 / 20, "{space:?}");
    assert!(taken(&store) as u64 <= bound(2 * BLOCKS));
    // Dropped, it is found to be dead without anybody's asking.
    vault.drop_generation(kept.number).unwrap();
    for _ in 0..600 {
        if (taken(&store) as u64) < bound(BLOCKS) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("{} bytes are left", taken(&store));
}

#[test]
fn a_segment_that_ends_early_gives_back_what_it_took_in_advance() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("space");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let store = Arc::new(Folder::new(&folder));
    Vault::create(store.clone(), support::ring(), &support::disk(100)).unwrap();
    let options = Options { background: false, ..Options::default() };
    let vault = Vault::open(store, support::ring(), Arc::new(MemoryAnchor::default()), options).unwrap();
    let on_disk = || -> u64 {
        let files = std::fs::read_dir(&folder).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().blocks() * 512).sum()
    };
    for _ in 0..3 {
        vault.device("disk").unwrap().write(0, &[1; BLOCK]).unwrap();
        // Each ends a segment, of which 64 MiB were taken where the file system can.
        vault.commit("").unwrap();
    }
    assert!(on_disk() < 8 << 20, "{} bytes for a few blocks", on_disk());
    vault.close().unwrap();
}
