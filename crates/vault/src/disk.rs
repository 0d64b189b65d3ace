//! One device's state inside an open vault: its map, its size, and finding entries.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crate::error::{Damage, Error};
use crate::map::{self, Entries, Found, Map, leaf_of};
use crate::root::DeviceRow;
use crate::slot::{BLOCK, Kind, Origin, Record, SLOT};
use crate::sync::{lock, read, write};
use crate::table::Table;

/// What a device's blocks are as long as they were never written: an image version, read when first asked for.
pub trait Base: Send + Sync {
    /// Fills `buffer` (whole blocks) from `offset`; bytes beyond the base's end are zeroes. It may wait for a disk, never for
    /// a network: it can be called while all writing stands still.
    ///
    /// # Errors
    /// [`Error::Away`]: not on this machine now; the bytes before the range that it names can be had.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error>;

    /// As [`Base::read`], but never waits.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] where it would have to.
    fn try_read(&self, _offset: u64, _buffer: &mut [u8]) -> Result<(), Error> {
        Err(Error::WouldBlock)
    }

    /// Whether there is anything but zeroes at `offset`, and for how many bytes from there on the answer is the same (at
    /// least one block).
    fn extent(&self, _offset: u64) -> (bool, u64) {
        (true, u64::MAX)
    }
}

pub(crate) struct Disk {
    pub id: u16,
    pub name: String,
    pub size: AtomicU64,
    /// Up to where it may be written: less than the size while it is being made smaller.
    pub limit: AtomicU64,
    pub read_only: AtomicBool,
    pub map: RwLock<Map>,
    pub base: Option<Arc<dyn Base>>,
    /// Its entries count as needed; those of a generation's view don't.
    counted: bool,
    /// Pages of the directory that can't be read.
    lost_pages: Mutex<Vec<Damage>>,
}

impl Disk {
    pub fn new(row: &DeviceRow, base: Option<Arc<dyn Base>>) -> Self {
        Self {
            id: row.id,
            name: row.name.clone(),
            size: AtomicU64::new(row.size),
            limit: AtomicU64::new(row.size),
            read_only: AtomicBool::new(row.read_only),
            map: RwLock::new(Map::new(row.size)),
            base,
            counted: true,
            lost_pages: Mutex::default(),
        }
    }

    /// Of a generation.
    pub fn view(row: &DeviceRow, base: Option<Arc<dyn Base>>) -> Self {
        Self { counted: false, ..Self::new(row, base) }
    }

    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub fn row(&self) -> DeviceRow {
        DeviceRow {
            id: self.id,
            read_only: self.read_only.load(Ordering::Acquire),
            name: self.name.clone(),
            size: self.size(),
            pages: read(&self.map).pages.clone(),
        }
    }

    /// Reads the directory's pages.
    ///
    /// A damaged one costs the blocks that it leads to (1 GiB), not the others; `lost` hears of it.
    pub fn load_pages(&self, table: &Table, row: &DeviceRow, lost: &mut Vec<Damage>) -> Result<(), Error> {
        let mut buffer = [0; SLOT];
        let mut map = write(&self.map);
        for (page, address) in row.pages.iter().enumerate().filter(|(_, address)| **address != 0) {
            let origin = Origin::checked(*address).unwrap_or_default();
            let (header, payload) = match table.read_slot(origin, Kind::Dir, &mut buffer) {
                Err(Error::Damaged(mut what)) => {
                    what.device = Some(self.name.clone());
                    (what.offset, what.length) = ((page as u64) << 30, (row.size - ((page as u64) << 30)).min(1 << 30));
                    lock(&self.lost_pages).push((*what).clone());
                    lost.push(*what);
                    map.lose_page(page as u32, *address);
                    continue;
                }
                other => other?,
            };
            let mut entries: Box<Entries> = Box::new([0; map::ENTRIES]);
            for (entry, bytes) in entries.iter_mut().zip(payload.chunks_exact(8)) {
                *entry = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
            }
            if !header.is(Kind::Dir, self.id, page as u64) {
                return Err(self.wrong(table, origin, "it is another part of the directory"));
            }
            map.install_page(page as u32, *address, &entries);
        }
        Ok(())
    }

    fn wrong(&self, table: &Table, origin: Origin, why: &str) -> Error {
        match table.get(origin.segment()) {
            Some(segment) => Error::Damaged(Box::new(segment.damage(origin.index(), why))),
            None => Error::damaged(crate::segment::name(origin.segment()), why),
        }
    }

    /// Applies a record of a LIST or a DELTA. False if it reaches beyond the device.
    pub fn apply(&self, record: &Record, gone: &mut impl FnMut(u64)) -> bool {
        let mut map = write(&self.map);
        if record.block + u64::from(record.count) > map.blocks() {
            return false;
        }
        if record.zero {
            map.zero(record.block, record.count.into(), record.origin, gone);
        } else {
            for nth in 0..u64::from(record.count) {
                map.set(record.block + nth, record.entry(nth), gone);
            }
        }
        true
    }

    /// Reads a leaf's stored part.
    pub fn read_leaf(&self, table: &Table, leaf: u32, origin: Origin) -> Result<Box<Entries>, Error> {
        let mut buffer = [0; SLOT];
        if origin == map::LOST_LEAF {
            let at = u64::from(leaf) * (map::ENTRIES * BLOCK) as u64;
            let pages = lock(&self.lost_pages);
            if let Some(page) = pages.iter().find(|page| (page.offset..page.offset + page.length).contains(&at)) {
                let length = ((map::ENTRIES * BLOCK) as u64).min(self.size().saturating_sub(at));
                return Err(Error::Damaged(Box::new(Damage { offset: at, length, ..page.clone() })));
            }
        }
        let lost = |error| match error {
            Error::Damaged(mut what) => {
                what.device = Some(self.name.clone());
                what.offset = u64::from(leaf) * (map::ENTRIES * BLOCK) as u64;
                what.length = ((map::ENTRIES * BLOCK) as u64).min(self.size().saturating_sub(what.offset));
                Error::Damaged(what)
            }
            other => other,
        };
        let (header, payload) = table.read_slot(origin, Kind::Map, &mut buffer).map_err(lost)?;
        match map::decode(payload).filter(|_| header.is(Kind::Map, self.id, leaf.into())) {
            Some(entries) => Ok(entries),
            None => Err(lost(self.wrong(table, origin, "it is another part of the map"))),
        }
    }

    /// The entries of `out.len()` blocks from `block`. Without `wait`, [`Error::WouldBlock`] where a leaf must be read.
    pub fn entries(&self, table: &Table, block: u64, out: &mut [u64], wait: bool) -> Result<(), Error> {
        let mut done = 0;
        while done < out.len() {
            let missing = {
                let map = read(&self.map);
                if block + out.len() as u64 > map.blocks() {
                    return Err(Error::OutOfRange);
                }
                loop {
                    if done == out.len() {
                        return Ok(());
                    }
                    match map.get(block + done as u64) {
                        Found::Entry(entry) => out[done] = entry,
                        Found::Load(origin) => break origin,
                    }
                    done += 1;
                }
            };
            if !wait {
                return Err(Error::WouldBlock);
            }
            let leaf = leaf_of(block + done as u64);
            self.load(table, leaf, missing)?;
        }
        Ok(())
    }

    /// Reads the stored part of a leaf into memory.
    pub fn load(&self, table: &Table, leaf: u32, origin: Origin) -> Result<(), Error> {
        let entries = match self.read_leaf(table, leaf, origin) {
            // Stored anew meanwhile, and the cleaner was quick.
            Err(_) if ![origin.0, map::LOST].contains(&read(&self.map).directory(leaf)) => return Ok(()),
            other => other?,
        };
        let mut replaced = Vec::new();
        write(&self.map).install(leaf, origin, entries, &mut |entry| replaced.push(entry));
        if self.counted {
            replaced.iter().for_each(|entry| forget(table, *entry));
        }
        Ok(())
    }
}

/// An entry is in the map no more.
pub(crate) fn forget(table: &Table, entry: u64) {
    if entry != 0 && entry & crate::slot::ZERO == 0 && entry > table.kept.load(Ordering::Relaxed) {
        table.live(Origin(entry), -1);
    }
}
