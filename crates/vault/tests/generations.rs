//! Generations, and devices that came or grew since.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;

use support::{check, made, open, options};
use twofold_vault::{BLOCK, Change, DeviceSpec, Range, RangeKind, Vault};

const SIZE: u64 = 600 * BLOCK as u64;

#[test]
fn a_device_that_is_younger_than_a_generation_is_empty_after_the_revert() {
    let (store, anchor, vault) = made(600, options(64));
    let kept = vault.commit("before").unwrap();
    vault.add_device(&DeviceSpec { name: "more".into(), size: SIZE }).unwrap();
    let more = vault.device("more").unwrap();
    // Of its map one leaf is stored, and one is in memory.
    more.write(0, &[1; BLOCK]).unwrap();
    vault.checkpoint().unwrap();
    more.write(SIZE - BLOCK as u64, &[2; BLOCK]).unwrap();
    vault.revert(kept.number).unwrap();
    let look = |vault: &Vault| {
        let more = vault.device("more").unwrap();
        let mut all = vec![9; more.size() as usize];
        more.read(0, &mut all).unwrap();
        assert!(all.len() as u64 == SIZE && all.iter().all(|byte| *byte == 0));
        let hole = Range { offset: 0, length: SIZE, kind: RangeKind::Hole };
        assert_eq!(more.status(0, SIZE, 9).unwrap(), [hole]);
        assert!(check(vault).is_sound());
    };
    look(&vault);
    look(&open(&Arc::new(store.cut(|_, _| 0)), &anchor, options(64)).unwrap());
}

#[test]
fn what_a_device_has_grown_by_is_changed() {
    let (_, _, vault) = made(600, options(64));
    let disk = vault.device("disk").unwrap();
    disk.write(0, &[1; BLOCK]).unwrap();
    let kept = vault.commit("small").unwrap();
    // From a revert on the maps of then and now are compared, of which the one ends in the midst of a leaf.
    vault.revert(kept.number).unwrap();
    vault.resize("disk", 2 * SIZE).unwrap();
    let part = |offset, changed| Change { offset, length: SIZE, changed };
    assert_eq!(disk.changed(kept.number, 0, 2 * SIZE, 9).unwrap(), [part(0, false), part(SIZE, true)]);
}
