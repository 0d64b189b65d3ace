//! The cleaner: moves what is needed out of files that are mostly not, sealed as it is (docs/vault-format.md).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::Error;
use crate::inner::Inner;
use crate::pack::{self, Kept, PackRow};
use crate::slot::{SLOT, SLOTS};
use crate::sync::lock;
use crate::table::Segment;
use crate::vault::Vault;

/// Slots copied in one step.
const STEP: u32 = 256;

/// How far the cleaner goes in one pass.
#[derive(Clone, Copy, Debug)]
pub struct Cleaning {
    /// Files of which at least this part is dead are rewritten; never less than an eighth. 0.25 by default.
    pub least_dead: f64,
    /// Bytes moved at most. 512 MiB by default.
    pub most: u64,
}

impl Default for Cleaning {
    fn default() -> Self {
        Self { least_dead: 0.25, most: 512 << 20 }
    }
}

/// What a pass did.
#[derive(Clone, Debug, Default)]
pub struct Cleaned {
    /// Bytes that were moved.
    pub moved: u64,
    /// Bytes of the files that were removed.
    pub removed: u64,
    /// How each new pack is made of files that were there.
    pub recipes: Vec<Recipe>,
    /// Files that are gone.
    pub gone: Vec<String>,
}

/// How somebody without keys makes a pack: `start`, then the pieces one after the other.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The pack's name.
    pub name: String,
    /// Header, records and MAC.
    pub start: Vec<u8>,
    /// File, offset, length.
    pub pieces: Vec<(String, u64, u64)>,
    /// Of the result, in bytes.
    pub length: u64,
    /// BLAKE3 of the result.
    pub digest: [u8; 32],
}

/// A file and the segments in it, with what is needed of them.
#[derive(Default)]
struct Victim {
    segments: Vec<(Arc<Segment>, Kept)>,
    stored: u64,
    live: u64,
    newest: u64,
}

impl Victim {
    /// Cost and benefit of log-structured file systems: what is gained, for how long, for what is moved.
    fn worth(&self, now: u64) -> f64 {
        let used = self.live as f64 / self.stored.max(1) as f64;
        let age = now.saturating_sub(self.newest) as f64 + 1.0;
        (1.0 - used) * age / (1.0 + used)
    }
}

impl Vault {
    /// Frees what is dead in old files. Readers never see it; writers wait only for the locks of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Damaged`] where a map can't be read: then nothing is removed, since nobody can tell what is needed.
    /// [`Error::NoSpace`], [`Error::Failed`]: nothing is lost.
    pub fn clean(&self, how: Cleaning) -> Result<Cleaned, Error> {
        self.inner.writable()?;
        let _one = lock(&self.inner.upkeep);
        self.inner.clean(how)
    }
}

impl Inner {
    /// The lock on upkeep is held.
    pub(crate) fn clean(&self, how: Cleaning) -> Result<Cleaned, Error> {
        self.checkpoint_in_full()?;
        self.remove_replaced()?;
        self.clean_files(how)
    }

    fn clean_files(&self, how: Cleaning) -> Result<Cleaned, Error> {
        let root = lock(&self.state).books.root.segment();
        let pinned = lock(&self.pins).iter().min().copied().unwrap_or(u64::MAX);
        let mut marks = self.mark()?;
        let mut files: BTreeMap<String, Victim> = BTreeMap::new();
        for segment in self.table.all() {
            if segment.number >= root.min(pinned) {
                continue;
            }
            let kept = marks.take(segment.number);
            segment.live.store(kept.count().into(), Ordering::Relaxed);
            let file = files.entry(segment.file_name()).or_default();
            file.stored += match segment.pack() {
                0 => u64::from(segment.slots.load(Ordering::Acquire)),
                // A pack that can't be read is nobody's victim.
                _ => self.table.kept(&segment).map_or(u64::from(kept.count()), |stored| stored.into()),
            };
            file.live += u64::from(kept.count());
            file.newest = file.newest.max(segment.number);
            file.segments.push((segment, kept));
        }
        let least = how.least_dead.max(0.125);
        let mut victims: Vec<(String, Victim)> = files
            .into_iter()
            .filter(|(_, file)| file.live == 0 || file.live as f64 <= (1.0 - least) * file.stored as f64)
            .collect();
        victims.sort_by(|(_, a), (_, b)| b.worth(root).total_cmp(&a.worth(root)));
        // Packs come before anything goes, and the root that names them needs a place too.
        let mut budget = how.most.min(lock(&self.state).log.room_for_packs()) / SLOT as u64;
        victims.retain(|(_, file)| {
            let fits = file.live <= budget;
            budget -= if fits { file.live } else { 0 };
            fits
        });
        self.rewrite(victims)
    }

    fn rewrite(&self, victims: Vec<(String, Victim)>) -> Result<Cleaned, Error> {
        let mut done = Cleaned::default();
        if victims.is_empty() {
            return Ok(done);
        }
        let mut moving: Vec<(Arc<Segment>, Kept)> = Vec::new();
        let mut empty = Vec::new();
        for (name, file) in victims {
            done.removed += file.stored * SLOT as u64;
            done.gone.push(name);
            for (segment, kept) in file.segments {
                if kept.count() == 0 { empty.push(segment.number) } else { moving.push((segment, kept)) }
            }
        }
        moving.sort_by_key(|(segment, _)| segment.number);
        let mut rest = &moving[..];
        while !rest.is_empty() {
            let mut slots = 0;
            let fits = |(_, kept): &&(Arc<Segment>, Kept)| {
                slots += kept.count();
                slots <= SLOTS
            };
            let count = rest.iter().take(pack::MOST).take_while(fits).count();
            let (some, others) = rest.split_at(count.max(1));
            self.keep_tail_short()?;
            let recipe = self.write_pack(some)?;
            done.moved += recipe.pieces.iter().map(|(_, _, length)| length).sum::<u64>();
            done.recipes.push(recipe);
            rest = others;
        }
        empty.iter().for_each(|number| self.table.drop_segment(*number));
        lock(&self.replaced).extend(done.gone.iter().cloned());
        self.root_with(|_| Ok(()))?;
        self.remove_replaced()?;
        Ok(done)
    }

    /// The newest root is durable and does not name them any more.
    fn remove_replaced(&self) -> Result<(), Error> {
        if lock(&self.replaced).is_empty() {
            return Ok(());
        }
        self.write_head(true)?;
        for name in std::mem::take(&mut *lock(&self.replaced)) {
            // What can't be removed now is swept at the next opening.
            let _ = self.table.store().remove(&name);
        }
        Ok(())
    }

    fn write_pack(&self, segments: &[(Arc<Segment>, Kept)]) -> Result<Recipe, Error> {
        let store = self.table.store();
        let (number, file) = loop {
            let number = {
                let mut state = lock(&self.state);
                state.books.next_pack += 1;
                state.books.next_pack - 1
            };
            match store.create(&pack::name(number)) {
                Ok(file) => break (number, file),
                Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
                Err(why) => return Err(Error::io(pack::name(number), why)),
            }
        };
        let result = self.fill_pack(segments, number, &*file);
        if result.is_err() {
            let _ = store.remove(&pack::name(number));
        }
        let (recipe, rows) = result?;
        for ((segment, _), row) in segments.iter().zip(rows) {
            self.table.move_to_pack(segment, number, row, file.clone());
        }
        Ok(recipe)
    }

    fn fill_pack(
        &self,
        segments: &[(Arc<Segment>, Kept)],
        number: u64,
        file: &dyn crate::store::Medium,
    ) -> Result<(Recipe, Vec<PackRow>), Error> {
        let name = pack::name(number);
        let failed = |why| Error::io(&name, why);
        let mut at = pack::start(segments.len());
        let mut rows = Vec::new();
        for (segment, kept) in segments {
            let count = u64::from(kept.count());
            let (number, epoch, salt) = (segment.number, segment.epoch, segment.salt);
            rows.push(PackRow { segment: number, epoch, salt, offset: at, kept: kept.clone() });
            at += count * SLOT as u64;
        }
        let start = pack::encode(number, &rows, at, &self.table.ring(), self.table.id())?;
        file.reserve(at).map_err(failed)?;
        file.write_at(&start, 0).map_err(failed)?;
        let mut digest = blake3::Hasher::new();
        digest.update(&start);
        let mut pieces: Vec<(String, u64, u64)> = Vec::new();
        let (mut to, mut buffer) = (start.len() as u64, vec![0; STEP as usize * SLOT]);
        for (segment, kept) in segments {
            let mut indexes = kept.indexes().peekable();
            while let Some(first) = indexes.next() {
                let mut count = 1;
                while count < STEP && indexes.next_if_eq(&(first + count)).is_some() {
                    count += 1;
                }
                let slots = &mut buffer[..count as usize * SLOT];
                let from = self.table.read_where(segment, first, slots)?;
                file.write_at(slots, to).map_err(failed)?;
                digest.update(slots);
                to += slots.len() as u64;
                match pieces.last_mut() {
                    Some((file, at, length)) if *file == from.0 && *at + *length == from.1 => {
                        *length += slots.len() as u64
                    }
                    _ => pieces.push((from.0, from.1, slots.len() as u64)),
                }
            }
        }
        file.sync().and_then(|()| self.table.store().sync()).map_err(failed)?;
        let digest = *digest.finalize().as_bytes();
        Ok((Recipe { name: name.clone(), start, pieces, length: at, digest }, rows))
    }

    /// Whether so much is dead that a pass pays.
    pub(crate) fn is_dirty(&self) -> bool {
        let current = lock(&self.state).books.root.segment();
        let (mut stored, mut live) = (0, 0);
        for segment in self.table.all().iter().filter(|segment| segment.number < current) {
            let needed = segment.live.load(Ordering::Relaxed).max(0);
            live += needed;
            stored += match segment.pack() {
                0 => i64::from(segment.slots.load(Ordering::Acquire)),
                _ => self.table.kept_if_known(segment).map_or(needed, i64::from),
            };
        }
        // A third of what is needed, and at least eight segments' worth.
        stored - live > (live / 3).max(8 * i64::from(SLOTS))
    }
}
