//! A device's base from chunks: read when first asked for, verified before a byte is given out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
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
/// Chunks that are asked for behind one that lacks.
const AHEAD: usize = 3;

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
    /// A bit for each block of the part: it was read.
    seen: Vec<AtomicU64>,
    /// Blocks in the order in which they were first read: from, to.
    order: Mutex<Vec<(u64, u64)>>,
}

impl ChunkBase {
    /// What `table` says, from `shelf`.
    pub fn new(table: Table, shelf: Arc<Shelf>) -> Arc<Self> {
        let seen = (0..=table.size / BLOCK as u64 / 64).map(|_| AtomicU64::new(0)).collect();
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

    /// Which ranges were read so far, in the order in which each was first, holes left out: offset and length in bytes of the
    /// part, whole blocks but for its end. What a read brought along of its chunks is not in it: a publisher cuts by this.
    pub fn touched(&self) -> Vec<(u64, u64)> {
        let block = BLOCK as u64;
        lock(&self.order)
            .iter()
            .map(|(from, to)| (from * block, (to * block).min(self.table.size) - from * block))
            .collect()
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

    /// Note that these bytes were read.
    fn touch(&self, from: u64, to: u64) {
        for at in from / BLOCK as u64..to.div_ceil(BLOCK as u64) {
            let (word, bit) = (&self.seen[usize::try_from(at / 64).unwrap_or(usize::MAX)], 1 << (at % 64));
            if word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::AcqRel) & bit == 0 {
                let mut order = lock(&self.order);
                match order.last_mut() {
                    Some((_, end)) if *end == at => *end += 1,
                    _ => order.push((at, at + 1)),
                }
            }
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
        for (_, row) in self.rows(offset, buffer.len() as u64) {
            let plain = find(row)?;
            let (from, to) = (place(row.offset), place(row.offset + row.size as u64).min(buffer.len()));
            buffer[done..from].fill(0);
            let skip = usize::try_from(offset.saturating_sub(row.offset)).unwrap_or(usize::MAX);
            buffer[from..to].copy_from_slice(&plain[skip..skip + to - from]);
            self.touch(offset + from as u64, offset + to as u64);
            done = to;
        }
        buffer[done..].fill(0);
        Ok(())
    }

    /// Ask for a row, for what else the range lacks, so that all of it comes in one go, and for what lies behind it: files lie
    /// in one piece, and most are read to their end.
    fn away(&self, row: &Row, offset: u64, length: u64) -> vault::Error {
        let end = offset + length;
        let from = row.offset.max(offset);
        let others = self.rows(from, end - from).skip(1);
        let behind = self.rows(end, u64::MAX).take(AHEAD).skip_while(|(_, other)| other.offset < end);
        let lacking = others.chain(behind).filter(|(_, other)| self.shelf.lacks(other));
        let ids: Vec<_> = std::iter::once(row.id).chain(lacking.map(|(_, other)| other.id)).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use twofold_chunks::seal::{Sealing, Secret};
    use twofold_chunks::{Error, MAX_CHUNK};
    use twofold_vault::Base;

    /// Chunks in memory that counts how often each is asked for.
    struct Ram(HashMap<Id, Vec<u8>>, Arc<AtomicUsize>);

    impl Source for Ram {
        fn sealed(&self, id: &Id) -> Result<Option<Vec<u8>>, Error> {
            self.1.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            Ok(self.0.get(id).cloned())
        }

        fn has(&self, id: &Id) -> bool {
            self.0.contains_key(id)
        }
    }

    /// `count` chunks of `size` bytes behind each other, a block's hole between any two.
    fn made(count: usize, size: usize, lost: &[usize]) -> (Arc<ChunkBase>, Vec<u8>, Arc<AtomicUsize>) {
        let secret = Secret::new(&[1; 32]);
        let mut sealing = Sealing::new().unwrap();
        let (mut rows, mut chunks, mut plain) = (Vec::new(), HashMap::new(), Vec::new());
        for nth in 0..count {
            let bytes: Vec<u8> = (0..size).map(|at| (at / 64 + nth * 7) as u8 | 1).collect();
            let sealed = sealing.seal(&bytes, secret.key(&bytes)).unwrap();
            rows.push(Row { offset: plain.len() as u64, size, id: sealed.id, key: sealed.key });
            plain.extend(&bytes);
            plain.resize(plain.len().next_multiple_of(BLOCK) + BLOCK, 0);
            if !lost.contains(&nth) {
                chunks.insert(sealed.id, sealed.bytes);
            }
        }
        let reads = Arc::new(AtomicUsize::new(0));
        let wants = Wants::new(Box::new(|_| {}), Duration::from_secs(60)).unwrap();
        let shelf = Shelf::new(vec![Box::new(Ram(chunks, Arc::clone(&reads)))], wants);
        let size = plain.len() as u64;
        (ChunkBase::new(Table { device: "system".into(), size, rows }, shelf), plain, reads)
    }

    #[test]
    fn any_range_reads_as_it_was_sealed_holes_and_all() {
        let (base, plain, _) = made(5, 3 * BLOCK - 100, &[]);
        for from in (0..plain.len()).step_by(BLOCK) {
            for to in (from + BLOCK..=plain.len()).step_by(BLOCK) {
                let mut found = vec![9; to - from];
                base.read(from as u64, &mut found).unwrap();
                assert!(found == plain[from..to], "{from} to {to}");
                found.fill(9);
                base.try_read(from as u64, &mut found).unwrap();
                assert!(found == plain[from..to], "{from} to {to}, from memory");
            }
            let (data, length) = base.extent(from as u64);
            assert_eq!(data, plain[from..from + BLOCK].iter().any(|byte| *byte != 0));
            let same =
                plain[from..].chunks(BLOCK).take_while(|block| block.iter().any(|byte| *byte != 0) == data).count();
            assert!(length == (same * BLOCK) as u64 || (length == u64::MAX && !data));
        }
        let mut behind = vec![9; BLOCK];
        base.read(plain.len() as u64 + (1 << 20), &mut behind).unwrap();
        assert!(behind.iter().all(|byte| *byte == 0), "behind its end it is zeroes");
    }

    #[test]
    fn readers_of_one_chunk_open_it_once_and_ask_for_it_once() {
        let (base, plain, reads) = made(2, 2 * BLOCK, &[1]);
        let second = base.table.rows[1].offset;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut found = vec![0; 2 * BLOCK];
                    base.read(0, &mut found).unwrap();
                    assert!(found == plain[..2 * BLOCK]);
                });
            }
        });
        assert_eq!(reads.load(Ordering::SeqCst), 1);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let away = base.read(second, &mut vec![0; BLOCK]).unwrap_err();
                    assert!(matches!(away, vault::Error::Away { offset, length: 4096 } if offset == second));
                });
            }
        });
        assert_eq!(base.shelf.wants.count(), 1);
        assert!(matches!(base.try_read(second, &mut vec![0; BLOCK]), Err(vault::Error::WouldBlock)));
    }

    #[test]
    fn all_that_a_read_lacks_is_asked_for_in_one_go() {
        let (base, plain, _) = made(6, BLOCK, &[1, 2, 4]);
        let away = base.read(0, &mut vec![0; plain.len()]).unwrap_err();
        assert!(matches!(away, vault::Error::Away { offset: 8192, length: 4096 }));
        assert_eq!(base.shelf.wants.count(), 3);
    }

    #[test]
    fn what_is_kept_opened_is_bounded_and_the_least_used_goes_first() {
        let count = KEPT / MAX_CHUNK + 8;
        let (base, _, reads) = made(count, MAX_CHUNK, &[]);
        let read = |nth: usize| base.read(base.table.rows[nth].offset, &mut vec![0; BLOCK]).unwrap();
        for nth in 0..count {
            read(nth);
            read(0);
            assert!(base.shelf.kept() <= KEPT);
        }
        assert_eq!(reads.load(Ordering::SeqCst), count, "the first was used all the time, and stayed");
        read(count - 1);
        assert_eq!(reads.load(Ordering::SeqCst), count);
        read(1);
        assert_eq!(reads.load(Ordering::SeqCst), count + 1);
    }

    #[test]
    fn an_index_that_names_one_chunk_with_two_sizes_gives_out_neither_wrongly() {
        let (base, plain, _) = made(1, 2 * BLOCK, &[]);
        let mut rows = base.table.rows.clone();
        rows.push(Row { offset: 8 * BLOCK as u64, size: BLOCK, ..rows[0].clone() });
        let table = Table { device: "system".into(), size: 1 << 20, rows };
        let bad = ChunkBase::new(table, Arc::clone(&base.shelf));
        let mut found = vec![0; 2 * BLOCK];
        bad.read(0, &mut found).unwrap();
        assert!(found == plain[..2 * BLOCK]);
        assert!(bad.read(8 * BLOCK as u64, &mut found[..BLOCK]).is_err());
    }
}
