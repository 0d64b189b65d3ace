//! The cleaner: moves what is needed out of files that are mostly not, sealed as it is (docs/vault-format.md).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::error::Error;
use crate::inner::Inner;
use crate::pack::{self, Kept};
use crate::slot::SLOT;
use crate::sync::lock;
use crate::table::Segment;
use crate::vault::Vault;

/// Segments' worth of slots moved before old files go: so much space a pass takes beyond what it frees. 128 MiB.
const STEP: u64 = 2;
/// Between two steps.
const TURN: Duration = Duration::from_millis(1);

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

/// How somebody without keys makes a pack: `start`, then the pieces one after the other, then `start` again.
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
    name: String,
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
    /// Frees what is dead in old files. Readers never see it; writers wait only for the locks of a checkpoint, and other
    /// upkeep (a generation, a stream's commit) for a step of 128 MiB.
    ///
    /// # Errors
    /// [`Error::Damaged`] where a map can't be read: then nothing is removed, since nobody can tell what is needed.
    /// [`Error::NoSpace`], [`Error::Failed`]: nothing is lost.
    pub fn clean(&self, how: Cleaning) -> Result<Cleaned, Error> {
        self.inner.writable()?;
        let _one = lock(&self.inner.cleaning);
        self.inner.clean(how)
    }

    /// Removes the files of which nothing is needed any more and moves nothing: what a consumed memory has left, say, so that
    /// the next generation does not name it. Quick where there are none.
    ///
    /// # Errors
    /// As [`Vault::clean`].
    pub fn sweep(&self) -> Result<Cleaned, Error> {
        self.inner.writable()?;
        if !self.inner.has_empty() {
            return Ok(Cleaned::default());
        }
        self.clean(Cleaning { least_dead: 1.0, most: 0 })
    }
}

impl Inner {
    /// Whether, by the counts, there is a file before the newest root of which nothing is needed. The marks tell for certain.
    fn has_empty(&self) -> bool {
        let root = lock(&self.state).books.root.segment();
        let mut files: BTreeMap<String, i64> = BTreeMap::new();
        for segment in self.table.all().iter().filter(|segment| segment.number < root) {
            *files.entry(segment.file_name()).or_default() += segment.live.load(Ordering::Relaxed).max(0);
        }
        files.values().any(|live| *live == 0)
    }

    /// The lock on cleaning is held, that on upkeep is not: it is taken for one step after the other. What was dead when the
    /// pass began stays dead, whatever else happens between two steps.
    pub(crate) fn clean(&self, how: Cleaning) -> Result<Cleaned, Error> {
        let mut victims = {
            let _one = lock(&self.upkeep);
            self.usable()?;
            self.checkpoint_in_full()?;
            self.remove_replaced()?;
            self.victims(how)?
        };
        let mut done = Cleaned::default();
        while !victims.is_empty() {
            {
                let _one = lock(&self.upkeep);
                self.usable()?;
                let some = self.next_step(&mut victims);
                self.rewrite(some, &mut done)?;
                self.survey();
            }
            // Whoever waits for the lock gets it now, not when we have it again.
            std::thread::sleep(TURN);
        }
        Ok(done)
    }

    /// Files that are worth rewriting, the best first. The lock on upkeep is held.
    fn victims(&self, how: Cleaning) -> Result<Vec<Victim>, Error> {
        let root = lock(&self.state).books.root.segment();
        let mut marks = self.mark()?;
        let mut files: BTreeMap<String, Victim> = BTreeMap::new();
        for segment in self.table.all() {
            if segment.number >= root.min(self.pinned()) {
                continue;
            }
            let kept = marks.take(segment.number);
            segment.live.store(kept.count().into(), Ordering::Relaxed);
            let name = segment.file_name();
            let file = files.entry(name.clone()).or_insert_with(|| Victim { name, ..Victim::default() });
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
        let mut victims: Vec<Victim> = files
            .into_values()
            .filter(|file| file.live == 0 || file.live as f64 <= (1.0 - least) * file.stored as f64)
            .collect();
        victims.sort_by(|a, b| b.worth(root).total_cmp(&a.worth(root)));
        let mut budget = how.most / SLOT as u64;
        victims.retain(|file| {
            let fits = file.live <= budget;
            budget -= if fits { file.live } else { 0 };
            fits
        });
        Ok(victims)
    }

    fn pinned(&self) -> u64 {
        lock(&self.pins).iter().min().copied().unwrap_or(u64::MAX)
    }

    /// Takes those out that go next, and those that can't go now.
    fn next_step(&self, victims: &mut Vec<Victim>) -> Vec<Victim> {
        // Packs come before anything goes, and the root that names them needs a place too.
        let step = STEP * u64::from(self.options.segment_slots);
        let mut room = step.min(lock(&self.state).log.room_for_packs() / SLOT as u64);
        let (pinned, mut some) = (self.pinned(), Vec::new());
        let mut rest = std::mem::take(victims).into_iter();
        for file in rest.by_ref().filter(|file| file.newest < pinned && !self.is_held(&file.name)) {
            if file.live <= room {
                room -= file.live;
                some.push(file);
            } else if !some.is_empty() {
                victims.push(file);
                break;
            }
        }
        victims.extend(rest);
        some
    }

    fn rewrite(&self, victims: Vec<Victim>, done: &mut Cleaned) -> Result<(), Error> {
        if victims.is_empty() {
            return Ok(());
        }
        let mut moving: Vec<(Arc<Segment>, Kept)> = Vec::new();
        let (mut empty, mut gone) = (Vec::new(), Vec::new());
        for file in victims {
            gone.push((file.name, file.stored));
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
                slots <= self.options.segment_slots
            };
            let count = rest.iter().take(pack::MOST).take_while(fits).count();
            let (some, others) = rest.split_at(count.max(1));
            let recipe = self.write_pack(some)?;
            done.moved += recipe.pieces.iter().map(|(_, _, length)| length).sum::<u64>();
            done.recipes.push(recipe);
            rest = others;
        }
        empty.iter().for_each(|number| self.table.drop_segment(*number));
        done.removed += gone.iter().map(|(_, slots)| slots * SLOT as u64).sum::<u64>();
        done.gone.extend(gone.iter().map(|(name, _)| name.clone()));
        lock(&self.replaced).extend(gone);
        self.root_with(|_| Ok(()))?;
        self.remove_replaced()
    }

    /// The newest root is durable and does not name them any more.
    fn remove_replaced(&self) -> Result<(), Error> {
        if lock(&self.replaced).is_empty() {
            return Ok(());
        }
        self.write_head(true)?;
        for (name, _) in std::mem::take(&mut *lock(&self.replaced)) {
            // What can't be removed now is swept at the next opening.
            let _ = self.table.store().remove(&name);
        }
        Ok(())
    }
}
