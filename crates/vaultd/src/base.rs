//! A device's base from chunks: read when first asked for, verified before a byte is given out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use twofold_chunks::folder::Row;
use twofold_chunks::seal::Opening;
use twofold_chunks::source::{self, Source};
use twofold_chunks::{BLOCK, Id};
use twofold_nbd::Wake;
use twofold_vault as vault;

use crate::index::Table;
use crate::wants::Wants;

/// Bytes of opened chunks that are kept, for all devices together.
pub const KEPT: usize = 16 << 20;

/// Where chunks come from, and those that were opened last.
pub struct Shelf {
    sources: Vec<Box<dyn Source>>,
    opened: Mutex<Opened>,
    /// A chunk is opened by one thread at a time; the others take what it found.
    busy: Mutex<HashSet<Id>>,
    idle: Condvar,
    tools: Mutex<Vec<Opening>>,
    /// What is missing.
    pub wants: Arc<Wants>,
}

#[derive(Default)]
struct Opened {
    chunks: HashMap<Id, (u64, Arc<[u8]>)>,
    /// When a chunk was last used; the first is the next to go.
    ages: BTreeMap<u64, Id>,
    now: u64,
    bytes: usize,
}

impl Opened {
    fn get(&mut self, row: &Row) -> Option<Arc<[u8]>> {
        self.now += 1;
        let (age, plain) = self.chunks.get_mut(&row.id).filter(|(_, plain)| plain.len() == row.size)?;
        self.ages.remove(age);
        *age = self.now;
        self.ages.insert(self.now, row.id);
        Some(Arc::clone(plain))
    }

    fn put(&mut self, id: Id, plain: Arc<[u8]>) {
        self.now += 1;
        self.bytes += plain.len();
        if let Some((age, former)) = self.chunks.insert(id, (self.now, plain)) {
            self.ages.remove(&age);
            self.bytes -= former.len();
        }
        self.ages.insert(self.now, id);
        while self.bytes > KEPT {
            let Some((_, oldest)) = self.ages.pop_first() else { break };
            self.bytes -= self.chunks.remove(&oldest).map_or(0, |(_, plain)| plain.len());
        }
    }
}

impl Shelf {
    /// `sources` in the order in which they are looked at.
    pub fn new(sources: Vec<Box<dyn Source>>, wants: Arc<Wants>) -> Arc<Self> {
        Arc::new(Self {
            sources,
            opened: Mutex::default(),
            busy: Mutex::default(),
            idle: Condvar::new(),
            tools: Mutex::default(),
            wants,
        })
    }

    /// Bytes of opened chunks in memory, at most [`KEPT`] and a chunk.
    pub fn kept(&self) -> usize {
        lock(&self.opened).bytes
    }

    /// A chunk's plaintext; None where no source has it whole.
    fn plain(&self, row: &Row) -> Option<Arc<[u8]>> {
        let _turn = loop {
            if let Some(plain) = lock(&self.opened).get(row) {
                return Some(plain);
            }
            let mut busy = lock(&self.busy);
            if busy.insert(row.id) {
                break Turn(self, row.id);
            }
            while busy.contains(&row.id) {
                busy = self.idle.wait(busy).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let mut tool = lock(&self.tools).pop().map_or_else(Opening::new, Ok).ok()?;
        let mut plain = vec![0; row.size];
        let whole = source::open(&self.sources, &mut tool, &row.id, &row.key, &mut plain);
        lock(&self.tools).push(tool);
        if !whole {
            return None;
        }
        let plain: Arc<[u8]> = plain.into();
        self.wants.found(&row.id);
        lock(&self.opened).put(row.id, Arc::clone(&plain));
        Some(plain)
    }

    fn lacks(&self, row: &Row) -> bool {
        !lock(&self.opened).chunks.contains_key(&row.id) && !self.sources.iter().any(|source| source.has(&row.id))
    }
}

struct Turn<'a>(&'a Shelf, Id);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.0.busy).remove(&self.1);
        self.0.idle.notify_all();
    }
}

/// One device's base.
pub struct ChunkBase {
    table: Table,
    shelf: Arc<Shelf>,
    seen: Vec<AtomicBool>,
    /// Rows in the order in which they were first read.
    order: Mutex<Vec<u32>>,
}

impl ChunkBase {
    /// What `table` says, from `shelf`.
    pub fn new(table: Table, shelf: Arc<Shelf>) -> Arc<Self> {
        let seen = table.rows.iter().map(|_| AtomicBool::new(false)).collect();
        Arc::new(Self { table, shelf, seen, order: Mutex::default() })
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.table.device
    }

    /// Bytes of the part.
    pub fn size(&self) -> u64 {
        self.table.size
    }

    /// Which ranges were read so far, in the order in which each was first: offset and length in bytes of the part.
    pub fn touched(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for row in lock(&self.order).iter().map(|row| &self.table.rows[*row as usize]) {
            match ranges.last_mut() {
                Some((offset, length)) if *offset + *length == row.offset => *length += row.size as u64,
                _ => ranges.push((row.offset, row.size as u64)),
            }
        }
        ranges
    }

    /// Call `wake` once what the range lacks is there, or will not come.
    pub fn later(&self, offset: u64, length: u64, wake: Wake) {
        let ids: Vec<_> = self.rows(offset, length).map(|(_, row)| row.id).collect();
        self.shelf.wants.wait(&ids, wake);
    }

    /// The rows that lie in a range, with their numbers.
    fn rows(&self, offset: u64, length: u64) -> impl Iterator<Item = (usize, &Row)> {
        let first = self.table.rows.partition_point(|row| row.offset + row.size as u64 <= offset);
        let end = offset.saturating_add(length);
        self.table.rows[first..]
            .iter()
            .enumerate()
            .map(move |(nth, row)| (first + nth, row))
            .take_while(move |(_, row)| row.offset < end)
    }

    fn touch(&self, nth: usize) {
        if !self.seen[nth].load(Ordering::Relaxed) && !self.seen[nth].swap(true, Ordering::AcqRel) {
            lock(&self.order).push(u32::try_from(nth).unwrap_or(u32::MAX));
        }
    }

    /// Copies what the rows say; `find` gives a chunk's plaintext, or the error to end with.
    fn fill(
        &self,
        offset: u64,
        buffer: &mut [u8],
        find: impl Fn(&Row) -> Result<Arc<[u8]>, vault::Error>,
    ) -> Result<(), vault::Error> {
        let mut done = 0;
        let place = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
        for (nth, row) in self.rows(offset, buffer.len() as u64) {
            let plain = find(row)?;
            let (from, to) = (place(row.offset), place(row.offset + row.size as u64).min(buffer.len()));
            buffer[done..from].fill(0);
            let skip = usize::try_from(offset.saturating_sub(row.offset)).unwrap_or(usize::MAX);
            buffer[from..to].copy_from_slice(&plain[skip..skip + to - from]);
            done = to;
            self.touch(nth);
        }
        buffer[done..].fill(0);
        Ok(())
    }

    /// Ask for a row, and for what else the range lacks, so that all of it comes in one go.
    fn away(&self, row: &Row, offset: u64, length: u64) -> vault::Error {
        let end = offset + length;
        let from = row.offset.max(offset);
        let others = self.rows(from, end - from).skip(1).filter(|(_, other)| self.shelf.lacks(other));
        let ids: Vec<_> = std::iter::once(row.id).chain(others.map(|(_, other)| other.id)).collect();
        self.shelf.wants.ask(&ids);
        let until = (row.offset + row.size as u64).next_multiple_of(BLOCK as u64).min(end);
        vault::Error::Away { offset: from, length: until - from }
    }
}

impl vault::Base for ChunkBase {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), vault::Error> {
        let length = buffer.len() as u64;
        self.fill(offset, buffer, |row| self.shelf.plain(row).ok_or_else(|| self.away(row, offset, length)))
    }

    fn try_read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), vault::Error> {
        self.fill(offset, buffer, |row| lock(&self.shelf.opened).get(row).ok_or(vault::Error::WouldBlock))
    }

    fn extent(&self, offset: u64) -> (bool, u64) {
        let up = |row: &Row| (row.offset + row.size as u64).next_multiple_of(BLOCK as u64);
        match self.rows(offset, u64::MAX).next() {
            None => (false, u64::MAX),
            Some((_, row)) if row.offset > offset => (false, row.offset - offset),
            // Neighbours are one range.
            Some((nth, row)) => {
                let rest = self.table.rows[nth + 1..].iter();
                let end = rest
                    .take(4096)
                    .try_fold(up(row), |end, next| if next.offset == end { Ok(up(next)) } else { Err(end) });
                (true, end.unwrap_or_else(|end| end) - offset)
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
