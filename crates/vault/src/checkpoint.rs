//! Full checkpoints: the map itself is stored, so that no old delta is needed any more.

use crate::cleaner::Cleaning;
use crate::disk::Disk;
use crate::error::Error;
use crate::inner::{Inner, State};
use crate::map::{self, Content};
use crate::slot::{BLOCK, Header, Kind, Origin, UNIFORM};
use crate::sync::{lock, read, write};
use crate::table::Table;

/// Leaves stored between two looks at who else wants the log.
const PIECE: usize = 64;

impl Inner {
    /// A full checkpoint: changed leaves and directory pages too, so that no old delta is needed any more. Others write
    /// meanwhile; what they write is in the deltas that remain.
    pub fn checkpoint_in_full(&self) -> Result<(), Error> {
        let start = {
            let mut state = lock(&self.state);
            self.write_deltas(&mut state)?;
            state.books.deltas.len()
        };
        let mut unread = None;
        let disks = read(&self.disks).clone();
        for disk in &disks {
            let leaves = read(&disk.map).dirty_leaves();
            for some in leaves.chunks(PIECE) {
                self.keep_tail_short()?;
                self.store_leaves(disk, some).or_else(|error| match error {
                    Error::Damaged(_) => {
                        unread = Some(error);
                        Ok(())
                    }
                    other => Err(other),
                })?;
            }
        }
        {
            let mut state = lock(&self.state);
            self.write_deltas(&mut state)?;
            for disk in &disks {
                self.store_pages(&mut state, disk)?;
            }
            // With a leaf that could not be merged, its newer entries are in the old deltas alone.
            if unread.is_none() {
                for old in state.books.deltas.drain(..start) {
                    self.table.live(old, -1);
                }
            }
            self.write_root(&mut state)?;
            state.log.push()?;
        }
        for disk in &disks {
            write(&disk.map).shrink(self.options.map_memory);
        }
        self.flush()?;
        self.write_head(false)
    }

    fn store_leaves(&self, disk: &Disk, leaves: &[u32]) -> Result<(), Error> {
        let mut first_damage = Ok(());
        for leaf in leaves {
            let content = read(&disk.map).content(*leaf);
            if let Content::Load(origin) = content {
                match disk.load(&self.table, *leaf, origin) {
                    Err(error @ Error::Damaged(_)) => first_damage = first_damage.and(Err(error)),
                    other => other?,
                }
            }
        }
        let mut state = lock(&self.state);
        state.log.prepare_upkeep(leaves.len(), false)?;
        let mut map = write(&disk.map);
        let mut stored = Vec::with_capacity(leaves.len());
        for leaf in leaves.iter().filter(|leaf| !map.is_stored(**leaf)) {
            match map.content(*leaf) {
                Content::Load(_) => {}
                Content::Uniform(0) => stored.push((*leaf, 0)),
                Content::Uniform(entry) => stored.push((*leaf, entry | UNIFORM)),
                Content::Entries(entries) => {
                    let header = Header::new(Kind::Map, disk.id, (*leaf).into());
                    let payload = map::encode(&*entries);
                    state.log.append(header, &payload, true, |_, origin, _| stored.push((*leaf, origin.0)));
                    state.books.tail += 1;
                }
            }
        }
        // The directory may only name what can be read.
        state.log.push()?;
        for (leaf, value) in stored {
            forget_address(&self.table, map.directory(leaf));
            if value & UNIFORM == 0 {
                self.table.live(Origin(value), 1);
            }
            map.stored(leaf, value);
        }
        first_damage
    }

    fn store_pages(&self, state: &mut State, disk: &Disk) -> Result<(), Error> {
        let mut map = write(&disk.map);
        while let Some(page) = map.old_pages.first().copied() {
            let entries = map.page(page);
            let mut made = Origin::NONE;
            if entries.iter().any(|entry| *entry != 0) {
                let payload = map::encode(entries);
                state.log.prepare_upkeep(1, false)?;
                let header = Header::new(Kind::Dir, disk.id, page.into());
                state.log.append(header, &payload, true, |_, origin, _| made = origin);
                self.table.live(made, 1);
                state.books.tail += 1;
            }
            map.old_pages.remove(&page);
            let old = std::mem::replace(&mut map.pages[page as usize], made.0);
            forget_address(&self.table, old);
        }
        Ok(())
    }

    /// For long work under the lock on upkeep: others write meanwhile, and what an opening replays stays bounded.
    pub fn keep_tail_short(&self) -> Result<(), Error> {
        let tail = lock(&self.state).books.tail * BLOCK as u64;
        if tail < self.options.tail_limit { Ok(()) } else { self.checkpoint() }
    }

    /// The disk is short: waits for the cleaner, or is it. Whether it is worth trying again.
    pub fn make_room(&self) -> bool {
        if !self.options.background {
            return false;
        }
        let _one = lock(&self.cleaning);
        // Somebody may have made room while we waited.
        if lock(&self.state).log.has_room() {
            return true;
        }
        // A third of what is moved comes back at the least.
        let how = Cleaning { most: 128 << 20, ..Cleaning::default() };
        self.clean(how).is_ok_and(|done| done.removed > done.moved)
    }

    /// After a write to a device, of so many slots.
    pub fn after_device_write(&self, slots: u64) -> Result<(), Error> {
        self.after_write()?;
        self.pay(slots);
        Ok(())
    }

    /// After a write: a long tail is cut short.
    pub fn after_write(&self) -> Result<(), Error> {
        let tail = lock(&self.state).books.tail * BLOCK as u64;
        // The background thread does it while others write on, unless it falls far behind.
        if tail < self.options.tail_limit {
            return Ok(());
        }
        if self.options.background && tail < 4 * self.options.tail_limit {
            self.bell.ring();
            return Ok(());
        }
        // Who has the lock makes a root sooner or later.
        let Ok(_one) = self.upkeep.try_lock() else { return Ok(()) };
        match self.checkpoint() {
            // What was to be written is written; the next one will be told.
            Err(Error::NoSpace) => Ok(()),
            other => other,
        }
    }
}

fn forget_address(table: &Table, value: u64) {
    if value != 0 && value & UNIFORM == 0 {
        table.live(Origin(value), -1);
    }
}
