//! What is needed of each segment: by the newest state, by the generations that are kept, by streams.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::disk::Disk;
use crate::error::Error;
use crate::inner::Inner;
use crate::map::{Content, ENTRIES, Entries};
use crate::pack::Kept;
use crate::slot::{Origin, UNIFORM, ZERO};
use crate::sync::{lock, read};

/// Bitmaps of needed slots, by segment.
#[derive(Default)]
pub(crate) struct Marks {
    segments: HashMap<u64, Vec<u64>>,
    leaves: HashSet<u64>,
}

impl Marks {
    /// Marks a slot. Whether it was not marked before.
    pub fn mark(&mut self, origin: Origin) -> bool {
        let bits = self.segments.entry(origin.segment()).or_insert_with(Kept::none);
        let (word, bit) = (origin.index() as usize / 64, 1 << (origin.index() % 64));
        let new = bits[word] & bit == 0;
        bits[word] |= bit;
        new
    }

    fn run(&mut self, origin: Origin, count: u32) {
        for nth in 0..u64::from(count) {
            self.mark(Origin(origin.0 + nth));
        }
    }

    fn address(&mut self, value: u64) {
        if value != 0 && value & (UNIFORM | ZERO) == 0 {
            self.mark(Origin(value));
        }
    }

    fn entries(&mut self, entries: &Entries) {
        entries.iter().for_each(|entry| self.address(*entry));
    }

    pub fn take(&mut self, segment: u64) -> Kept {
        Kept::new(self.segments.remove(&segment).unwrap_or_else(Kept::none))
    }

    /// All that a device's map needs, the map itself included.
    fn disk(&mut self, inner: &Inner, disk: &Disk) -> Result<(), Error> {
        let leaves = {
            let map = read(&disk.map);
            map.pages.iter().for_each(|page| self.address(*page));
            map.blocks().div_ceil(ENTRIES as u64) as u32
        };
        for leaf in 0..leaves {
            let (value, stored, content) = {
                let map = read(&disk.map);
                let (value, stored) = (map.directory(leaf), map.is_stored(leaf));
                if stored && (value == 0 || self.leaves.contains(&value)) {
                    continue;
                }
                (value, stored, map.content(leaf))
            };
            self.address(value);
            match content {
                Content::Uniform(_) => {}
                Content::Entries(entries) => self.entries(&entries),
                Content::Load(origin) => {
                    let mut entries = match disk.read_leaf(&inner.table, leaf, origin) {
                        // Stored anew since we looked: what was needed then is in memory now.
                        Err(_) if read(&disk.map).directory(leaf) != value => {
                            if let Content::Entries(entries) = read(&disk.map).content(leaf) {
                                self.entries(&entries);
                            }
                            continue;
                        }
                        other => other?,
                    };
                    for (block, entry) in read(&disk.map).newer(leaf) {
                        entries[block as usize % ENTRIES] = entry;
                    }
                    self.entries(&entries);
                }
            }
            if stored {
                self.leaves.insert(value);
            }
        }
        Ok(())
    }
}

impl Inner {
    /// Marks everything that the newest root, what was written since, and the kept generations need. The lock on upkeep is
    /// held: nothing old becomes needed again meanwhile.
    ///
    /// Fails where a part of a map can't be read: then nobody can tell what is needed.
    pub fn mark(&self) -> Result<Marks, Error> {
        let mut marks = Marks::default();
        let (root, pieces, deltas, generations, streams) = {
            let state = lock(&self.state);
            let books = &state.books;
            (books.root, books.pieces, books.deltas.clone(), books.generations.clone(), books.streams.clone())
        };
        marks.run(root, pieces);
        deltas.iter().for_each(|delta| marks.address(delta.0));
        let disks: Vec<Arc<Disk>> = read(&self.disks).clone();
        for disk in &disks {
            marks.disk(self, disk)?;
        }
        for row in &generations {
            marks.run(row.root, row.pieces);
            let view = self.view(row)?;
            view.root.deltas.iter().for_each(|delta| marks.address(delta.0));
            for disk in &view.disks {
                marks.disk(self, disk)?;
            }
        }
        for row in &streams {
            row.index.iter().for_each(|origin| marks.address(origin.0));
            for run in self.stream_records(&row.name).unwrap_or_default() {
                marks.run(run.origin, run.count);
            }
        }
        Ok(marks)
    }
}
