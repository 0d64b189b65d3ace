//! A vault is made, opened, written, read and opened again.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;

use support::ring;
use twofold_vault::memory::Memory;
use twofold_vault::{DeviceSpec, Error, Keyring, MemoryAnchor, Options, RangeKind, SLOTS, Vault};

const MIB: u64 = 1 << 20;

fn options() -> Options {
    support::options(SLOTS)
}

fn specs() -> [DeviceSpec; 2] {
    [DeviceSpec { name: "disk".into(), size: 64 * MIB }, DeviceSpec { name: "vars".into(), size: MIB }]
}

fn made() -> (Arc<Memory>, Arc<MemoryAnchor>) {
    let store = Arc::new(Memory::new());
    Vault::create(store.clone(), ring(), &specs()).unwrap();
    (store, Arc::new(MemoryAnchor::default()))
}

fn open(store: &Arc<Memory>, anchor: &Arc<MemoryAnchor>) -> Result<Vault, Error> {
    support::open(store, anchor, options())
}

#[test]
fn what_was_written_is_read_also_after_closing_and_killing() {
    let (store, anchor) = made();
    let vault = open(&store, &anchor).unwrap();
    let (disk, vars) = (vault.device("disk").unwrap(), vault.device("vars").unwrap());
    let head = vault.head();
    disk.write(8192, &[5; 12288]).unwrap();
    vars.write(100, b"odd").unwrap();
    assert_ne!(vault.head(), head);
    disk.zero(12288, 4096).unwrap();
    let check = |vault: &Vault| {
        let (disk, vars) = (vault.device("disk").unwrap(), vault.device("vars").unwrap());
        let mut all = vec![1; 24576];
        disk.read(0, &mut all).unwrap();
        assert!(all[..8192].iter().all(|byte| *byte == 0) && all[8192..12288].iter().all(|byte| *byte == 5));
        assert!(all[12288..16384].iter().all(|byte| *byte == 0) && all[16384..20480].iter().all(|byte| *byte == 5));
        let mut odd = [1; 5];
        vars.read(99, &mut odd).unwrap();
        assert_eq!(&odd, b"\0odd\0");
        let kinds: Vec<_> = disk.status(0, 24576, 9).unwrap().iter().map(|range| range.kind).collect();
        use RangeKind::{Data, Hole, Zero};
        assert_eq!(kinds, [Hole, Data, Zero, Data, Hole]);
    };
    check(&vault);
    vault.flush().unwrap();
    let killed = Arc::new(store.cut(|_, _| 0));
    check(&open(&killed, &anchor).unwrap());
    let head = vault.head();
    vault.close().unwrap();
    assert!(matches!(disk.read(0, &mut [0; 1]), Err(Error::Closed)));
    let again = open(&store, &anchor).unwrap();
    assert_eq!(again.head(), head);
    check(&again);
}

#[test]
fn a_second_opener_gets_a_clear_no() {
    let (store, anchor) = made();
    let vault = open(&store, &anchor).unwrap();
    assert!(matches!(open(&store, &anchor), Err(Error::Busy)));
    vault.close().unwrap();
    open(&store, &anchor).unwrap();
}

#[test]
fn a_wrong_key_a_second_making_and_an_empty_folder_are_told_apart() {
    let (store, anchor) = made();
    let other = Vault::open(store.clone(), Keyring::new(1, [8; 32]), anchor.clone(), options());
    assert!(matches!(other, Err(Error::WrongKey(_))), "{:?}", other.err());
    assert!(matches!(Vault::create(store, ring(), &specs()), Err(Error::Exists)));
    assert!(matches!(open(&Arc::new(Memory::new()), &anchor), Err(Error::NotAVault)));
}

#[test]
fn a_device_grows_shrinks_and_can_be_closed_to_writing() {
    let (store, anchor) = made();
    let vault = open(&store, &anchor).unwrap();
    let disk = vault.device("disk").unwrap();
    disk.write(32 * MIB, &vec![5; MIB as usize]).unwrap();
    disk.write(0, &[6; 4096]).unwrap();
    let head = vault.head();
    vault.resize("disk", 16 * MIB).unwrap();
    assert_ne!(vault.head(), head);
    assert!(matches!(disk.read(16 * MIB, &mut [0]), Err(Error::OutOfRange)));
    vault.resize("disk", 3 << 30).unwrap();
    vault.set_read_only("vars", true).unwrap();
    let mut data = vec![1; MIB as usize];
    disk.read(32 * MIB, &mut data).unwrap();
    assert!(data.iter().all(|byte| *byte == 0));
    disk.write((3 << 30) - 4096, &[7; 4096]).unwrap();
    vault.close().unwrap();
    let vault = open(&store, &anchor).unwrap();
    assert_eq!(vault.devices()[0].size, 3 << 30);
    let disk = vault.device("disk").unwrap();
    for (offset, byte) in [(0, 6), (32 * MIB, 0), ((3 << 30) - 1, 7)] {
        disk.read(offset, &mut data[..1]).unwrap();
        assert_eq!(data[0], byte);
    }
    assert!(matches!(vault.device("vars").unwrap().write(0, &[1]), Err(Error::ReadOnly)));
}

#[test]
fn a_device_that_is_closed_for_good_stays_closed_after_a_power_cut() {
    let (store, anchor) = made();
    let vault = open(&store, &anchor).unwrap();
    // No room for a segment to say it in: then it is as it was.
    store.limit(Some(0));
    assert!(matches!(vault.freeze("disk"), Err(Error::NoSpace)));
    store.limit(None);
    let disk = vault.device("disk").unwrap();
    disk.write(0, &[5; 4096]).unwrap();
    vault.freeze("disk").unwrap();
    assert!(matches!(disk.write(0, &[6; 4096]), Err(Error::ReadOnly)));
    let cut = Arc::new(store.cut(|_, _| 0));
    let vault = open(&cut, &anchor).unwrap();
    assert!(matches!(vault.device("disk").unwrap().write(0, &[6; 4096]), Err(Error::ReadOnly)));
    vault.close().unwrap();
    let looking = Options { read_only: true, ..options() };
    let vault = support::open(&cut, &anchor, looking).unwrap();
    assert!(matches!(vault.freeze("vars"), Err(Error::ReadOnly)));
}

#[test]
fn one_write_may_be_larger_than_a_segment() {
    let (store, anchor) = made();
    let vault = open(&store, &anchor).unwrap();
    vault.resize("disk", 80 * MIB).unwrap();
    let data: Vec<u8> = (0..72 * MIB).map(|byte| (byte >> 12) as u8 | 1).collect();
    let disk = vault.device("disk").unwrap();
    disk.write(MIB, &data).unwrap();
    vault.flush().unwrap();
    let vault = open(&Arc::new(store.cut(|_, _| 0)), &anchor).unwrap();
    let mut found = vec![0; data.len()];
    vault.device("disk").unwrap().read(MIB, &mut found).unwrap();
    assert!(found == data);
}
