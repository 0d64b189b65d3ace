//! Making segments, as long as there is room for them.

use super::{BUFFER, Current, End, Log};
use crate::error::Error;
use crate::keys::{digest, random};
use crate::root::SegmentRow;
use crate::segment::{self, AFTER_DURABLE, SegmentHeader};
use crate::slot::{Origin, SLOTS};

impl Log {
    /// Makes sure that `count` slots, at most a segment full, can be appended without failing. `together`: in one segment.
    pub fn prepare(&mut self, count: usize, together: bool) -> Result<(), Error> {
        if let Some(current) = self.current.as_mut().filter(|current| current.spared) {
            let free = self.table.store().free().ok().flatten().unwrap_or(u64::MAX);
            current.spared = free < self.reserve;
            if current.spared {
                return Err(Error::NoSpace);
            }
        }
        self.prepare_as(count, together, false)
    }

    /// As [`Log::prepare`], for what makes room or keeps an opening quick: it may take the space that others don't get.
    pub fn prepare_upkeep(&mut self, count: usize, together: bool) -> Result<(), Error> {
        self.prepare_as(count, together, true)
    }

    fn prepare_as(&mut self, count: usize, together: bool, upkeep: bool) -> Result<(), Error> {
        self.usable()?;
        if self.pending.iter().map(|pending| pending.bytes.len()).sum::<usize>() + self.buffered() > BUFFER {
            self.push()?;
        }
        if count > SLOTS as usize {
            return Err(Error::Invalid("more at once than a segment holds".into()));
        }
        let room = self.current.as_ref().map_or(0, |current| (current.capacity - current.next) as usize);
        if self.current.is_none() || together && count > room {
            if let Some(unused) = self.spare.take() {
                self.table.drop_segment(unused.segment.number);
            }
            let made = self.make(&self.end(), self.is_durable(), count, upkeep)?;
            self.close_segment();
            self.current = Some(made);
        } else if count > room && self.spare.as_ref().is_none_or(|spare| (spare.capacity as usize) < count - room) {
            if let Some(small) = self.spare.take() {
                self.table.drop_segment(small.segment.number);
            }
            let full = End { slots: self.end().slots + room as u32, ..self.end() };
            self.spare = Some(self.make(&full, false, count - room, upkeep)?);
        }
        Ok(())
    }

    fn buffered(&self) -> usize {
        self.current.as_ref().map_or(0, |current| current.buffer.len())
    }

    fn make(&mut self, before: &End, durable: bool, count: usize, upkeep: bool) -> Result<Current, Error> {
        let store = self.table.store().clone();
        let mut capacity = self.capacity.max(count as u32).min(SLOTS);
        let free = store.free().ok().flatten().unwrap_or(u64::MAX);
        if upkeep && free < segment::offset(capacity) {
            // A short segment is better than none: with it room is made.
            capacity = (count as u32).clamp(16, SLOTS);
        }
        let whole = segment::offset(capacity);
        let spared = free < whole.saturating_add(self.reserve);
        if free < whole || spared && !upkeep {
            return Err(Error::NoSpace);
        }
        let number = self.next_number;
        if number > Origin::MAX_SEGMENT {
            return Err(Error::Invalid("the vault has no segment numbers left".into()));
        }
        let (name, ring, salt) = (segment::name(number), self.table.ring(), random()?);
        let header = SegmentHeader {
            number,
            epoch: ring.current(),
            flags: if durable { AFTER_DURABLE } else { 0 },
            salt,
            before: before.number,
            before_end: before.slots,
            before_digest: if before.number == 0 { [0; 16] } else { digest(&before.salt) },
        };
        let buffer = header.encode(&ring, self.table.id())?;
        // Numbers are never used again, also where making the file fails half-way: there may be one all the same.
        self.next_number += 1;
        let file = store.create(&name).map_err(|why| Error::io(&name, why))?;
        if let Err(why) = file.reserve(whole) {
            let _ = store.remove(&name);
            return Err(Error::io(&name, why));
        }
        let row = SegmentRow { number, pack: 0, epoch: ring.current(), slots: 0, live: 0, salt };
        let segment = self.table.add(&row)?;
        self.table.opened(&segment, file.clone());
        self.names += 1;
        Ok(Current { segment, file, next: 0, durable: 0, capacity, buffer, at: 0, prepared: 0, small: 0, spared })
    }

    /// Whether a new segment may be made for others than upkeep.
    pub fn has_room(&self) -> bool {
        let free = self.table.store().free().ok().flatten().unwrap_or(u64::MAX);
        free >= segment::offset(self.capacity).saturating_add(self.reserve)
    }

    /// Bytes that new packs may take so that the log can still go on, if need be in a short segment.
    pub fn room_for_packs(&self) -> u64 {
        let free = self.table.store().free().ok().flatten().unwrap_or(u64::MAX);
        free.saturating_sub(segment::offset(self.capacity)).max(free / 2)
    }
}
