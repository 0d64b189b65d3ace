//! Writing to a device.

use std::sync::atomic::Ordering;

use crate::device::Device;
use crate::error::Error;
use crate::inner::State;
use crate::slot::{BLOCK, Header, Kind, Origin, Record};
use crate::sync::{lock, write};

impl Device {
    fn check_write(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.inner.writable()?;
        if self.read_only() {
            return Err(Error::ReadOnly);
        }
        self.check(offset, length)?;
        self.within_limit(offset, length)
    }

    /// The range was looked at before; the device may have become smaller since, or be about to.
    fn within_limit(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.inner.usable()?;
        if offset + length <= self.disk.limit.load(Ordering::Acquire) { Ok(()) } else { Err(Error::OutOfRange) }
    }

    /// Writes `data` at `offset`, all of it or, after a crash, none (up to 32 MiB; more is several such writes). It is
    /// seen by every read from now on; it survives the process after [`Device::push`], a power cut after [`Device::flush`].
    ///
    /// # Errors
    /// [`Error::NoSpace`]: nothing was written. [`Error::ReadOnly`], [`Error::OutOfRange`], [`Error::Failed`].
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.check_write(offset, data.len() as u64)?;
        if data.is_empty() {
            return Ok(());
        }
        let skip = (offset % BLOCK as u64) as usize;
        // A batch lies in two segments at most.
        let most = self.inner.options.segment_slots as usize / 2;
        if data.len() > BLOCK && skip == 0 && data.len() % BLOCK == 0 && is_zero(data) {
            return self.zero(offset, data.len() as u64);
        }
        if skip == 0 && data.len() % BLOCK == 0 {
            for (nth, batch) in data.chunks(most * BLOCK).enumerate() {
                let first = offset / BLOCK as u64 + (nth * most) as u64;
                self.with_room(|| self.write_blocks(&mut lock(&self.inner.state), first, batch))?;
            }
        } else {
            // The rest of the first and the last block is as it was: nobody may write in between.
            for (offset, data) in split(offset, data, most * BLOCK) {
                self.with_room(|| self.write_part(offset, data))?;
            }
        }
        self.inner.after_device_write((data.len() / BLOCK) as u64 + 1)
    }

    fn write_part(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut state = lock(&self.inner.state);
        let (first, skip) = (offset / BLOCK as u64, (offset % BLOCK as u64) as usize);
        let mut whole = vec![0; (skip + data.len()).next_multiple_of(BLOCK)];
        let last = whole.len() - BLOCK;
        let edges = [(skip != 0, 0), ((skip + data.len()) % BLOCK != 0 && (last != 0 || skip == 0), last)];
        for (_, at) in edges.into_iter().filter(|(partial, _)| *partial) {
            let offset = first * BLOCK as u64 + at as u64;
            self.read_any(offset, &mut whole[at..at + BLOCK], true, Some(&mut state))?;
        }
        whole[skip..skip + data.len()].copy_from_slice(data);
        self.write_blocks(&mut state, first, &whole)
    }

    /// On a full disk the cleaner gets a chance before anybody is told.
    fn with_room(&self, work: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            match work() {
                Err(Error::NoSpace) if tries < 8 && self.inner.make_room() => tries += 1,
                other => return other,
            }
        }
    }

    fn write_blocks(&self, state: &mut State, first: u64, data: &[u8]) -> Result<(), Error> {
        let count = data.len() / BLOCK;
        self.within_limit(first * BLOCK as u64, data.len() as u64)?;
        state.log.prepare(count, false)?;
        let mut runs: [Option<Record>; 2] = [None, None];
        state.log.append(Header::new(Kind::Data, self.disk.id, first), data, true, |nth, origin, count| {
            let block = first + nth;
            let run = Record { device: self.disk.id, zero: false, count, block, origin };
            // A batch is smaller than a segment, so it lies in two at most.
            let free = usize::from(runs[0].is_some());
            runs[free] = Some(run);
        });
        state.books.tail += count as u64;
        for run in runs.into_iter().flatten() {
            self.inner.table.live(run.origin, run.count.into());
            self.enter(state, run);
        }
        state.moved();
        Ok(())
    }

    /// The map gains a run.
    pub(crate) fn enter(&self, state: &mut State, run: Record) {
        let mut gone = Vec::new();
        let overdue = {
            let mut map = write(&self.disk.map);
            if run.zero {
                map.zero(run.block, run.count.into(), run.origin, &mut |entry| gone.push(entry));
                None
            } else {
                for nth in 0..u64::from(run.count) {
                    map.set(run.block + nth, run.entry(nth), &mut |entry| gone.push(entry));
                }
                map.overdue(run.block)
            }
        };
        self.inner.forget(&gone);
        state.note(run);
        if let Some((leaf, origin)) = overdue {
            // A leaf that can't be read goes on gathering newer entries; reads say what is wrong with it.
            let _ = self.disk.load(&self.inner.table, leaf, origin);
        }
    }

    /// Makes the range read as zeroes, and takes no space for it.
    ///
    /// # Errors
    /// As [`Device::write`].
    pub fn zero(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.check_write(offset, length)?;
        let end = offset + length;
        let (first, behind) = (offset.next_multiple_of(BLOCK as u64), end - end % BLOCK as u64);
        if first >= behind {
            return if length == 0 { Ok(()) } else { self.write(offset, &vec![0; length as usize]) };
        }
        if first > offset {
            self.write(offset, &vec![0; (first - offset) as usize])?;
        }
        if end > behind {
            self.write(behind, &vec![0; (end - behind) as usize])?;
        }
        self.zero_blocks(first / BLOCK as u64, (behind - first) / BLOCK as u64)
    }

    /// The content of the range is not needed any more: its whole blocks read as zeroes.
    ///
    /// # Errors
    /// As [`Device::write`].
    pub fn trim(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.check_write(offset, length)?;
        let end = offset + length;
        let (first, behind) = (offset.next_multiple_of(BLOCK as u64), end - end % BLOCK as u64);
        if first < behind { self.zero_blocks(first / BLOCK as u64, (behind - first) / BLOCK as u64) } else { Ok(()) }
    }

    fn zero_blocks(&self, mut block: u64, mut count: u64) -> Result<(), Error> {
        while count > 0 {
            let some = count.min(1 << 31) as u32;
            self.with_room(|| {
                let mut state = lock(&self.inner.state);
                self.within_limit(block * BLOCK as u64, u64::from(some) * BLOCK as u64)?;
                self.zero_run(&mut state, block, some)
            })?;
            (block, count) = (block + u64::from(some), count - u64::from(some));
        }
        self.inner.after_device_write(1)
    }

    /// At most 8 TiB, inside the device.
    pub(crate) fn zero_run(&self, state: &mut State, block: u64, count: u32) -> Result<(), Error> {
        state.log.prepare(1, false)?;
        let mut run = Record { device: self.disk.id, zero: true, count, block, origin: Origin::NONE };
        let payload = Record::encode(&[run]);
        state.log.append(Header::new(Kind::List, 0, 0), &payload, true, |_, origin, _| run.origin = origin);
        state.books.tail += 1;
        self.enter(state, run);
        state.moved();
        Ok(())
    }
}

fn is_zero(data: &[u8]) -> bool {
    // Most data shows at once that it is none.
    data[..16].iter().all(|byte| *byte == 0) && data.iter().all(|byte| *byte == 0)
}

/// Parts of at most `most` bytes that break at block borders.
fn split(offset: u64, data: &[u8], most: usize) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let here = offset + at as u64;
        let size = (most - BLOCK - (here % BLOCK as u64) as usize).min(data.len() - at);
        let part = &data[at..at + size];
        at += size;
        (size > 0).then_some((here, part))
    })
}
