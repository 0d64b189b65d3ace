//! Devices that get another size.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::sync::Arc;

use support::{check, content, made, open, options};
use twofold_vault::{BLOCK, Base, Change, Cleaning, DeviceSpec, Error, Options, RangeKind, Vault};

const B: u64 = BLOCK as u64;

struct Sevens;

impl Base for Sevens {
    fn read(&self, _: u64, buffer: &mut [u8]) -> Result<(), Error> {
        buffer.fill(7);
        Ok(())
    }
}

fn over_sevens(segment_slots: u32) -> Options {
    let bases = [("disk".to_owned(), Arc::new(Sevens) as Arc<dyn Base>)].into();
    Options { bases, ..options(segment_slots) }
}

/// The changed part of 1200 blocks, from a block on.
fn changed(vault: &Vault, since: u64) -> Vec<Change> {
    vault.device("disk").unwrap().changed(since, 0, 1200 * B, 9).unwrap()
}

#[test]
fn what_was_cut_off_and_grown_again_is_changed_and_so_is_growth_alone() {
    // Whole leaves, and parts of one.
    for (size, end) in [(1200, 600), (1200, 1100), (600, 600)] {
        let (store, anchor, vault) = made(size, options(64));
        let disk = vault.device("disk").unwrap();
        disk.write(0, &vec![1; size as usize * BLOCK]).unwrap();
        let kept = vault.commit("before").unwrap().number;
        vault.resize("disk", end * B).unwrap();
        vault.resize("disk", 1200 * B).unwrap();
        let told = [
            Change { offset: 0, length: end * B, changed: false },
            Change { offset: end * B, length: (1200 - end) * B, changed: true },
        ];
        let look = |vault: &Vault| {
            assert_eq!(changed(vault, kept), told);
            let all = content(vault);
            let cut = (end * B) as usize;
            assert!(all[..cut].iter().all(|byte| *byte == 1) && all[cut..].iter().all(|byte| *byte == 0));
            assert!(check(vault).is_sound());
        };
        look(&vault);
        vault.checkpoint().unwrap();
        look(&vault);
        look(&open(&Arc::new(store.cut(|_, _| 0)), &anchor, options(64)).unwrap());
        vault.clean(Cleaning { least_dead: 0.1, most: u64::MAX }).unwrap();
        look(&vault);
        vault.revert(kept).unwrap();
        assert!(content(&vault) == vec![1; size as usize * BLOCK]);
    }
}

#[test]
fn what_a_device_over_a_base_grows_by_is_zeroes() {
    let (store, anchor, vault) = made(1200, over_sevens(64));
    let disk = vault.device("disk").unwrap();
    for end in [600, 1100, 1200] {
        vault.resize("disk", end * B).unwrap();
    }
    vault.resize("disk", 1800 * B).unwrap();
    let look = |vault: &Vault| {
        let all = content(vault);
        let cut = 600 * BLOCK;
        assert!(all[..cut].iter().all(|byte| *byte == 7) && all[cut..].iter().all(|byte| *byte == 0));
    };
    look(&vault);
    let kinds: Vec<_> = disk.status(0, 1800 * B, 9).unwrap().iter().map(|range| range.kind).collect();
    assert_eq!(kinds, [RangeKind::Base, RangeKind::Zero]);
    look(&open(&Arc::new(store.cut(|_, _| 0)), &anchor, over_sevens(64)).unwrap());
    vault.checkpoint().unwrap();
    look(&vault);
    look(&open(&Arc::new(store.cut(|_, _| 0)), &anchor, over_sevens(64)).unwrap());
}

#[test]
fn a_resize_that_finds_no_room_leaves_the_device_as_large_as_it_was_and_writable() {
    for size in [600, 2400] {
        let (store, _, vault) = made(1200, options(64));
        let disk = vault.device("disk").unwrap();
        disk.write(0, &[1; BLOCK]).unwrap();
        vault.commit("the next write begins a file").unwrap();
        store.limit(Some(0));
        assert!(matches!(vault.resize("disk", size * B), Err(Error::NoSpace)));
        assert_eq!(disk.size(), 1200 * B);
        store.limit(None);
        disk.write(1199 * B, &[2; BLOCK]).unwrap();
        vault.resize("disk", size * B).unwrap();
        assert_eq!(content(&vault).len() as u64, size * B);
        assert_eq!(content(&vault)[0], 1);
    }
}

#[test]
fn a_device_that_is_closed_to_writing_keeps_its_size() {
    let (_, _, vault) = made(600, options(64));
    vault.freeze("disk").unwrap();
    for size in [512, 1200] {
        assert!(matches!(vault.resize("disk", size * B), Err(Error::ReadOnly)));
    }
    for size in [0, 1, B + 1, (1 << 44) + B] {
        assert!(matches!(vault.resize("disk", size), Err(Error::Invalid(_))));
    }
}

#[test]
fn a_device_that_is_reverted_to_another_size_can_be_written_as_far_as_that() {
    let (_, _, vault) = made(1200, options(64));
    let disk = vault.device("disk").unwrap();
    let large = vault.commit("large").unwrap().number;
    vault.resize("disk", 600 * B).unwrap();
    let small = vault.commit("small").unwrap().number;
    for (generation, blocks) in [(large, 1200), (small, 600), (large, 1200)] {
        vault.revert(generation).unwrap();
        disk.write((blocks - 1) * B, &[3; BLOCK]).unwrap();
        assert!(matches!(disk.write(blocks * B, &[3; BLOCK]), Err(Error::OutOfRange)));
        assert_eq!(content(&vault).len() as u64, blocks * B);
    }
}

#[test]
fn a_device_that_begins_again_is_its_base_and_no_other_device_is_touched() {
    let (store, anchor, vault) = made(1200, over_sevens(64));
    vault.add_device(&DeviceSpec { name: "user".into(), size: 40 * B }).unwrap();
    let (disk, user) = (vault.device("disk").unwrap(), vault.device("user").unwrap());
    disk.write(5 * B, &vec![1; 900 * BLOCK]).unwrap();
    user.write(0, &vec![3; 40 * BLOCK]).unwrap();
    let kept = vault.commit("before").unwrap().number;
    // In a map that is stored, in deltas, and in neither.
    disk.write(7 * B, &vec![2; 9 * BLOCK]).unwrap();
    user.write(3 * B, &vec![4; BLOCK]).unwrap();
    vault.checkpoint().unwrap();
    disk.write(9 * B, &vec![2; BLOCK]).unwrap();
    user.write(4 * B, &vec![5; BLOCK]).unwrap();
    let before = vault.head();
    for size in [0, 5] {
        assert!(matches!(vault.renew("disk", size, false), Err(Error::Invalid(_))));
    }
    assert_eq!(vault.head(), before);
    vault.renew("disk", 800 * B, true).unwrap();
    assert_ne!(vault.head(), before, "memory of before fits no more");
    let look = |vault: &Vault| {
        let (disk, all) = (vault.device("disk").unwrap(), content(vault));
        assert!(all.len() == 800 * BLOCK && all.iter().all(|byte| *byte == 7), "nothing is left of what was written");
        assert!(matches!(disk.write(0, &[1; BLOCK]), Err(Error::ReadOnly)));
        let mut theirs = vec![0; 40 * BLOCK];
        vault.device("user").unwrap().read(0, &mut theirs).unwrap();
        let of = |block: usize| theirs[block * BLOCK];
        assert_eq!([of(0), of(3), of(4), of(5), of(39)], [3, 4, 5, 3, 3]);
        assert!(disk.changed(kept, 0, 800 * B, 99).unwrap().iter().any(|one| one.offset <= 5 * B && one.changed));
        assert!(check(vault).is_sound());
    };
    look(&vault);
    look(&open(&Arc::new(store.cut(|_, _| 0)), &anchor, over_sevens(64)).unwrap());
    vault.clean(Cleaning { least_dead: 0.1, most: u64::MAX }).unwrap();
    vault.checkpoint().unwrap();
    look(&vault);
    vault.close().unwrap();
    let vault = open(&store, &anchor, over_sevens(64)).unwrap();
    look(&vault);
    vault.renew("disk", 1300 * B, false).unwrap();
    vault.device("disk").unwrap().write(1299 * B, &[9; BLOCK]).unwrap();
    assert!(content(&vault)[..1299 * BLOCK].iter().all(|byte| *byte == 7), "over the base, also where it grew");
    // What is kept stays as it was.
    vault.revert(kept).unwrap();
    let all = content(&vault);
    assert!(all.len() == 1200 * BLOCK && all[5 * BLOCK] == 1 && all[904 * BLOCK] == 1 && all[0] == 7);
    assert!(check(&vault).is_sound());
}
