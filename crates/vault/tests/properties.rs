//! Any sequence of operations, against plain disks in memory: closing, killing and cutting the power included.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use twofold_vault::memory::Memory;
use twofold_vault::{BLOCK, Cleaning, DeviceSpec, Keyring, MemoryAnchor, Options, RangeKind, Vault};

/// One leaf and a bit, and a small one.
const SIZES: [usize; 2] = [(512 + 40) * BLOCK, 24 * BLOCK];
const NAMES: [&str; 2] = ["disk", "vars"];

#[derive(Clone, Debug)]
enum Op {
    Write { device: usize, offset: usize, length: usize, seed: u8 },
    Zero { device: usize, offset: usize, length: usize },
    Trim { device: usize, offset: usize, length: usize },
    Regrow { device: usize, offset: usize },
    Flush,
    Checkpoint,
    Tend,
    Commit,
    Revert(usize),
    Drop(usize),
    Clean,
    Stream(u8),
    Reopen,
    Kill,
    Cut(u8),
}

fn place() -> impl Strategy<Value = (usize, usize, usize)> {
    (0..2usize, any::<prop::sample::Index>(), 0..5u8, 1..40usize).prop_map(|(device, at, form, blocks)| {
        let size = SIZES[device];
        let offset = match form {
            0 => at.index(size),
            1 => at.index(size) / 512 * 512,
            _ => at.index(size) / BLOCK * BLOCK,
        };
        let length = if form < 2 { blocks * 700 } else { blocks * BLOCK };
        (device, offset, length.min(size - offset))
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (place(), any::<u8>()).prop_map(|((device, offset, length), seed)| Op::Write { device, offset, length, seed }),
        3 => place().prop_map(|(device, offset, length)| Op::Zero { device, offset, length }),
        2 => place().prop_map(|(device, offset, length)| Op::Trim { device, offset, length }),
        2 => place().prop_map(|(device, offset, _)| Op::Regrow { device, offset }),
        2 => Just(Op::Flush),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Tend),
        2 => Just(Op::Commit),
        1 => (0..4usize).prop_map(Op::Revert),
        1 => (0..4usize).prop_map(Op::Drop),
        2 => Just(Op::Clean),
        1 => any::<u8>().prop_map(Op::Stream),
        2 => Just(Op::Reopen),
        2 => Just(Op::Kill),
        2 => any::<u8>().prop_map(Op::Cut),
    ]
}

type Disks = [Vec<u8>; 2];

struct World {
    store: Arc<Memory>,
    anchor: Arc<MemoryAnchor>,
    vault: Vault,
    now: Disks,
    /// The states since the last flush, the flushed one first: one of them is found after a power cut.
    possible: Vec<Disks>,
    kept: BTreeMap<u64, Disks>,
    stream: Option<(Vec<u8>, String)>,
}

fn options() -> Options {
    Options {
        background: false,
        reserve: 0,
        segment_slots: 64,
        tail_limit: 150 * BLOCK as u64,
        delta_limit: 4,
        ..Options::default()
    }
}

fn bytes(seed: u8, length: usize) -> Vec<u8> {
    // Some seeds give zeroes, some a block that repeats.
    (0..length).map(|i| if seed < 20 { 0 } else { seed ^ (i / 64) as u8 }).collect()
}

impl World {
    fn new() -> Self {
        let store = Arc::new(Memory::new());
        let specs: Vec<_> = (0..2).map(|i| DeviceSpec { name: NAMES[i].into(), size: SIZES[i] as u64 }).collect();
        Vault::create(store.clone(), ring(), &specs).unwrap();
        let anchor = Arc::new(MemoryAnchor::default());
        let vault = Vault::open(store.clone(), ring(), anchor.clone(), options()).unwrap();
        let now = SIZES.map(|size| vec![0; size]);
        Self { store, anchor, vault, possible: vec![now.clone()], now, kept: BTreeMap::new(), stream: None }
    }

    fn change(&mut self, device: usize, offset: usize, data: &[u8]) {
        if !data.is_empty() {
            self.now[device][offset..offset + data.len()].copy_from_slice(data);
            self.possible.push(self.now.clone());
        }
    }

    fn flushed(&mut self) {
        self.possible = vec![self.now.clone()];
    }

    fn read(&self) -> Disks {
        [0, 1].map(|i| {
            let device = self.vault.device(NAMES[i]).unwrap();
            let mut all = vec![0; SIZES[i]];
            device.read(0, &mut all).unwrap();
            all
        })
    }

    fn open(&mut self) {
        self.vault = Vault::open(self.store.clone(), ring(), self.anchor.clone(), options()).unwrap();
        let found = self.read();
        let known = self.possible.contains(&found);
        assert!(known, "the state found was never there since the last flush");
        self.now = found;
        self.flushed();
        let kept: Vec<_> = self.vault.generations().iter().map(|generation| generation.number).collect();
        assert_eq!(kept, self.kept.keys().copied().collect::<Vec<_>>());
    }

    fn zeroes(&mut self, device: usize, offset: usize, length: usize, edges: bool) {
        let end = offset + length;
        let (first, behind) = (offset.next_multiple_of(BLOCK), end / BLOCK * BLOCK);
        if edges && first >= behind {
            return self.change(device, offset, &vec![0; length]);
        }
        if edges {
            self.change(device, offset, &vec![0; first - offset]);
            self.change(device, behind, &vec![0; end - behind]);
        }
        if first < behind {
            self.change(device, first, &vec![0; behind - first]);
        }
    }

    fn generation(&self, nth: usize) -> Option<u64> {
        self.kept.keys().nth(nth).copied()
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Write { device, offset, length, seed } => {
                let data = bytes(*seed, *length);
                self.vault.device(NAMES[*device]).unwrap().write(*offset as u64, &data).unwrap();
                // A batch is at most half a segment; a longer write is several.
                let mut at = 0;
                while at < data.len() {
                    let here = offset + at;
                    let most =
                        if offset % BLOCK == 0 && length % BLOCK == 0 { 32 * BLOCK } else { 31 * BLOCK - here % BLOCK };
                    let size = most.min(data.len() - at);
                    self.change(*device, here, &data[at..at + size]);
                    at += size;
                }
            }
            Op::Zero { device, offset, length } => {
                self.vault.device(NAMES[*device]).unwrap().zero(*offset as u64, *length as u64).unwrap();
                self.zeroes(*device, *offset, *length, true);
            }
            Op::Trim { device, offset, length } => {
                self.vault.device(NAMES[*device]).unwrap().trim(*offset as u64, *length as u64).unwrap();
                self.zeroes(*device, *offset, *length, false);
            }
            Op::Regrow { device, offset } => {
                let end = (offset / BLOCK).max(1) * BLOCK;
                self.vault.resize(NAMES[*device], end as u64).unwrap();
                self.vault.resize(NAMES[*device], SIZES[*device] as u64).unwrap();
                self.now[*device][end..].fill(0);
                self.flushed();
            }
            Op::Flush => {
                self.vault.flush().unwrap();
                self.flushed();
            }
            Op::Checkpoint => {
                self.vault.checkpoint().unwrap();
                self.flushed();
            }
            Op::Tend => {
                self.vault.tend().unwrap();
                self.flushed();
            }
            Op::Commit => {
                let generation = self.vault.commit("a test").unwrap();
                self.kept.insert(generation.number, self.now.clone());
                self.flushed();
            }
            Op::Revert(nth) => {
                if let Some(number) = self.generation(*nth) {
                    self.vault.revert(number).unwrap();
                    self.now = self.kept[&number].clone();
                    self.flushed();
                }
            }
            Op::Drop(nth) => {
                if let Some(number) = self.generation(*nth) {
                    self.vault.drop_generation(number).unwrap();
                    self.kept.remove(&number);
                    self.flushed();
                }
            }
            Op::Clean => {
                self.vault.clean(Cleaning { least_dead: 0.2, most: u64::MAX }).unwrap();
                self.flushed();
            }
            Op::Stream(seed) => self.stream(*seed),
            Op::Reopen => {
                self.vault.close().unwrap();
                self.flushed();
                self.open();
            }
            Op::Kill => {
                self.vault.device(NAMES[0]).unwrap().push().unwrap();
                self.store = Arc::new(self.store.kill());
                self.possible.drain(..self.possible.len() - 1);
                self.open();
            }
            Op::Cut(part) => {
                self.vault.device(NAMES[0]).unwrap().push().unwrap();
                self.store = Arc::new(self.store.cut(|_, more| more * usize::from(*part) / 255));
                self.open();
            }
        }
    }

    fn stream(&mut self, seed: u8) {
        let data = bytes(seed.max(20), 70 * BLOCK);
        let mut writer = self.vault.stream_writer("memory", b"whose").unwrap();
        writer.write(3 * BLOCK as u64, &data).unwrap();
        writer.finish(100 * BLOCK as u64).unwrap();
        self.stream = Some((data, self.vault.head()));
        self.flushed();
    }

    fn check(&self) {
        assert!(self.read() == self.now, "a device differs");
        for (i, name) in NAMES.iter().enumerate() {
            let device = self.vault.device(name).unwrap();
            for range in device.status(0, SIZES[i] as u64, usize::MAX).unwrap() {
                let content = &self.now[i][range.offset as usize..(range.offset + range.length) as usize];
                assert!(range.kind == RangeKind::Data || content.iter().all(|byte| *byte == 0));
            }
            for (number, then) in &self.kept {
                for change in device.changed(*number, 0, SIZES[i] as u64, usize::MAX).unwrap() {
                    let range = change.offset as usize..(change.offset + change.length) as usize;
                    assert!(change.changed || self.now[i][range.clone()] == then[i][range], "a change was not told");
                }
            }
        }
        if let Some((data, head)) = &self.stream {
            let info = &self.vault.streams()[0];
            assert_eq!(info.current, *head == self.vault.head());
            if info.current {
                let mut found = vec![0; 70 * BLOCK];
                let reader = self.vault.stream_reader("memory").unwrap();
                let each = |offset: u64, page: &[u8]| {
                    let at = offset as usize - 3 * BLOCK;
                    found[at..at + page.len()].copy_from_slice(page);
                    Ok(())
                };
                reader.read(each).unwrap();
                assert!(found == *data, "the stream differs");
            } else {
                assert!(self.vault.stream_reader("memory").is_err());
            }
        }
    }
}

fn ring() -> Keyring {
    Keyring::new(3, [1; 32])
}

fn cases() -> u32 {
    std::env::var("TWOFOLD_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(24)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        max_shrink_iters: 400,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_vault_is_a_disk(ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        for op in &ops {
            world.run(op);
            if !matches!(op, Op::Write { .. }) {
                world.check();
            }
        }
        world.check();
    }
}
