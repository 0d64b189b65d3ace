//! Small vaults in memory, for tests that need one to begin with.
#![allow(dead_code)]

use std::sync::Arc;

use twofold_vault::memory::Memory;
use twofold_vault::{BLOCK, DeviceSpec, Error, Keyring, MemoryAnchor, Options, Report, Store, Vault};

pub fn ring() -> Keyring {
    Keyring::new(1, [7; 32])
}

/// No thread of its own, nothing in reserve, small segments.
pub fn options(segment_slots: u32) -> Options {
    Options { background: false, reserve: 0, segment_slots, ..Options::default() }
}

/// A device called `disk`.
pub fn disk(blocks: u64) -> [DeviceSpec; 1] {
    [DeviceSpec { name: "disk".into(), size: blocks * BLOCK as u64 }]
}

/// A vault with one device, opened.
pub fn made(blocks: u64, options: Options) -> (Arc<Memory>, Arc<MemoryAnchor>, Vault) {
    let (store, anchor) = (Arc::new(Memory::new()), Arc::new(MemoryAnchor::default()));
    Vault::create(store.clone(), ring(), &disk(blocks)).unwrap();
    let vault = open(&store, &anchor, options).unwrap();
    (store, anchor, vault)
}

pub fn open(store: &Arc<Memory>, anchor: &Arc<MemoryAnchor>, options: Options) -> Result<Vault, Error> {
    Vault::open(store.clone(), ring(), anchor.clone(), options)
}

/// All of `disk`.
pub fn content(vault: &Vault) -> Vec<u8> {
    let disk = vault.device("disk").unwrap();
    let mut all = vec![0; disk.size() as usize];
    disk.read(0, &mut all).unwrap();
    all
}

pub fn check(vault: &Vault) -> Report {
    vault.check(&mut |_, _| {}).unwrap()
}

/// Bytes of all files.
pub fn taken(store: &Memory) -> usize {
    store.list().unwrap().iter().map(|name| store.bytes(name).map_or(0, |bytes| bytes.len())).sum()
}

/// A number below `n` (a linear congruential generator's upper bits).
pub fn roll(dice: &mut u64, n: u64) -> u64 {
    *dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(11);
    (*dice >> 33) % n
}
