//! The end of the log: slots are sealed into a buffer, handed to the operating system, made durable.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::keys::Salt;
use crate::segment;
use crate::slot::{self, BLOCK, EARLIER, HEADER, Header, Kind, LAST, Origin, SLOT, TAG};
use crate::store::Medium;
use crate::table::{Segment, Table};

mod flush;
mod room;

/// From so many slots on, sealing is worth a second thread.
const SHARE: usize = 256;
/// The buffer is handed over before it grows beyond this.
const BUFFER: usize = 4 << 20;
const BLANK: [u8; TAG + HEADER] = [0; TAG + HEADER];

/// The log's last segment and how much of it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub number: u64,
    pub slots: u32,
    pub salt: Salt,
}

impl End {
    pub fn origin(&self) -> Origin {
        Origin(Origin::new(self.number, 0).0 + u64::from(self.slots))
    }
}

struct Current {
    segment: Arc<Segment>,
    file: Arc<dyn Medium>,
    next: u32,
    durable: u32,
    /// Slots that it is made for.
    capacity: u32,
    buffer: Vec<u8>,
    at: u64,
    /// Up to here the file was prepared for small flushes, and how many came lately.
    prepared: u64,
    small: u32,
    /// Made of the space that is left for upkeep: nobody else may fill it.
    spared: bool,
}

struct Pending {
    number: u64,
    file: Arc<dyn Medium>,
    at: u64,
    bytes: Vec<u8>,
    /// The segment ends here: what was taken in advance behind it is given back.
    end: u64,
}

pub(crate) struct Log {
    table: Arc<Table>,
    current: Option<Current>,
    spare: Option<Current>,
    end: End,
    next_number: u64,
    pending: Vec<Pending>,
    earlier: Vec<Arc<dyn Medium>>,
    names: u64,
    durable_names: u64,
    pushed: Arc<AtomicU64>,
    failed: Option<Arc<io::Error>>,
    reserve: u64,
    capacity: u32,
}

impl Log {
    /// Continues behind `end`, which is durable. New segments get numbers above `highest`.
    pub fn new(table: Arc<Table>, end: End, highest: u64, reserve: u64, capacity: u32) -> Self {
        let pushed = Arc::new(AtomicU64::new(end.origin().0));
        Self {
            table,
            current: None,
            spare: None,
            end,
            next_number: highest + 1,
            pending: Vec::new(),
            earlier: Vec::new(),
            names: 0,
            durable_names: 0,
            pushed,
            failed: None,
            reserve,
            capacity,
        }
    }

    /// Addresses below it can be read from files.
    pub fn pushed(&self) -> Arc<AtomicU64> {
        self.pushed.clone()
    }

    /// Where the log ends.
    pub fn end(&self) -> End {
        match &self.current {
            Some(current) => End { number: current.segment.number, slots: current.next, salt: current.segment.salt },
            None => self.end.clone(),
        }
    }

    /// The segment that is being written.
    pub fn current(&self) -> Option<u64> {
        self.current.as_ref().map(|current| current.segment.number)
    }

    pub fn fail(&mut self, why: Arc<io::Error>) {
        self.failed.get_or_insert(why);
    }

    pub fn usable(&self) -> Result<(), Error> {
        self.failed.as_ref().map_or(Ok(()), |why| Err(Error::Failed(why.clone())))
    }

    /// Ends the segment that is being written; the next slot begins another.
    pub fn close_segment(&mut self) {
        let Some(old) = self.current.take() else { return };
        self.end = End { number: old.segment.number, slots: old.next, salt: old.segment.salt };
        let end = segment::offset(old.next);
        let (number, file) = (old.segment.number, old.file.clone());
        self.pending.push(Pending { number, file, at: old.at, bytes: old.buffer, end });
        if old.durable < old.next || old.next == 0 {
            self.earlier.push(old.file);
        }
    }

    /// Nothing more is written: what was taken in advance is given back, and costs no more than space where it can't be.
    pub fn let_go(&mut self) {
        self.close_segment();
        let _ = self.push();
    }

    /// Whether all of the log is durable.
    pub fn is_durable(&self) -> bool {
        self.pending.is_empty()
            && self.earlier.is_empty()
            && self.names == self.durable_names
            && self.current.as_ref().is_none_or(|current| current.durable == current.next && current.next > 0)
    }

    /// Appends the blocks of `data` (a multiple of 4096 bytes), the first with `header`, the following with the following
    /// block numbers. With `last`, the last of them ends the batch. `placed` hears of each run: the nth block, its address,
    /// how many. Must have been prepared.
    pub fn append(&mut self, header: Header, data: &[u8], last: bool, placed: impl FnMut(u64, Origin, u32)) {
        self.append_with(header, data, |nth, total| last && nth + 1 == total, placed);
    }

    /// As [`Log::append`], each block a batch of its own.
    pub fn append_each(&mut self, header: Header, data: &[u8], placed: impl FnMut(u64, Origin, u32)) {
        self.append_with(header, data, |_, _| true, placed);
    }

    fn append_with(
        &mut self,
        header: Header,
        data: &[u8],
        last: impl Fn(usize, usize) -> bool + Sync,
        mut placed: impl FnMut(u64, Origin, u32),
    ) {
        let total = data.len() / BLOCK;
        let mut done = 0;
        while done < total {
            if self.current.as_ref().is_none_or(|current| current.next == current.capacity) {
                self.close_segment();
                self.current = self.spare.take();
            }
            let earlier = if self.earlier.is_empty() { EARLIER } else { 0 };
            let Some(current) = &mut self.current else { return };
            let count = (total - done).min((current.capacity - current.next) as usize);
            let start = current.buffer.len();
            for block in data[done * BLOCK..(done + count) * BLOCK].chunks_exact(BLOCK) {
                current.buffer.extend_from_slice(&BLANK);
                current.buffer.extend_from_slice(block);
            }
            let (key, id, first, durable) = (current.segment.key(), self.table.id(), current.next, current.durable);
            let seal = |from: usize, slots: &mut [u8]| {
                for (nth, slot) in slots.chunks_exact_mut(SLOT).enumerate() {
                    let nth = from + nth;
                    let ends = if last(done + nth, total) { LAST } else { 0 };
                    let block = header.block + (done + nth) as u64;
                    let header = Header { flags: earlier | ends, durable, block, ..header };
                    slot::seal(key, id, first + nth as u32, &header, slot);
                }
            };
            let slots = &mut current.buffer[start..];
            if count >= SHARE && header.kind == Some(Kind::Stream) {
                let (front, back) = slots.split_at_mut(count / 2 * SLOT);
                std::thread::scope(|scope| {
                    scope.spawn(|| seal(count / 2, back));
                    seal(0, front);
                });
            } else {
                seal(0, slots);
            }
            current.next += count as u32;
            current.segment.slots.store(current.next, Ordering::Release);
            placed(done as u64, Origin::new(current.segment.number, first), count as u32);
            done += count;
        }
    }

    /// Hands everything to the operating system. On an error it stays in the buffer, sealed as it is, for the next try.
    pub fn push(&mut self) -> Result<(), Error> {
        self.usable()?;
        while let Some(pending) = self.pending.first() {
            if !pending.bytes.is_empty() {
                pending.file.write_at(&pending.bytes, pending.at).map_err(|why| Error::io("the log", why))?;
            }
            let _ = pending.file.set_len(pending.end);
            self.pending.remove(0);
        }
        if let Some(current) = &mut self.current {
            if !current.buffer.is_empty() {
                current.file.write_at(&current.buffer, current.at).map_err(|why| Error::io("the log", why))?;
                current.at += current.buffer.len() as u64;
                current.buffer.clear();
                current.buffer.shrink_to(2 * BUFFER);
            }
        }
        self.pushed.store(self.end().origin().0, Ordering::Release);
        Ok(())
    }

    /// Copies slots that the operating system would not take yet. False if they are not all in one buffer.
    pub fn copy(&self, origin: Origin, slots: &mut [u8]) -> bool {
        let current = self.current.iter().map(|current| (current.segment.number, current.at, &current.buffer));
        let pending = self.pending.iter().map(|pending| (pending.number, pending.at, &pending.bytes));
        let Some((_, at, bytes)) = current.chain(pending).find(|(number, ..)| *number == origin.segment()) else {
            return false;
        };
        let from = segment::offset(origin.index()).checked_sub(at).and_then(|from| usize::try_from(from).ok());
        match from.and_then(|from| bytes.get(from..from + slots.len())) {
            Some(there) => slots.copy_from_slice(there),
            None => return false,
        }
        true
    }
}
