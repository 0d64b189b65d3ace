//! Streams: sealed sequences of pages (suspended memory, the last frame) that belong to one exact state of the devices.

use std::sync::Arc;

use crate::error::Error;
use crate::inner::Inner;
use crate::root::StreamRow;
use crate::roots::open_slots;
use crate::slot::{self, BLOCK, Header, Kind, NO_DEVICE, Origin, RECORDS, Record, SLOT, SLOTS};
use crate::sync::lock;
use crate::vault::Vault;

/// Pages sealed or opened in one step: 8 MiB.
const STEP: usize = 2048;

/// A stored stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// What it is asked for by.
    pub name: String,
    /// What its writer said that it belongs to.
    pub identity: Vec<u8>,
    /// Its length in bytes, holes included.
    pub size: u64,
    /// Bytes stored.
    pub stored: u64,
    /// Whether the devices are still as they were when it was committed.
    pub current: bool,
}

/// Writes a stream. It exists once [`StreamWriter::finish`] returns; dropped before, it never did.
pub struct StreamWriter {
    inner: Arc<Inner>,
    name: String,
    identity: Vec<u8>,
    records: Vec<Record>,
    pages: u64,
    _hold: Hold,
}

/// Reads a stream from its start.
pub struct StreamReader {
    inner: Arc<Inner>,
    info: StreamInfo,
    records: Vec<Record>,
}

/// Keeps the cleaner from taking files. Given up when dropped.
pub struct Hold {
    inner: Arc<Inner>,
    pin: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut pins = lock(&self.inner.pins);
        if let Some(at) = pins.iter().position(|pin| *pin == self.pin) {
            pins.swap_remove(at);
        }
        drop(pins);
        // What it held back may be worth a pass.
        self.inner.pace.look_again();
    }
}

impl Vault {
    /// Until the answer is dropped, no file of the vault is removed: between a commit and its export, say.
    #[must_use]
    pub fn hold(&self) -> Hold {
        // A step of the cleaner that is under way ends first.
        let _one = lock(&self.inner.upkeep);
        self.inner.hold(0)
    }

    /// Begins a stream. `identity` (at most 64 KiB) says what it belongs to; the caller compares it before use.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Invalid`] for a name of no or more than 255 bytes.
    pub fn stream_writer(&self, name: &str, identity: &[u8]) -> Result<StreamWriter, Error> {
        self.inner.writable()?;
        if name.is_empty() || name.len() > 255 || identity.len() > 64 << 10 {
            return Err(Error::Invalid("a stream's name has 1 to 255 bytes, its identity at most 64 KiB".into()));
        }
        // The cleaner must not take what no root names yet.
        let pin = lock(&self.inner.state).log.end().number;
        let hold = self.inner.hold(pin);
        Ok(StreamWriter {
            inner: self.inner.clone(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            records: Vec::new(),
            pages: 0,
            _hold: hold,
        })
    }

    /// The streams that are stored.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamInfo> {
        let state = lock(&self.inner.state);
        let here = (state.books.data_head, state.books.digest);
        let info = |row: &StreamRow| StreamInfo {
            name: row.name.clone(),
            identity: row.identity.clone(),
            size: row.size,
            stored: row.pages.saturating_mul(BLOCK as u64),
            current: (row.data_head, row.digest) == here,
        };
        state.books.streams.iter().map(info).collect()
    }

    /// A stream to be read; it must be of the devices' present state.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Outdated`] if a device was written since; [`Error::Damaged`].
    pub fn stream_reader(&self, name: &str) -> Result<StreamReader, Error> {
        self.inner.usable()?;
        let unknown = || Error::Unknown(format!("stream {name}"));
        let info = self.streams().into_iter().find(|info| info.name == name).ok_or_else(unknown)?;
        if !info.current {
            return Err(Error::Outdated(name.to_owned()));
        }
        let records = self.inner.stream_records(name)?;
        Ok(StreamReader { inner: self.inner.clone(), info, records })
    }

    /// Forgets a stream, durably and anchored: it will never be read again. For a stream that is not there, nothing happens.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Failed`]: it may still be there.
    pub fn consume(&self, name: &str) -> Result<(), Error> {
        self.inner.writable()?;
        let _one = lock(&self.inner.upkeep);
        if !self.streams().iter().any(|info| info.name == name) {
            return Ok(());
        }
        // What it held is the cleaner's, if the index can still be read; else the cleaner finds out by itself.
        let records = self.inner.stream_records(name).unwrap_or_default();
        self.inner.root_with(|books| {
            books.streams.retain(|row| row.name != name);
            Ok(())
        })?;
        records.iter().for_each(|run| self.inner.table.live(run.origin, -i64::from(run.count)));
        self.inner.write_head(true)?;
        self.inner.anchor_now()
    }
}

impl Inner {
    fn hold(self: &Arc<Self>, pin: u64) -> Hold {
        lock(&self.pins).push(pin);
        Hold { inner: self.clone(), pin }
    }

    pub(crate) fn stream_records(&self, name: &str) -> Result<Vec<Record>, Error> {
        let row = lock(&self.state).books.streams.iter().find(|row| row.name == name).cloned();
        let row = row.ok_or_else(|| Error::Unknown(format!("stream {name}")))?;
        self.push_if_needed()?;
        let mut records = Vec::new();
        let mut buffer = [0; SLOT];
        for (nth, origin) in row.index.iter().enumerate() {
            let (header, payload) = self.table.read_slot(*origin, Kind::Index, &mut buffer)?;
            let decoded = Record::decode(payload, *origin).filter(|_| header.block == nth as u64);
            records.extend(decoded.ok_or_else(|| Error::damaged(name, "the stream's index is malformed"))?);
        }
        Ok(records)
    }
}

impl StreamWriter {
    /// Adds data at `offset`, a multiple of 4096 and beyond what was written before; its length a multiple too. What is
    /// never written reads as zeroes, and pages of zeroes are not stored.
    ///
    /// # Errors
    /// [`Error::NoSpace`]: drop the writer, nothing is stored. [`Error::Invalid`], [`Error::Failed`].
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        if offset % BLOCK as u64 != 0 || data.len() % BLOCK != 0 {
            return Err(Error::Invalid("a stream is written in whole pages".into()));
        }
        let first = offset / BLOCK as u64;
        let zero = |page: &[u8]| page[..16] == [0; 16] && page.iter().all(|byte| *byte == 0);
        let kept: Vec<bool> = data.chunks_exact(BLOCK).map(|page| !zero(page)).collect();
        let mut at = 0;
        while at < kept.len() {
            let run = kept[at..].iter().take(STEP).take_while(|other| **other == kept[at]).count();
            if kept[at] {
                self.write_pages(first + at as u64, &data[at * BLOCK..(at + run) * BLOCK])?;
            }
            at += run;
        }
        Ok(())
    }

    fn write_pages(&mut self, first: u64, data: &[u8]) -> Result<(), Error> {
        self.inner.writable()?;
        {
            let mut state = lock(&self.inner.state);
            let (count, records) = (data.len() / BLOCK, &mut self.records);
            state.log.prepare(count, false)?;
            // Each page is a batch of its own: only the index makes them a stream.
            state.log.append_each(Header::new(Kind::Stream, NO_DEVICE, first), data, |nth, origin, count| {
                let block = first + nth;
                let run = Record { device: NO_DEVICE, zero: false, count, block, origin };
                if !records.last_mut().is_some_and(|last| last.join(&run)) {
                    records.push(run);
                }
                self.inner.table.live(origin, count.into());
            });
            state.books.tail += count as u64;
            state.log.push()?;
        }
        self.pages += (data.len() / BLOCK) as u64;
        self.inner.after_write()
    }

    /// Commits the stream of `size` bytes in place of one of the same name, durably and anchored. Answers the bytes stored.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Failed`]: there may be a new stream all the same; [`Vault::streams`] says.
    pub fn finish(self, size: u64) -> Result<u64, Error> {
        let inner = &self.inner;
        inner.writable()?;
        let _one = lock(&inner.upkeep);
        let mut index = Vec::new();
        {
            let mut state = lock(&inner.state);
            for (nth, records) in self.records.chunks(RECORDS).enumerate() {
                state.log.prepare_upkeep(1, false)?;
                let header = Header::new(Kind::Index, NO_DEVICE, nth as u64);
                let payload = Record::encode(records);
                state.log.append(header, &payload, true, |_, origin, _| index.push(origin));
                state.books.tail += 1;
            }
        }
        index.iter().for_each(|origin: &Origin| inner.table.live(*origin, 1));
        let old = inner.stream_records(&self.name).unwrap_or_default();
        let (name, identity, pages) = (self.name.clone(), self.identity.clone(), self.pages);
        inner.root_with(|books| {
            let (data_head, digest) = (books.data_head, books.digest);
            books.streams.retain(|row| row.name != name);
            books.streams.push(StreamRow { name, identity, size, pages, data_head, digest, index });
            Ok(())
        })?;
        old.iter().for_each(|run| inner.table.live(run.origin, -i64::from(run.count)));
        inner.write_head(true)?;
        inner.anchor_now()?;
        Ok(pages * BLOCK as u64)
    }
}

impl StreamReader {
    /// What it is.
    #[must_use]
    pub fn info(&self) -> &StreamInfo {
        &self.info
    }

    /// Gives all stored data to `each`, in order, with its offset. What lies between is zeroes.
    ///
    /// # Errors
    /// [`Error::Damaged`]: what was given before is right, but the stream is not to be used. What `each` says.
    pub fn read(&self, mut each: impl FnMut(u64, &[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let table = &self.inner.table;
        let (mut slots, mut data) = (vec![0; STEP * SLOT], vec![0; STEP * BLOCK]);
        for run in &self.records {
            let mut done = 0;
            while done < run.count {
                let count = (run.count - done).min(STEP as u32).min(SLOTS);
                let origin = Origin(run.origin.0 + u64::from(done));
                let Some(segment) = table.get(origin.segment()) else {
                    return Err(Error::damaged(&self.info.name, "a segment of the stream is missing"));
                };
                let slots = &mut slots[..count as usize * SLOT];
                table.read_raw(&segment, origin.index(), slots, true)?;
                let headers = open_slots(table, &segment, origin.index(), slots);
                let data = &mut data[..count as usize * BLOCK];
                let all = headers.iter().zip(slots.chunks_exact(SLOT)).zip(data.chunks_exact_mut(BLOCK));
                for (nth, ((header, slot), page)) in all.enumerate() {
                    let block = run.block + u64::from(done) + nth as u64;
                    if !header.is_some_and(|header| header.is(Kind::Stream, NO_DEVICE, block)) {
                        let damage =
                            segment.damage(origin.index() + nth as u32, "a page of a stream is not as written");
                        return Err(Error::Damaged(Box::new(damage)));
                    }
                    page.copy_from_slice(slot::payload(slot));
                }
                each((run.block + u64::from(done)) * BLOCK as u64, data)?;
                done += count;
            }
        }
        Ok(())
    }
}
