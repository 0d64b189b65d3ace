//! A device over a base, against a plain disk: written, trimmed, zeroed, grown, put back, killed and cut off.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod harness;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use harness::{Dice, on_all_cores, setting};
use twofold_vault::memory::Memory;
use twofold_vault::{BLOCK, Base, Cleaning, DeviceSpec, Error, Keyring, MemoryAnchor, Options, RangeKind, Vault};

const BLOCKS: usize = 512 + 40;
const SIZE: usize = BLOCKS * BLOCK;
/// The base ends before the device does.
const ENDS: usize = 500 * BLOCK;

/// Noise with holes in it; some of it can be away.
struct Image {
    bytes: Vec<u8>,
    away: Mutex<Vec<(u64, u64)>>,
    reads: AtomicU64,
}

impl Image {
    fn new(dice: &mut Dice) -> Arc<Self> {
        let mut bytes = vec![0; SIZE];
        for block in bytes[..ENDS].chunks_mut(BLOCK) {
            if dice.chance(70) {
                block.chunks_mut(8).for_each(|word| word.copy_from_slice(&dice.roll().to_le_bytes()));
            }
        }
        Arc::new(Self { bytes, away: Mutex::default(), reads: AtomicU64::new(0) })
    }

    fn hole(&self, at: usize) -> bool {
        self.bytes[at..at + BLOCK].iter().all(|byte| *byte == 0)
    }
}

impl Base for Image {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        assert!(offset % BLOCK as u64 == 0 && buffer.len() % BLOCK == 0, "whole blocks");
        self.reads.fetch_add(1, Ordering::Relaxed);
        let end = offset + buffer.len() as u64;
        let away = self.away.lock().unwrap().iter().copied().find(|(from, to)| *from < end && offset < *to);
        if let Some((from, to)) = away {
            let from = from.max(offset);
            return Err(Error::Away { offset: from, length: to.min(end) - from });
        }
        let at = offset as usize;
        buffer.copy_from_slice(&self.bytes[at..at + buffer.len()]);
        Ok(())
    }

    fn extent(&self, offset: u64) -> (bool, u64) {
        let at = offset as usize;
        let hole = self.hole(at);
        let same = (at..SIZE).step_by(BLOCK).take_while(|at| self.hole(*at) == hole).count();
        (!hole, (same * BLOCK) as u64)
    }
}

fn ring() -> Keyring {
    Keyring::new(1, [4; 32])
}

fn options(base: &Arc<Image>) -> Options {
    let bases = [("disk".to_owned(), Arc::clone(base) as Arc<dyn Base>)].into();
    Options {
        background: false,
        reserve: 0,
        segment_slots: 64,
        tail_limit: 150 * BLOCK as u64,
        bases,
        ..Options::default()
    }
}

struct World {
    store: Arc<Memory>,
    anchor: Arc<MemoryAnchor>,
    base: Arc<Image>,
    vault: Vault,
    now: Vec<u8>,
    possible: Vec<Vec<u8>>,
    kept: BTreeMap<u64, Vec<u8>>,
}

impl World {
    fn new(dice: &mut Dice) -> Self {
        let (store, anchor, base) = (Arc::new(Memory::new()), Arc::new(MemoryAnchor::default()), Image::new(dice));
        Vault::create(store.clone(), ring(), &[DeviceSpec { name: "disk".into(), size: SIZE as u64 }]).unwrap();
        let vault = Vault::open(store.clone(), ring(), anchor.clone(), options(&base)).unwrap();
        let now = base.bytes.clone();
        Self { store, anchor, base, vault, possible: vec![now.clone()], now, kept: BTreeMap::new() }
    }

    fn read(&self) -> Vec<u8> {
        let mut all = vec![1; SIZE];
        self.vault.device("disk").unwrap().read(0, &mut all).unwrap();
        all
    }

    fn changed(&mut self, at: usize, data: &[u8]) {
        self.now[at..at + data.len()].copy_from_slice(data);
        self.possible.push(self.now.clone());
    }

    fn lasts(&mut self) {
        self.possible = vec![self.now.clone()];
    }

    fn reopen(&mut self) {
        self.vault = Vault::open(self.store.clone(), ring(), self.anchor.clone(), options(&self.base)).unwrap();
        let found = self.read();
        assert!(self.possible.contains(&found), "a state that never was since the last flush");
        self.now = found;
        self.lasts();
    }

    fn step(&mut self, dice: &mut Dice) {
        let device = self.vault.device("disk").unwrap();
        let whole = dice.chance(60);
        let unit = if whole { BLOCK } else { 1 };
        let at = dice.below(SIZE / unit) * unit;
        let length = ((1 + dice.below(20)) * if whole { BLOCK } else { 700 }).min(SIZE - at);
        match dice.below(20) {
            0..6 => {
                let seed = dice.roll() as u8;
                let data: Vec<_> = (0..length).map(|nth| seed.wrapping_add((nth / 64) as u8) | 1).collect();
                device.write(at as u64, &data).unwrap();
                self.changed(at, &data);
            }
            6..8 if whole => {
                device.zero(at as u64, length as u64).unwrap();
                self.changed(at, &vec![0; length]);
            }
            8..10 if whole => {
                device.trim(at as u64, length as u64).unwrap();
                self.changed(at, &vec![0; length]);
            }
            10 => {
                let number = self.vault.commit("a test").unwrap().number;
                self.kept.insert(number, self.now.clone());
                self.lasts();
            }
            11 if !self.kept.is_empty() => {
                let (number, then) = self.kept.iter().nth(dice.below(self.kept.len())).unwrap();
                self.vault.revert(*number).unwrap();
                self.now = then.clone();
                self.lasts();
            }
            12 => {
                self.vault.clean(Cleaning { least_dead: 0.2, most: u64::MAX }).unwrap();
                self.lasts();
            }
            13 => {
                self.vault.close().unwrap();
                self.lasts();
                self.reopen();
            }
            14 => {
                device.push().unwrap();
                let part = dice.below(256);
                self.store = Arc::new(self.store.cut(|_, more| more * part / 255));
                self.reopen();
            }
            15 => {
                self.vault.flush().unwrap();
                self.lasts();
            }
            16 => {
                self.vault.renew("disk", SIZE as u64, false).unwrap();
                self.now = self.base.bytes.clone();
                self.lasts();
            }
            _ => {}
        }
    }

    fn check(&self) {
        assert!(self.read() == self.now, "the device differs");
        let device = self.vault.device("disk").unwrap();
        let mut end = 0;
        for range in device.status(0, SIZE as u64, usize::MAX).unwrap() {
            assert_eq!(range.offset, end);
            end += range.length;
            let place = range.offset as usize..end as usize;
            match range.kind {
                RangeKind::Data => {}
                RangeKind::Base => assert!(self.now[place.clone()] == self.base.bytes[place], "said to be the base's"),
                RangeKind::Hole | RangeKind::Zero => assert!(self.now[place].iter().all(|byte| *byte == 0)),
            }
        }
        assert_eq!(end, SIZE as u64);
        for (number, then) in &self.kept {
            for change in device.changed(*number, 0, SIZE as u64, usize::MAX).unwrap() {
                let place = change.offset as usize..(change.offset + change.length) as usize;
                assert!(change.changed || self.now[place.clone()] == then[place], "a change was not told");
            }
        }
    }
}

#[test]
fn a_device_over_a_base_is_a_disk() {
    let (from, count) = (setting("TWOFOLD_FROM", 0), setting("TWOFOLD_SEEDS", 48));
    on_all_cores(from..from + count, |seed| {
        let mut dice = Dice(seed);
        let mut world = World::new(&mut dice);
        world.check();
        for _ in 0..40 {
            world.step(&mut dice);
            world.check();
        }
    });
}

#[test]
fn a_base_takes_no_space_and_is_not_read_where_it_was_written_over() {
    let mut world = World::new(&mut Dice(1));
    let device = world.vault.device("disk").unwrap();
    let empty = world.vault.info().live;
    assert!(world.read() == world.now);
    world.vault.checkpoint().unwrap();
    assert_eq!(world.vault.info().live, empty);
    device.write(0, &vec![9; SIZE]).unwrap();
    let reads = world.base.reads.load(Ordering::Relaxed);
    assert!(world.read().iter().all(|byte| *byte == 9));
    assert_eq!(world.base.reads.load(Ordering::Relaxed), reads);
    world.vault.close().unwrap();
    world.possible = vec![vec![9; SIZE]];
    world.reopen();
}

#[test]
fn what_is_away_is_named_exactly_and_the_rest_can_be_read_and_written() {
    let world = World::new(&mut Dice(2));
    let device = world.vault.device("disk").unwrap();
    let (from, to) = (10 * BLOCK, 13 * BLOCK);
    *world.base.away.lock().unwrap() = vec![(from as u64, to as u64)];
    let mut some = vec![0; 20 * BLOCK];
    let away =
        |error| matches!(error, Error::Away { offset, length } if (offset, length) == (from as u64, 3 * BLOCK as u64));
    assert!(away(device.read(0, &mut some).unwrap_err()));
    assert!(matches!(device.try_read(0, &mut some).unwrap_err(), Error::WouldBlock));
    device.read(0, &mut some[..from]).unwrap();
    device.read(to as u64, &mut some[..BLOCK]).unwrap();
    // A whole block needs nothing of what was there; a part of one does, and nothing is changed.
    let head = world.vault.head();
    assert!(matches!(device.write(from as u64 + 5, &[1; 7]).unwrap_err(), Error::Away { .. }));
    assert_eq!(world.vault.head(), head);
    device.write(from as u64, &[7; 3 * BLOCK]).unwrap();
    device.read(0, &mut some).unwrap();
    assert!(some[from..to].iter().all(|byte| *byte == 7));
}
