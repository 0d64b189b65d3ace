//! A device of an open vault: reading and writing.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::ahead::{self, Ahead};
use crate::disk::Disk;
use crate::error::Error;
use crate::inner::{Inner, State};
use crate::slot::{self, BLOCK, Kind, Origin, SLOT, ZERO};
use crate::table::Segment;

/// Blocks that are looked up and read in one step.
const STEP: usize = 256;
/// What a range of a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    /// Never written, and nothing in the base: zeroes. Takes no space.
    Hole,
    /// Never written: what the base says. Takes no space.
    Base,
    /// Made zeroes. Takes no space.
    Zero,
    /// Written.
    Data,
}

/// A range of a device, in bytes, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where it begins.
    pub offset: u64,
    /// Its length.
    pub length: u64,
    /// What it is.
    pub kind: RangeKind,
}

/// One device. Offsets and lengths are bytes and need not be aligned; whole blocks are faster.
pub struct Device {
    pub(crate) inner: Arc<Inner>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) ahead: Ahead,
}

thread_local! {
    /// Sealed slots on their way in.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Device {
    pub(crate) fn new(inner: Arc<Inner>, disk: Arc<Disk>) -> Self {
        Self { inner, disk, ahead: Ahead::default() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.disk.name
    }

    /// Its size in bytes, a multiple of [`BLOCK`].
    #[must_use]
    pub fn size(&self) -> u64 {
        self.disk.size()
    }

    /// Whether writing is refused.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.inner.read_only || self.disk.read_only.load(Ordering::Acquire)
    }

    pub(crate) fn check(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.inner.usable()?;
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.size());
        if inside { Ok(()) } else { Err(Error::OutOfRange) }
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// [`Error::Damaged`] names the first lost range; what is outside it can be read on its own. [`Error::OutOfRange`],
    /// [`Error::Io`].
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.check(offset, buffer.len() as u64)?;
        self.read_any(offset, buffer, true, None)
    }

    /// As [`Device::read`], but never waits for the disk. After an error `buffer` holds nothing of use.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] where it would have to.
    pub fn try_read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.check(offset, buffer.len() as u64)?;
        self.read_any(offset, buffer, false, None)
    }

    /// `state` is given by who holds its lock.
    pub(crate) fn read_any(
        &self,
        offset: u64,
        buffer: &mut [u8],
        wait: bool,
        state: Option<&mut State>,
    ) -> Result<(), Error> {
        if let Some(state) = state {
            state.log.push()?;
        }
        let skip = (offset % BLOCK as u64) as usize;
        if skip == 0 && buffer.len() % BLOCK == 0 {
            return self.read_blocks(offset / BLOCK as u64, buffer, wait);
        }
        let mut whole = vec![0; (skip + buffer.len()).next_multiple_of(BLOCK)];
        self.read_blocks(offset / BLOCK as u64, &mut whole, wait)?;
        buffer.copy_from_slice(&whole[skip..skip + buffer.len()]);
        Ok(())
    }

    pub(crate) fn read_blocks(&self, first: u64, buffer: &mut [u8], wait: bool) -> Result<(), Error> {
        let mut entries = [0; STEP];
        for (nth, part) in buffer.chunks_mut(STEP * BLOCK).enumerate() {
            let (block, count) = (first + (nth * STEP) as u64, part.len() / BLOCK);
            let mut tries = 0;
            loop {
                let entries = &mut entries[..count];
                self.disk.entries(&self.inner.table, block, entries, wait)?;
                let mut done = 0;
                let mut result = self.read_entries(block, entries, part, &mut done, false);
                if wait && matches!(result, Err(Error::WouldBlock)) {
                    self.fetch(block + done as u64, &entries[done..]);
                    result = self.read_entries(block, entries, part, &mut done, true);
                }
                match result {
                    // Overwritten and cleaned since we looked.
                    Err(Error::Damaged(_)) if tries < 3 && self.changed_since(block, entries) => tries += 1,
                    other => break other?,
                }
            }
        }
        self.passed(first + (buffer.len() / BLOCK) as u64);
        Ok(())
    }

    fn changed_since(&self, block: u64, entries: &[u64]) -> bool {
        let mut now = vec![0; entries.len()];
        self.disk.entries(&self.inner.table, block, &mut now, true).is_ok_and(|()| now != entries)
    }

    /// From entry `at` on, which goes as far as it gets.
    fn read_entries(
        &self,
        block: u64,
        entries: &[u64],
        part: &mut [u8],
        at: &mut usize,
        wait: bool,
    ) -> Result<(), Error> {
        while *at < entries.len() {
            let here = *at;
            let first = entries[here];
            let mut run = 1;
            if first == 0 || first & ZERO != 0 {
                while here + run < entries.len() && (entries[here + run] == 0) == (first == 0) && {
                    let next = entries[here + run];
                    next == 0 || next & ZERO != 0
                } {
                    run += 1;
                }
                let out = &mut part[here * BLOCK..(here + run) * BLOCK];
                match &self.disk.base {
                    Some(base) if first == 0 => {
                        let offset = (block + here as u64) * BLOCK as u64;
                        if wait { base.read(offset, out)? } else { base.try_read(offset, out)? }
                    }
                    _ => out.fill(0),
                }
            } else {
                let origin = Origin(first);
                run = ahead::run(&entries[here..]);
                self.read_run(block + here as u64, origin, &mut part[here * BLOCK..(here + run) * BLOCK], wait)?;
            }
            *at += run;
        }
        Ok(())
    }

    /// Slots that follow each other in one segment.
    fn read_run(&self, block: u64, origin: Origin, out: &mut [u8], wait: bool) -> Result<(), Error> {
        let count = out.len() / BLOCK;
        let pushed = self.inner.pushed.load(Ordering::Acquire);
        if origin.0 < pushed && origin.0 + count as u64 > pushed {
            let (there, here) = out.split_at_mut((pushed - origin.0) as usize * BLOCK);
            self.read_run(block, origin, there, wait)?;
            return self.read_run(block + pushed - origin.0, Origin(pushed), here, wait);
        }
        let Some(segment) = self.inner.table.get(origin.segment()) else {
            return Err(self.lost(block, Error::Damaged(Box::new(self.inner.table.missing(origin)))));
        };
        SCRATCH.with_borrow_mut(|scratch| {
            let need = count * SLOT;
            if scratch.len() < need {
                scratch.resize(need, 0);
            }
            let slots = &mut scratch[..need];
            if origin.0 < pushed || !self.inner.in_buffer(origin, slots)? {
                let read = self.inner.table.read_raw(&segment, origin.index(), slots, wait);
                read.map_err(|error| self.lost(block, error))?;
            }
            for (nth, (slot, out)) in slots.chunks_exact_mut(SLOT).zip(out.chunks_exact_mut(BLOCK)).enumerate() {
                self.open_slot(&segment, origin.index() + nth as u32, block + nth as u64, slot)?;
                out.copy_from_slice(slot::payload(slot));
            }
            Ok(())
        })
    }

    fn open_slot(&self, segment: &Segment, index: u32, block: u64, slot: &mut [u8]) -> Result<(), Error> {
        match slot::open(segment.key(), self.inner.table.id(), index, slot) {
            Some(header) if header.is(Kind::Data, self.disk.id, block) => Ok(()),
            other => {
                let why = if other.is_some() { "it is another block" } else { "it is not as it was written" };
                Err(self.lost(block, Error::Damaged(Box::new(segment.damage(index, why)))))
            }
        }
    }

    fn lost(&self, block: u64, error: Error) -> Error {
        match error {
            Error::Damaged(mut what) if what.device.is_none() => {
                what.device = Some(self.disk.name.clone());
                (what.offset, what.length) = (block * BLOCK as u64, BLOCK as u64);
                Error::Damaged(what)
            }
            other => other,
        }
    }

    /// Hands what was written to the operating system: from here on the death of this process loses none of it.
    ///
    /// # Errors
    /// [`Error::NoSpace`]: it is kept, and handed over with the next push. [`Error::Io`], [`Error::Failed`].
    pub fn push(&self) -> Result<(), Error> {
        self.inner.usable()?;
        self.inner.push()
    }

    /// Makes what was written to all devices of the vault durable.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Failed`].
    pub fn flush(&self) -> Result<(), Error> {
        self.inner.usable()?;
        self.inner.flush()
    }

    /// What `length` bytes from `offset` are, at most `most` ranges; the first and last reach to block borders.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Damaged`] where the map is.
    pub fn status(&self, offset: u64, length: u64, most: usize) -> Result<Vec<Range>, Error> {
        self.check(offset, length)?;
        // What the base said last, and up to which byte that holds.
        let mut said = (RangeKind::Hole, if self.disk.base.is_some() { 0 } else { u64::MAX });
        let mut kind = |entry, at: u64| match (entry, &self.disk.base) {
            (0, Some(base)) if at >= said.1 => {
                let (data, length) = base.extent(at);
                said = (if data { RangeKind::Base } else { RangeKind::Hole }, at.saturating_add(length));
                said.0
            }
            (0, _) => said.0,
            (entry, _) if entry & ZERO != 0 => RangeKind::Zero,
            _ => RangeKind::Data,
        };
        let mut ranges: Vec<Range> = Vec::new();
        let (first, behind) = (offset / BLOCK as u64, (offset + length).div_ceil(BLOCK as u64));
        let mut entries = [0; STEP];
        let mut block = first;
        while block < behind {
            let count = (behind - block).min(STEP as u64) as usize;
            self.disk.entries(&self.inner.table, block, &mut entries[..count], true)?;
            for entry in &entries[..count] {
                let (kind, full) = (kind(*entry, block * BLOCK as u64), ranges.len() == most);
                match ranges.last_mut() {
                    Some(last) if last.kind == kind => last.length += BLOCK as u64,
                    _ if full => return Ok(ranges),
                    _ => ranges.push(Range { offset: block * BLOCK as u64, length: BLOCK as u64, kind }),
                }
                block += 1;
            }
        }
        Ok(ranges)
    }
}
