//! Generations: roots that are kept, over all devices at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::device::Device;
use crate::disk::Disk;
use crate::error::Error;
use crate::inner::{Books, Inner, now};
use crate::map::{ENTRIES, leaf_of};
use crate::recover::apply_deltas;
use crate::root::{GenerationRow, Root};
use crate::roots::read_root;
use crate::slot::{BLOCK, Header, Kind, Origin, UNIFORM, ZERO};
use crate::sync::{lock, read, write};
use crate::vault::Vault;

/// A commit point over all devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Numbers only grow.
    pub number: u64,
    /// When, in seconds since 1970.
    pub time: u64,
    /// What it was committed for.
    pub note: String,
}

/// A range of a device, and whether it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Whether it may differ from what it was.
    pub changed: bool,
}

/// All devices as they were at one root.
pub(crate) struct View {
    pub root: Root,
    pub disks: Vec<Arc<Disk>>,
}

impl From<&GenerationRow> for Generation {
    fn from(row: &GenerationRow) -> Self {
        Self { number: row.number, time: row.time, note: row.note.clone() }
    }
}

impl Inner {
    pub(crate) fn generation(&self, number: u64) -> Result<GenerationRow, Error> {
        let state = lock(&self.state);
        let row = state.books.generations.iter().find(|row| row.number == number);
        row.cloned().ok_or_else(|| Error::Unknown(format!("generation {number}")))
    }

    pub(crate) fn view(&self, row: &GenerationRow) -> Result<View, Error> {
        self.push_if_needed()?;
        let root = read_root(&self.table, row.root, row.pieces)?;
        let mut disks = Vec::new();
        for row in &root.devices {
            let disk = Disk::view(row, self.options.bases.get(&row.name).cloned());
            disk.load_pages(&self.table, row, &mut Vec::new())?;
            disks.push(Arc::new(disk));
        }
        apply_deltas(&self.table, &disks, &root.deltas)?;
        Ok(View { root, disks })
    }
}

impl Vault {
    /// Keeps the present state of all devices as a generation, durably and anchored. What is written from now on goes to
    /// another segment, so that the files up to here never change again.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]: there is no new generation. [`Error::NoSpace`], [`Error::Failed`]: there may be one all the same;
    /// [`Vault::generations`] says, and the next flush makes it durable.
    pub fn commit(&self, note: &str) -> Result<Generation, Error> {
        let inner = &self.inner;
        inner.writable()?;
        let _one = lock(&inner.upkeep);
        let mut row = GenerationRow {
            number: 0,
            time: now(),
            root: Origin::NONE,
            pieces: 0,
            data_head: Origin::NONE,
            note: note.to_owned(),
        };
        {
            let mut state = lock(&inner.state);
            inner.write_deltas(&mut state)?;
            let before = state.books.clone();
            row.number = before.next_generation;
            row.data_head = before.data_head;
            state.books.next_generation += 1;
            state.books.generations.push(row.clone());
            if let Err(error) = inner.write_root(&mut state) {
                state.books = before;
                return Err(error);
            }
            let (root, pieces) = (state.books.root, state.books.pieces);
            if let Some(made) = state.books.generations.last_mut() {
                (made.root, made.pieces) = (root, pieces);
            }
            inner.table.live(root, pieces.into());
            state.log.close_segment();
            state.log.push()?;
        }
        inner.count_kept();
        inner.flush()?;
        inner.write_head(true)?;
        inner.anchor_now()?;
        Ok(Generation::from(&row))
    }

    /// All generations that are kept, the oldest first.
    #[must_use]
    pub fn generations(&self) -> Vec<Generation> {
        lock(&self.inner.state).books.generations.iter().map(Generation::from).collect()
    }

    /// Keeps a generation no longer; what only it needed is the cleaner's.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::NoSpace`], [`Error::ReadOnly`].
    pub fn drop_generation(&self, number: u64) -> Result<(), Error> {
        self.inner.writable()?;
        let _one = lock(&self.inner.upkeep);
        self.inner.generation(number)?;
        self.inner.root_with(|books| {
            books.generations.retain(|row| row.number != number);
            Ok(())
        })?;
        self.inner.count_kept();
        // What it alone needed is the cleaner's.
        self.inner.pace.look_again();
        Ok(())
    }

    /// Puts all devices back to a generation, durably and anchored. Generations are kept, later ones too; streams are
    /// outdated by it. Devices that did not exist then are empty.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Damaged`]: nothing was changed. [`Error::NoSpace`]: nothing was, or it is done and the
    /// next flush makes it durable; it can be done again.
    pub fn revert(&self, number: u64) -> Result<(), Error> {
        let inner = &self.inner;
        inner.writable()?;
        let _one = lock(&inner.upkeep);
        let view = inner.view(&inner.generation(number)?)?;
        {
            let mut state = lock(&inner.state);
            let disks = read(&inner.disks).clone();
            let rows: Vec<_> = disks.iter().map(|disk| disk.row()).chain(view.root.devices.clone()).collect();
            let deltas = Books { deltas: view.root.deltas.clone(), ..state.books.clone() };
            // Nothing may fail from here on.
            state.log.prepare_upkeep(1 + inner.root_room(&deltas, &rows), true)?;
            state.log.append(Header::new(Kind::Mark, 0, 0), &[0; BLOCK], true, |_, _, _| {});
            state.moved();
            let head = state.books.data_head;
            state.books =
                Books { deltas: view.root.deltas, recent: Vec::new(), last_revert: head, ..state.books.clone() };
            for disk in &disks {
                let then = view.disks.iter().find(|other| other.id == disk.id);
                disk.swap(then);
            }
            inner.write_root(&mut state)?;
            state.log.push()?;
        }
        inner.flush()?;
        inner.write_head(true)?;
        inner.anchor_now()
    }
}

impl Device {
    /// Which parts of a range may differ from what they were at a generation: at most `most` ranges, the first and last
    /// reaching to block borders. Beyond what the device was then, everything changed.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::OutOfRange`], [`Error::Damaged`] where the map is.
    pub fn changed(&self, since: u64, offset: u64, length: u64, most: usize) -> Result<Vec<Change>, Error> {
        self.check(offset, length)?;
        let row = self.inner.generation(since)?;
        let reverted = lock(&self.inner.state).books.last_revert;
        // After a revert addresses are no dates any more: entries are compared.
        let view = if reverted > row.data_head { Some(self.inner.cached_view(&row)?) } else { None };
        let then = view.as_ref().map(|view| view.disks.iter().find(|disk| disk.id == self.disk.id));
        let mut ranges: Vec<Change> = Vec::new();
        let (mut block, behind) = (offset / BLOCK as u64, (offset + length).div_ceil(BLOCK as u64));
        let (mut now, mut old) = ([0; ENTRIES], [0; ENTRIES]);
        while block < behind {
            let leaf = leaf_of(block);
            let count = ((u64::from(leaf) + 1) * ENTRIES as u64).min(behind) - block;
            let (now, old) = (&mut now[..count as usize], &mut old[..count as usize]);
            let differ: Vec<bool> = match &then {
                None if self.is_older(leaf, row.data_head) => vec![false; now.len()],
                None => {
                    self.disk.entries(&self.inner.table, block, now, true)?;
                    now.iter().map(|entry| entry & !ZERO > row.data_head.0).collect()
                }
                Some(None) => vec![true; now.len()],
                Some(Some(disk)) => {
                    let there = (disk.size() / BLOCK as u64).saturating_sub(block).min(count) as usize;
                    self.disk.entries(&self.inner.table, block, now, true)?;
                    disk.entries(&self.inner.table, block, &mut old[..there], true)?;
                    now.iter().zip(&*old).enumerate().map(|(nth, (now, old))| nth >= there || now != old).collect()
                }
            };
            for changed in differ {
                let full = ranges.len() == most;
                match ranges.last_mut() {
                    Some(last) if last.changed == changed => last.length += BLOCK as u64,
                    _ if full => return Ok(ranges),
                    _ => ranges.push(Change { offset: block * BLOCK as u64, length: BLOCK as u64, changed }),
                }
                block += 1;
            }
        }
        Ok(ranges)
    }

    /// Whether the directory alone says that no block of the leaf is newer.
    fn is_older(&self, leaf: u32, head: Origin) -> bool {
        let map = read(&self.disk.map);
        map.is_stored(leaf) && map.directory(leaf) & !UNIFORM & !ZERO <= head.0
    }
}

/// Views that were asked for lately: loading one reads its directory.
#[derive(Default)]
pub(crate) struct Views(HashMap<u64, Arc<View>>);

impl Inner {
    fn cached_view(&self, row: &GenerationRow) -> Result<Arc<View>, Error> {
        if let Some(view) = lock(&self.views).0.get(&row.root.0) {
            return Ok(view.clone());
        }
        let view = Arc::new(self.view(row)?);
        let mut views = lock(&self.views);
        if views.0.len() >= 4 {
            views.0.clear();
        }
        views.0.insert(row.root.0, view.clone());
        Ok(view)
    }
}

impl Disk {
    /// Exchanges map and size with those of a view, or with an empty map.
    fn swap(&self, view: Option<&Arc<Self>>) {
        match view {
            Some(view) => {
                std::mem::swap(&mut *write(&self.map), &mut *write(&view.map));
                let size = self.size.swap(view.size(), Ordering::AcqRel);
                self.limit.store(view.size(), Ordering::Release);
                view.size.store(size, Ordering::Release);
            }
            None => *write(&self.map) = crate::map::Map::new(self.size()),
        }
    }
}
