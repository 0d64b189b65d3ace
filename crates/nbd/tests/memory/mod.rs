//! A device in memory, for tests and the example alone: sparse, with generations, and with faults on demand.
#![allow(dead_code)] // each user takes what it needs

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use twofold_nbd::{Export, Extents, Failure, Kind, Readiness, State};

pub const BLOCK: usize = 4096;

/// Content (none: a hole) and the generation that wrote it.
type Block = (Option<Box<[u8]>>, u64);

#[derive(Default)]
pub struct Memory {
    blocks: Vec<Mutex<Block>>,
    size: AtomicU64,
    pub read_only: bool,
    pub minimum: u32,
    pub slow_zero: bool,
    pub multi: bool,
    /// Each read waits this long, on a worker.
    pub slow: Duration,
    /// Each write waits this long, on a worker.
    pub slow_write: Duration,
    /// Ranges that can't be read: offset, length.
    pub damaged: Vec<(u64, u64)>,
    pub no_space: bool,
    pub push_fails: bool,
    pub generation: AtomicU64,
    pub pushes: AtomicUsize,
    pub flushes: AtomicUsize,
    pub caches: AtomicUsize,
    /// Reads under way now, and the most there ever were.
    pub reading: AtomicUsize,
    pub most_reading: AtomicUsize,
}

fn lock(block: &Mutex<Block>) -> MutexGuard<'_, Block> {
    block.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    pub fn new(size: u64) -> Self {
        let count = size.div_ceil(BLOCK as u64) as usize;
        Self {
            blocks: (0..count).map(|_| Mutex::default()).collect(),
            size: AtomicU64::new(size),
            minimum: 1,
            ..Self::default()
        }
    }

    /// What a new connection will see; never above the size it was made with.
    pub fn resize(&self, size: u64) {
        self.size.store(size, Ordering::SeqCst);
    }

    /// The parts of a range, block by block: block, offset inside it, offset inside the range, length.
    fn parts(&self, offset: u64, length: u64) -> impl Iterator<Item = (&Mutex<Block>, usize, usize, usize)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done;
            let inside = (at % BLOCK as u64) as usize;
            let part = ((BLOCK - inside) as u64).min(length - done);
            let place = done as usize;
            done += part;
            (part > 0).then(|| (&self.blocks[(at / BLOCK as u64) as usize], inside, place, part as usize))
        })
    }

    fn change(&self, offset: u64, length: u64, mut with: impl FnMut(&mut [u8], usize)) -> Result<(), Failure> {
        if self.no_space {
            return Err(Failure::new(Kind::NoSpace, "the disk is full"));
        }
        for (block, inside, place, part) in self.parts(offset, length) {
            let mut block = lock(block);
            let bytes = block.0.get_or_insert_with(|| vec![0; BLOCK].into());
            with(&mut bytes[inside..inside + part], place);
            block.1 = self.generation.load(Ordering::SeqCst);
        }
        Ok(())
    }

    fn fetch(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        let end = offset + buffer.len() as u64;
        if let Some((at, length)) = self.damaged.iter().find(|(at, length)| *at < end && at + length > offset) {
            return Err(Failure::at(Kind::Io, *at, *length, format!("damaged: {length} bytes at {at}")));
        }
        for (block, inside, place, part) in self.parts(offset, buffer.len() as u64) {
            match &lock(block).0 {
                Some(bytes) => buffer[place..place + part].copy_from_slice(&bytes[inside..inside + part]),
                None => buffer[place..place + part].fill(0),
            }
        }
        Ok(())
    }
}

impl Export for Memory {
    fn size(&self) -> u64 {
        self.size.load(Ordering::SeqCst)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn minimum_block(&self) -> u32 {
        self.minimum
    }

    fn multi_conn(&self) -> bool {
        self.multi
    }

    fn description(&self) -> String {
        "memory".to_owned()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        if !self.slow.is_zero() {
            let now = self.reading.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_reading.fetch_max(now, Ordering::SeqCst);
            thread::sleep(self.slow);
            self.reading.fetch_sub(1, Ordering::SeqCst);
        }
        self.fetch(offset, buffer)
    }

    fn try_read(&self, offset: u64, buffer: &mut [u8]) -> Result<Readiness, Failure> {
        if !self.slow.is_zero() {
            return Ok(Readiness::WouldBlock);
        }
        self.fetch(offset, buffer).map(|()| Readiness::Done)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        thread::sleep(self.slow_write);
        self.change(offset, data.len() as u64, |bytes, place| bytes.copy_from_slice(&data[place..place + bytes.len()]))
    }

    fn write_may_block(&self, _offset: u64, _length: u64) -> bool {
        !self.slow_write.is_zero()
    }

    fn zero(&self, offset: u64, length: u64, no_hole: bool) -> Result<(), Failure> {
        if no_hole { self.change(offset, length, |bytes, _| bytes.fill(0)) } else { self.trim(offset, length) }
    }

    fn fast_zero(&self) -> bool {
        !self.slow_zero
    }

    fn trim(&self, offset: u64, length: u64) -> Result<(), Failure> {
        for (block, inside, _, part) in self.parts(offset, length) {
            let mut block = lock(block);
            match &mut block.0 {
                content if part == BLOCK => *content = None,
                Some(bytes) => bytes[inside..inside + part].fill(0),
                None => (),
            }
            block.1 = self.generation.load(Ordering::SeqCst);
        }
        Ok(())
    }

    fn push(&self) -> Result<(), Failure> {
        self.pushes.fetch_add(1, Ordering::SeqCst);
        if self.push_fails { Err(Failure::new(Kind::Io, "the file can't be written")) } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), Failure> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn cache(&self, _offset: u64, _length: u64) -> Result<(), Failure> {
        self.caches.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn status(&self, offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        for (block, _, _, part) in self.parts(offset, length) {
            let state = if lock(block).0.is_some() { State::Data } else { State::Hole };
            if !extents.push(part as u64, state) {
                break;
            }
        }
        Ok(())
    }

    fn generations(&self) -> Vec<u64> {
        (1..=self.generation.load(Ordering::SeqCst)).rev().collect()
    }

    fn changed(&self, since: u64, offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        for (block, _, _, part) in self.parts(offset, length) {
            let changed = lock(block).1 >= since;
            if !extents.push_changed(part as u64, changed) {
                break;
            }
        }
        Ok(())
    }
}
