//! An open vault: its parts, flushing, and the checkpoints that bound what an opening replays.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Options;
use crate::anchor::{Anchor, Anchored};
use crate::disk::{Disk, forget};
use crate::error::{Damage, Error};
use crate::generation::Views;
use crate::head::{self, Head};
use crate::keeper::Bell;
use crate::keys::digest;
use crate::log::Log;
use crate::pace::Pace;
use crate::root::{self, DeviceRow, GenerationRow, Root, STILL_OPEN, SegmentRow, StreamRow};
use crate::slot::{BLOCK, Header, Kind, Origin, RECORDS, Record};
use crate::store::Medium;
use crate::superblock::{Features, VERSION};
use crate::sync::{lock, read};
use crate::table::Table;

/// What the next root will say, and what was written since the last one.
#[derive(Clone, Default)]
pub(crate) struct Books {
    pub counter: u64,
    pub root: Origin,
    pub pieces: u32,
    pub features: Features,
    pub data_head: Origin,
    pub digest: [u8; 16],
    pub next_generation: u64,
    pub next_pack: u64,
    pub last_revert: Origin,
    pub deltas: Vec<Origin>,
    pub generations: Vec<GenerationRow>,
    pub streams: Vec<StreamRow>,
    /// What the map gained and no DELTA says yet.
    pub recent: Vec<Record>,
    /// Slots behind the last root.
    pub tail: u64,
    /// The head file to write next.
    pub which: usize,
}

pub(crate) struct State {
    pub log: Log,
    pub books: Books,
}

impl State {
    /// Notes a run that the map gained.
    pub fn note(&mut self, record: Record) {
        if !self.books.recent.last_mut().is_some_and(|last| last.join(&record)) {
            self.books.recent.push(record);
        }
    }

    /// The devices' state is that of the log's end from now on.
    pub fn moved(&mut self) {
        let end = self.log.end();
        if self.books.data_head.segment() != end.number {
            self.books.digest = digest(&end.salt);
        }
        self.books.data_head = Origin(Origin::new(end.number, end.slots).0 - 1);
    }
}

pub(crate) struct Inner {
    pub table: Arc<Table>,
    pub state: Mutex<State>,
    pub disks: RwLock<Vec<Arc<Disk>>>,
    pub anchor: Arc<dyn Anchor>,
    pub anchored: Mutex<Option<Anchored>>,
    pub options: Options,
    pub pushed: Arc<AtomicU64>,
    pub syncing: Mutex<()>,
    /// One at a time: checkpoints in full, steps of the cleaner, generations.
    pub upkeep: Mutex<()>,
    /// One pass of the cleaner at a time. Taken before the lock on upkeep.
    pub cleaning: Mutex<()>,
    pub pace: Pace,
    pub guard: Mutex<Option<Box<dyn Send + Sync>>>,
    pub closed: AtomicBool,
    pub read_only: bool,
    pub heads: Mutex<[Option<Arc<dyn Medium>>; 2]>,
    pub made: u64,
    /// Damage that opening came upon and could go on with.
    pub losses: Vec<Damage>,
    /// Segments from which on the cleaner takes nothing: streams are being written.
    pub pins: Mutex<Vec<u64>>,
    /// Files that somebody copies, which the cleaner leaves alone.
    pub held: Mutex<Vec<(u64, HashSet<String>)>>,
    /// Files that packs have replaced, and their slots, to be removed once a root that says so is durable.
    pub replaced: Mutex<Vec<(String, u64)>>,
    pub views: Mutex<Views>,
    pub bell: Arc<Bell>,
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Inner {
    pub fn usable(&self) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    pub fn writable(&self) -> Result<(), Error> {
        self.usable()?;
        if self.read_only { Err(Error::ReadOnly) } else { Ok(()) }
    }

    pub fn push(&self) -> Result<(), Error> {
        lock(&self.state).log.push()
    }

    /// Before something is read from files that may be in the buffer still, because there was no room for it.
    pub fn push_if_needed(&self) -> Result<(), Error> {
        let mut state = lock(&self.state);
        if state.log.end().origin().0 > self.pushed.load(Ordering::Acquire) { state.log.push() } else { Ok(()) }
    }

    /// Slots that may not be in a file yet: hands them over, or, on a full disk, copies them. False: they are in the file.
    pub fn in_buffer(&self, origin: Origin, slots: &mut [u8]) -> Result<bool, Error> {
        let mut state = lock(&self.state);
        match state.log.push() {
            Err(_) if state.log.copy(origin, slots) => Ok(true),
            result => result.map(|()| false),
        }
    }

    /// Makes everything written so far durable.
    pub fn flush(&self) -> Result<(), Error> {
        let _one = lock(&self.syncing);
        let plan = {
            let mut state = lock(&self.state);
            state.log.push()?;
            state.log.plan()
        };
        let Some(plan) = plan else { return Ok(()) };
        let result = plan.run(&self.table);
        lock(&self.state).log.planned(&plan, result)
    }

    /// A light checkpoint: what the map gained and a root, durable, so that an opening replays from here.
    pub fn checkpoint(&self) -> Result<(), Error> {
        self.root_with(|_| Ok(()))
    }

    /// As [`Inner::checkpoint`], with a change of the books that takes effect with the root or not at all.
    pub fn root_with(&self, change: impl FnOnce(&mut Books) -> Result<(), Error>) -> Result<(), Error> {
        {
            let mut state = lock(&self.state);
            self.write_deltas(&mut state)?;
            let before = state.books.clone();
            let result = change(&mut state.books).and_then(|()| self.write_root(&mut state));
            if result.is_err() {
                state.books = before;
            }
            result?;
            state.log.push()?;
        }
        self.flush()?;
        self.write_head(false)
    }

    /// Writes down what the map gained.
    pub fn write_deltas(&self, state: &mut State) -> Result<(), Error> {
        while !state.books.recent.is_empty() {
            state.log.prepare_upkeep(1, false)?;
            let count = state.books.recent.len().min(RECORDS);
            let payload = Record::encode(&state.books.recent[..count]);
            let mut made = Origin::NONE;
            state.log.append(Header::new(Kind::Delta, 0, 0), &payload, true, |_, origin, _| made = origin);
            self.table.live(made, 1);
            state.books.recent.drain(..count);
            state.books.deltas.push(made);
            state.books.tail += 1;
        }
        Ok(())
    }

    /// Slots that a root takes at most.
    pub fn root_room(&self, books: &Books, disks: &[DeviceRow]) -> usize {
        // The segment that the root lies in may be one that is only made now: room for its row.
        let mut bytes = 1024 + books.deltas.len() * 8 + (self.table.all().len() + 2) * 64;
        for row in disks {
            bytes += 64 + row.name.len() + row.pages.len() * 8;
        }
        for row in &books.generations {
            bytes += 64 + row.note.len();
        }
        for row in &books.streams {
            bytes += 128 + row.name.len() + row.identity.len() + row.index.len() * 8;
        }
        root::pieces(bytes) as usize
    }

    /// Appends a root that says what the books say. Everything that the map gained must be in deltas.
    pub fn write_root(&self, state: &mut State) -> Result<(), Error> {
        let disks: Vec<_> = read(&self.disks).iter().map(|disk| disk.row()).collect();
        state.log.prepare_upkeep(self.root_room(&state.books, &disks), true)?;
        let current = state.log.current();
        let rows = self.table.all().into_iter().map(|segment| SegmentRow {
            number: segment.number,
            pack: segment.pack(),
            epoch: segment.epoch,
            slots: if Some(segment.number) == current { STILL_OPEN } else { segment.slots.load(Ordering::Acquire) },
            live: u32::try_from(segment.live.load(Ordering::Relaxed).max(0)).unwrap_or(u32::MAX),
            salt: segment.salt,
        });
        let books = &mut state.books;
        let made = Root {
            counter: books.counter + 1,
            time: now(),
            version: VERSION,
            features: books.features,
            data_head: books.data_head,
            digest: books.digest,
            next_generation: books.next_generation,
            next_pack: books.next_pack,
            last_revert: books.last_revert,
            before: books.root,
            devices: disks,
            segments: rows.collect(),
            deltas: books.deltas.clone(),
            generations: books.generations.clone(),
            streams: books.streams.clone(),
        };
        let mut bytes = made.encode();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        let mut first = Origin::NONE;
        state.log.append(Header::new(Kind::Root, 0, 0), &bytes, true, |_, origin, _| first = origin);
        books.counter = made.counter;
        books.root = first;
        books.pieces = root::pieces(bytes.len());
        books.tail = 0;
        Ok(())
    }

    /// Says where the newest root is, which must be durable: the lock on upkeep is held since it was written. `surely`: in
    /// both files.
    pub fn write_head(&self, surely: bool) -> Result<(), Error> {
        let ring = self.table.ring();
        for _ in 0..if surely { 2 } else { 1 } {
            let (record, which) = {
                let mut state = lock(&self.state);
                let books = &mut state.books;
                let which = books.which;
                books.which = 1 - which;
                let Some(segment) = self.table.get(books.root.segment()) else {
                    return Err(Error::Invalid("there is no root yet".into()));
                };
                let (salt, epoch) = (segment.salt, segment.epoch);
                let (counter, root, pieces) = (books.counter, books.root, books.pieces);
                (Head { counter, root, pieces, time: now(), salt, epoch }, which)
            };
            let mut heads = lock(&self.heads);
            let name = head::NAMES[which];
            let store = self.table.store();
            let file = match heads[which].take() {
                Some(file) => file,
                None => store.open(name).or_else(|_| store.create(name)).map_err(|why| Error::io(name, why))?,
            };
            record.write(&*file, which, &ring, self.table.id())?;
            // At most one of the two is ever half-written.
            file.sync().map_err(|why| Error::io(name, why))?;
            if surely {
                store.sync().map_err(|why| Error::io(name, why))?;
            }
            heads[which] = Some(file);
        }
        Ok(())
    }

    /// What there is now, durable: for the anchor.
    pub fn anchor_now(&self) -> Result<(), Error> {
        let (counter, end) = {
            let state = lock(&self.state);
            (state.books.counter, state.log.end())
        };
        self.flush()?;
        let record = Anchored {
            vault: *self.table.id(),
            counter,
            segment: end.number,
            slots: end.slots,
            digest: digest(&end.salt),
            epoch: self.table.get(end.number).map_or(0, |segment| segment.epoch),
        };
        let mut anchored = lock(&self.anchored);
        if anchored.as_ref() != Some(&record) {
            self.anchor.store(&record).map_err(|why| Error::io("the anchor", why))?;
            *anchored = Some(record);
        }
        Ok(())
    }

    /// Drops entries' claims, after the lock on the map is gone.
    pub fn forget(&self, entries: &[u64]) {
        entries.iter().for_each(|entry| forget(&self.table, *entry));
    }
}
