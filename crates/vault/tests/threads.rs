//! Many threads at once on a real folder: readers never see the cleaner, checkpoints or each other.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{check, roll};
use twofold_vault::{BLOCK, Cleaning, DeviceSpec, FileAnchor, Folder, Keyring, Options, Vault};

const WRITERS: u64 = 3;
/// Blocks of each writer: its own, so that it knows what must be there.
const EACH: u64 = 1500;

fn room(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(path.join("vault")).unwrap();
    path
}

#[test]
fn readers_writers_and_the_cleaner_do_not_disturb_each_other() {
    let room = room("threads");
    let (store, ring) = (Arc::new(Folder::new(room.join("vault"))), Keyring::new(1, [3; 32]));
    let size = WRITERS * EACH * BLOCK as u64;
    Vault::create(store.clone(), ring.clone(), &[DeviceSpec { name: "disk".into(), size }]).unwrap();
    let anchor = Arc::new(FileAnchor::new(room.join("anchor")));
    let options = Options {
        segment_slots: 512,
        tail_limit: 2 << 20,
        delta_limit: 8,
        map_memory: 16 << 10,
        reserve: 0,
        ..Options::default()
    };
    let vault = Vault::open(store.clone(), ring.clone(), anchor.clone(), options).unwrap();
    let stop = AtomicBool::new(false);
    let versions: Vec<AtomicU64> = (0..WRITERS * EACH).map(|_| AtomicU64::new(0)).collect();
    let until = Instant::now() + Duration::from_millis(2500);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (vault, versions, stop) = (&vault, &versions, &stop);
            scope.spawn(move || {
                let disk = vault.device("disk").unwrap();
                let mut dice = writer + 1;
                let mut data = [0; BLOCK];
                while Instant::now() < until {
                    let block = writer * EACH + roll(&mut dice, EACH);
                    let version = versions[block as usize].load(Ordering::SeqCst) + 1;
                    data[..8].copy_from_slice(&block.to_le_bytes());
                    data[8..16].copy_from_slice(&version.to_le_bytes());
                    disk.write(block * BLOCK as u64, &data).unwrap();
                    versions[block as usize].store(version, Ordering::SeqCst);
                    if version % 16 == 0 {
                        disk.push().unwrap();
                    }
                }
                stop.store(true, Ordering::SeqCst);
            });
        }
        scope.spawn(|| {
            let disk = vault.device("disk").unwrap();
            let (mut dice, mut data) = (99u64, [0; BLOCK]);
            while !stop.load(Ordering::SeqCst) {
                let block = roll(&mut dice, WRITERS * EACH);
                let before = versions[block as usize].load(Ordering::SeqCst);
                disk.read(block * BLOCK as u64, &mut data).unwrap();
                let found = u64::from_le_bytes(data[8..16].try_into().unwrap());
                assert!(found >= before, "block {block} went back from {before} to {found}");
                assert!(found == 0 || data[..8] == block.to_le_bytes());
            }
        });
        scope.spawn(|| {
            let mut removed = 0;
            while !stop.load(Ordering::SeqCst) {
                removed += vault.clean(Cleaning { least_dead: 0.125, most: u64::MAX }).unwrap().removed;
                vault.flush().unwrap();
            }
            assert!(removed > 0, "nothing was cleaned");
        });
    });
    assert!(check(&vault).is_sound());
    vault.close().unwrap();
    let vault = Vault::open(store, ring, anchor, Options::default()).unwrap();
    let disk = vault.device("disk").unwrap();
    let mut data = [0; BLOCK];
    for (block, version) in versions.iter().enumerate() {
        disk.read(block as u64 * BLOCK as u64, &mut data).unwrap();
        assert_eq!(u64::from_le_bytes(data[8..16].try_into().unwrap()), version.load(Ordering::SeqCst));
    }
}
