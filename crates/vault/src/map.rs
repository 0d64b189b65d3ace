//! The map of one device: block to address, in leaves that come and go.
//!
//! A leaf is on disk (the directory says where), or in memory whole, or on disk with a few newer entries in memory. So neither
//! opening nor writing has to read leaves.

use std::collections::BTreeSet;

use crate::bytes::{Reader, Writer};
use crate::slot::{BLOCK, Origin, UNIFORM, ZERO};

/// Entries of a leaf, and of a directory page.
pub(crate) const ENTRIES: usize = 512;
/// A directory entry whose leaf was lost with its page.
pub(crate) const LOST: u64 = u64::MAX;
/// Where such a leaf is said to be. No segment has this number.
pub(crate) const LOST_LEAF: Origin = Origin(LOST & !(ZERO | UNIFORM));
/// Newer entries that a leaf gathers before it is loaded.
const PATCH: usize = 64;

pub(crate) type Entries = [u64; ENTRIES];

enum Leaf {
    /// As the directory says.
    Stored,
    /// As the directory says, but for these, ascending by index.
    Patched(Vec<(u16, u64)>),
    /// All entries are this one, and the directory does not say so yet.
    Uniform(u64),
    /// In memory; as the directory says, or newer (then it is dirty).
    Whole(Box<Entries>),
}

/// What is known of an entry without reading.
pub(crate) enum Found {
    Entry(u64),
    /// The leaf must be read from here first.
    Load(Origin),
}

/// A leaf that is to be stored.
pub(crate) enum Content {
    Entries(Box<Entries>),
    Uniform(u64),
    /// Patched: its older part must be installed first.
    Load(Origin),
}

pub(crate) struct Map {
    blocks: u64,
    directory: Vec<u64>,
    leaves: Vec<Leaf>,
    dirty: BTreeSet<u32>,
    whole: usize,
    hand: usize,
    /// Addresses of the directory's pages on disk, and which of them are older than the directory.
    pub pages: Vec<u64>,
    pub old_pages: BTreeSet<u32>,
}

pub(crate) fn leaf_of(block: u64) -> u32 {
    (block / ENTRIES as u64) as u32
}

pub(crate) fn encode(entries: &[u64]) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(BLOCK));
    for entry in entries {
        out.u64(*entry);
    }
    out.pad(BLOCK);
    out.0
}

/// None if an entry has bits that no entry has.
pub(crate) fn decode(payload: &[u8]) -> Option<Box<Entries>> {
    let mut from = Reader(payload);
    let mut entries = Box::new([0; ENTRIES]);
    for entry in entries.iter_mut() {
        *entry = from.u64()?;
        if *entry & UNIFORM != 0 {
            return None;
        }
    }
    Some(entries)
}

impl Map {
    pub fn new(size: u64) -> Self {
        let mut map = Self {
            blocks: 0,
            directory: Vec::new(),
            leaves: Vec::new(),
            dirty: BTreeSet::new(),
            whole: 0,
            hand: 0,
            pages: Vec::new(),
            old_pages: BTreeSet::new(),
        };
        map.resize(size);
        map
    }

    /// What is cut off must have been zeroed before.
    pub fn resize(&mut self, size: u64) {
        self.blocks = size / BLOCK as u64;
        let leaves = self.blocks.div_ceil(ENTRIES as u64) as usize;
        let pages = leaves.div_ceil(ENTRIES);
        self.whole -= self.leaves.iter().skip(leaves).filter(|leaf| matches!(leaf, Leaf::Whole(_))).count();
        self.leaves.resize_with(leaves, || Leaf::Stored);
        self.directory.resize(leaves, 0);
        self.dirty.split_off(&(leaves as u32));
        self.pages.resize(pages, 0);
        self.old_pages.split_off(&(pages as u32));
        // Where nothing could be merged, what is left is counted (`set`).
        if let Some(Leaf::Patched(newer)) = self.leaves.last_mut() {
            let first = (leaves as u64 - 1) * ENTRIES as u64;
            newer.retain(|(nth, _)| first + u64::from(*nth) < self.blocks);
        }
    }

    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The directory's page `page` can't be read.
    pub fn lose_page(&mut self, page: u32, address: u64) {
        self.install_page(page, address, &[LOST; ENTRIES]);
    }

    /// The directory's page `page`, as it was read.
    pub fn install_page(&mut self, page: u32, address: u64, entries: &Entries) {
        let from = page as usize * ENTRIES;
        let count = ENTRIES.min(self.directory.len().saturating_sub(from));
        self.directory[from..from + count].copy_from_slice(&entries[..count]);
        self.pages[page as usize] = address;
        self.old_pages.remove(&page);
    }

    pub fn page(&self, page: u32) -> &[u64] {
        let from = page as usize * ENTRIES;
        &self.directory[from..self.directory.len().min(from + ENTRIES)]
    }

    pub fn directory(&self, leaf: u32) -> u64 {
        self.directory.get(leaf as usize).copied().unwrap_or(0)
    }

    /// Whether the leaf is all that the directory says, no more.
    pub fn is_stored(&self, leaf: u32) -> bool {
        !self.dirty.contains(&leaf)
    }

    pub fn dirty_leaves(&self) -> Vec<u32> {
        self.dirty.iter().copied().collect()
    }

    fn base(&self, leaf: u32) -> Found {
        match self.directory[leaf as usize] {
            0 => Found::Entry(0),
            LOST => Found::Load(LOST_LEAF),
            entry if entry & UNIFORM != 0 => Found::Entry(entry & !UNIFORM),
            origin => Found::Load(Origin(origin)),
        }
    }

    pub fn get(&self, block: u64) -> Found {
        let (leaf, nth) = (leaf_of(block), (block % ENTRIES as u64) as u16);
        match &self.leaves[leaf as usize] {
            Leaf::Whole(entries) => Found::Entry(entries[usize::from(nth)]),
            Leaf::Uniform(entry) => Found::Entry(*entry),
            Leaf::Stored => self.base(leaf),
            Leaf::Patched(newer) => match newer.binary_search_by_key(&nth, |(nth, _)| *nth) {
                Ok(at) => Found::Entry(newer[at].1),
                Err(_) => self.base(leaf),
            },
        }
    }

    /// Sets one entry. `gone` hears of entries that it is known to replace.
    pub fn set(&mut self, block: u64, entry: u64, gone: &mut impl FnMut(u64)) {
        let (leaf, nth) = (leaf_of(block), (block % ENTRIES as u64) as u16);
        self.dirty.insert(leaf);
        let base = self.base(leaf);
        let here = &mut self.leaves[leaf as usize];
        let newer = match here {
            Leaf::Whole(entries) => {
                gone(std::mem::replace(&mut entries[usize::from(nth)], entry));
                return;
            }
            Leaf::Uniform(all) => {
                let mut entries = Box::new([*all; ENTRIES]);
                gone(std::mem::replace(&mut entries[usize::from(nth)], entry));
                *here = Leaf::Whole(entries);
                self.whole += 1;
                return;
            }
            Leaf::Stored => {
                *here = Leaf::Patched(vec![(nth, entry)]);
                return;
            }
            Leaf::Patched(newer) => newer,
        };
        match newer.binary_search_by_key(&nth, |(nth, _)| *nth) {
            Ok(at) => gone(std::mem::replace(&mut newer[at].1, entry)),
            Err(at) => newer.insert(at, (nth, entry)),
        }
        let complete = newer.len() as u64 == (self.blocks - u64::from(leaf) * ENTRIES as u64).min(ENTRIES as u64);
        match (newer.len(), base) {
            (PATCH.., Found::Entry(all)) => self.merge(leaf, Box::new([all; ENTRIES]), gone),
            // Nothing of what is stored counts any more, so that it need not be readable.
            _ if complete => self.merge(leaf, Box::new([0; ENTRIES]), gone),
            _ => {}
        }
    }

    /// Every block of the range becomes zeroes as of `origin`.
    pub fn zero(&mut self, block: u64, count: u64, origin: Origin, gone: &mut impl FnMut(u64)) {
        let (entry, end) = (origin.0 | ZERO, block + count);
        let mut at = block;
        while at < end {
            let leaf = leaf_of(at);
            let (first, behind) = (u64::from(leaf) * ENTRIES as u64, (u64::from(leaf) + 1) * ENTRIES as u64);
            if at == first && end >= behind.min(self.blocks) {
                let here = std::mem::replace(&mut self.leaves[leaf as usize], Leaf::Uniform(entry));
                match here {
                    Leaf::Whole(entries) => {
                        self.whole -= 1;
                        entries.iter().for_each(|entry| gone(*entry));
                    }
                    Leaf::Patched(newer) => newer.iter().for_each(|(_, entry)| gone(*entry)),
                    Leaf::Stored | Leaf::Uniform(_) => {}
                }
                self.dirty.insert(leaf);
                at = behind;
            } else {
                self.set(at, entry, gone);
                at += 1;
            }
        }
    }

    /// Where to read the leaf from, if it has gathered so many newer entries that this is due.
    pub fn overdue(&self, block: u64) -> Option<(u32, Origin)> {
        let leaf = leaf_of(block);
        match (&self.leaves[leaf as usize], self.base(leaf)) {
            (Leaf::Patched(newer), Found::Load(origin)) if newer.len() >= PATCH => Some((leaf, origin)),
            _ => None,
        }
    }

    /// The leaf's stored part was read from `origin`; does nothing if that is not what it needs any more.
    pub fn install(&mut self, leaf: u32, origin: Origin, entries: Box<Entries>, gone: &mut impl FnMut(u64)) {
        if self.directory.get(leaf as usize).is_some_and(|value| *value == origin.0 && *value != LOST) {
            self.merge(leaf, entries, gone);
        }
    }

    fn merge(&mut self, leaf: u32, mut entries: Box<Entries>, gone: &mut impl FnMut(u64)) {
        let here = &mut self.leaves[leaf as usize];
        match here {
            Leaf::Whole(_) | Leaf::Uniform(_) => return,
            Leaf::Stored => {}
            Leaf::Patched(newer) => {
                for (nth, entry) in newer.iter() {
                    gone(std::mem::replace(&mut entries[usize::from(*nth)], *entry));
                }
            }
        }
        *here = Leaf::Whole(entries);
        self.whole += 1;
    }

    /// What a leaf holds, to be stored.
    pub fn content(&self, leaf: u32) -> Content {
        match (&self.leaves[leaf as usize], self.base(leaf)) {
            (Leaf::Whole(entries), _) => {
                let first = entries[0];
                // A leaf of one date, all zeroes or never written, needs no slot.
                let uniform = (first == 0 || first & ZERO != 0) && entries.iter().all(|entry| *entry == first);
                if uniform { Content::Uniform(first) } else { Content::Entries(entries.clone()) }
            }
            (Leaf::Uniform(entry), _) => Content::Uniform(*entry),
            (Leaf::Stored | Leaf::Patched(_), Found::Load(origin)) => Content::Load(origin),
            (Leaf::Stored, Found::Entry(entry)) => Content::Uniform(entry),
            (Leaf::Patched(newer), Found::Entry(all)) => {
                let mut entries = Box::new([all; ENTRIES]);
                for (nth, entry) in newer {
                    entries[usize::from(*nth)] = *entry;
                }
                Content::Entries(entries)
            }
        }
    }

    /// The newer entries of a leaf whose stored part can't be read.
    pub fn newer(&self, leaf: u32) -> Vec<(u64, u64)> {
        match &self.leaves[leaf as usize] {
            Leaf::Patched(newer) => {
                newer.iter().map(|(nth, entry)| (u64::from(leaf) * ENTRIES as u64 + u64::from(*nth), *entry)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The leaf's content was stored, and the directory names it from now on.
    pub fn stored(&mut self, leaf: u32, value: u64) {
        self.directory[leaf as usize] = value;
        self.old_pages.insert(leaf / ENTRIES as u32);
        self.dirty.remove(&leaf);
        if !matches!(self.leaves[leaf as usize], Leaf::Whole(_)) {
            self.leaves[leaf as usize] = Leaf::Stored;
        }
    }

    /// Bytes that whole leaves take.
    pub fn memory(&self) -> usize {
        self.whole * BLOCK
    }

    /// Drops stored leaves until at most `bytes` are taken, if there are so many.
    pub fn shrink(&mut self, bytes: usize) {
        for _ in 0..self.leaves.len() {
            if self.memory() <= bytes {
                return;
            }
            self.hand = (self.hand + 1) % self.leaves.len();
            if matches!(self.leaves[self.hand], Leaf::Whole(_)) && !self.dirty.contains(&(self.hand as u32)) {
                self.leaves[self.hand] = Leaf::Stored;
                self.whole -= 1;
            }
        }
    }
}
