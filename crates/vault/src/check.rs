//! Reads everything and says exactly what is lost and what is safe.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::Disk;
use crate::error::{Damage, Error};
use crate::head::{self, Head};
use crate::inner::Inner;
use crate::map::ENTRIES;
use crate::mark::Marks;
use crate::pack;
use crate::root::GenerationRow;
use crate::roots::open_slots;
use crate::slot::{BLOCK, Kind, NO_DEVICE, Origin, SLOT, SLOTS, ZERO};
use crate::sync::{lock, read};
use crate::table::Table;
use crate::vault::Vault;

/// A range of a device that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The generation it is lost in; None for the present state.
    pub generation: Option<u64>,
    /// The device.
    pub device: String,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// What was found, and where.
    pub damage: Damage,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Lost ranges of devices, neighbours joined. What is not named here is safe.
    pub lost: Vec<Loss>,
    /// Generations that can't be read at all, and why.
    pub generations: Vec<(u64, String)>,
    /// Streams that can't be used, and why.
    pub streams: Vec<(String, String)>,
    /// What is wrong but costs no data: a head that can't be read, files that belong to nothing.
    pub notes: Vec<String>,
    /// Bytes of slots that were read and found right.
    pub verified: u64,
}

impl Report {
    /// Whether everything is there.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.lost.is_empty() && self.generations.is_empty() && self.streams.is_empty()
    }

    fn lose(&mut self, generation: Option<u64>, device: &str, block: u64, count: u64, damage: Damage) {
        let (offset, length) = (block * BLOCK as u64, count * BLOCK as u64);
        match self.lost.last_mut() {
            Some(last)
                if last.generation == generation && last.device == device && last.offset + last.length == offset =>
            {
                last.length += length;
            }
            _ => self.lost.push(Loss { generation, device: device.to_owned(), offset, length, damage }),
        }
    }
}

struct Check<'a> {
    inner: &'a Inner,
    report: Report,
    /// Slots that were read, and those of them that were wrong.
    seen: Marks,
    bad: HashMap<u64, Damage>,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64) -> bool,
}

impl Vault {
    /// As [`Vault::check_while`], to its end.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk fails otherwise than by damage. Damage is in the report.
    pub fn check(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Report, Error> {
        self.check_while(&mut |done, total| {
            progress(done, total);
            true
        })
    }

    /// Reads and verifies every slot that the present state, the generations and the streams need. `progress` hears of the
    /// bytes that were read and of about how many there are, and says whether to go on. Nobody waits for it: others read,
    /// write, commit and clean meanwhile. What is written during the check may or may not be looked at.
    ///
    /// # Errors
    /// [`Error::Cancelled`] once `progress` said no. [`Error::Io`] if the disk fails otherwise than by damage. Damage is in
    /// the report.
    pub fn check_while(&self, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<Report, Error> {
        let inner = &*self.inner;
        inner.usable()?;
        // On a full disk some of it stays in memory: that is not looked at.
        let _ = inner.push();
        let total = self.info().live;
        let mut check =
            Check { inner, report: Report::default(), seen: Marks::default(), bad: HashMap::new(), total, progress };
        check.heads()?;
        check.report.notes.extend(inner.losses.iter().map(ToString::to_string));
        let disks = read(&inner.disks).clone();
        check.disks(None, &disks)?;
        let generations = lock(&inner.state).books.generations.clone();
        for row in &generations {
            check.generation(row)?;
        }
        for info in self.streams() {
            if let Some(why) = check.stream(&info.name)? {
                check.report.streams.push((info.name, why));
            }
        }
        check.tables()?;
        Ok(check.report)
    }
}

impl Check<'_> {
    fn heads(&mut self) -> Result<(), Error> {
        // Not while one is being written.
        let _one = lock(&self.inner.upkeep);
        let table = &self.inner.table;
        let found = Head::read_all(&**table.store(), &table.ring(), table.id())?;
        for (which, name) in head::NAMES.iter().enumerate() {
            if !found.iter().any(|(other, _)| *other == which) {
                self.report.notes.push(format!("{name} can't be read; the other one is enough"));
            }
        }
        Ok(())
    }

    /// Packs whose table is read from its copy.
    fn tables(&mut self) -> Result<(), Error> {
        let table = &self.inner.table;
        let packs: BTreeSet<u64> = table.all().iter().map(|segment| segment.pack()).filter(|pack| *pack != 0).collect();
        for number in packs {
            let name = pack::name(number);
            // Cleaned away meanwhile, or it is missing and that was said.
            let Ok(file) = table.store().open(&name) else { continue };
            if !pack::begins_well(&*file, number, &table.ring(), table.id())? {
                self.report
                    .notes
                    .push(format!("the table of {name} is damaged; what it holds is found by the table's copy"));
            }
        }
        Ok(())
    }

    fn generation(&mut self, row: &GenerationRow) -> Result<(), Error> {
        let kept = || self.inner.generation(row.number).is_ok();
        match self.inner.view(row) {
            // Dropped since we began: the cleaner may have taken what it alone needed.
            Err(Error::Damaged(_)) if !kept() => {}
            Err(Error::Damaged(what)) => self.report.generations.push((row.number, what.to_string())),
            Ok(view) => {
                self.disks(Some(row.number), &view.disks)?;
                if self.inner.generation(row.number).is_err() {
                    self.report.lost.retain(|loss| loss.generation != Some(row.number));
                }
            }
            Err(other) => return Err(other),
        }
        Ok(())
    }

    fn disks(&mut self, generation: Option<u64>, disks: &[Arc<Disk>]) -> Result<(), Error> {
        for disk in disks {
            let blocks = read(&disk.map).blocks();
            let mut entries = [0; ENTRIES];
            for first in (0..blocks).step_by(ENTRIES) {
                let entries = &mut entries[..ENTRIES.min((blocks - first) as usize)];
                match disk.entries(&self.inner.table, first, entries, true) {
                    Ok(()) => self.leaf(generation, disk, first, entries)?,
                    // It was made smaller since we began.
                    Err(Error::OutOfRange) => break,
                    Err(Error::Damaged(what)) => self.broken_leaf(generation, disk, first, entries, *what)?,
                    Err(other) => return Err(other),
                }
            }
        }
        Ok(())
    }

    /// Blocks that were written since the leaf was stored are known all the same.
    fn broken_leaf(
        &mut self,
        generation: Option<u64>,
        disk: &Arc<Disk>,
        first: u64,
        entries: &mut [u64],
        damage: Damage,
    ) -> Result<(), Error> {
        for nth in 0..entries.len() {
            let block = first + nth as u64;
            match disk.entries(&self.inner.table, block, &mut entries[nth..=nth], true) {
                Err(Error::OutOfRange) => break,
                Ok(()) => self.leaf(generation, disk, block, &entries[nth..=nth])?,
                Err(_) => self.report.lose(generation, &disk.name, block, 1, damage.clone()),
            }
        }
        Ok(())
    }

    fn leaf(&mut self, generation: Option<u64>, disk: &Arc<Disk>, first: u64, entries: &[u64]) -> Result<(), Error> {
        let mut at = 0;
        while at < entries.len() {
            let origin = Origin(entries[at]);
            // What is in memory only can't be damaged on the disk.
            let here = origin.0 >= self.inner.pushed.load(Ordering::Acquire);
            if here || entries[at] == 0 || entries[at] & ZERO != 0 {
                at += 1;
                continue;
            }
            let pushed = self.inner.pushed.load(Ordering::Acquire);
            let room = (SLOTS - origin.index()).min((pushed - origin.0).min(SLOTS.into()) as u32) as usize;
            let mut run = 1;
            while run < room && at + run < entries.len() && entries[at + run] == origin.0 + run as u64 {
                run += 1;
            }
            let expect = |nth: u64| (Kind::Data, disk.id, first + at as u64 + nth);
            self.slots(origin, run as u32, expect)?;
            for nth in 0..run as u64 {
                let block = first + at as u64 + nth;
                let Some(damage) = self.bad.get(&(origin.0 + nth)).cloned() else { continue };
                let mut now = [0];
                match disk.entries(&self.inner.table, block, &mut now, true) {
                    Err(Error::OutOfRange) => {}
                    // Overwritten, and perhaps cleaned, since we looked.
                    Ok(()) if now[0] != origin.0 + nth => self.leaf(generation, disk, block, &now)?,
                    _ => self.report.lose(generation, &disk.name, block, 1, damage),
                }
            }
            at += run;
        }
        Ok(())
    }

    /// Reads slots that were not read yet; notes those that are not what they should be.
    fn slots(&mut self, origin: Origin, count: u32, expect: impl Fn(u64) -> (Kind, u16, u64)) -> Result<(), Error> {
        let new: Vec<bool> = (0..u64::from(count)).map(|nth| self.seen.mark(Origin(origin.0 + nth))).collect();
        if !new.contains(&true) {
            return Ok(());
        }
        let table: &Table = &self.inner.table;
        let mut wrong = |nth: u64, damage: Damage| self.bad.insert(origin.0 + nth, damage);
        let Some(segment) = table.get(origin.segment()) else {
            for nth in 0..u64::from(count) {
                wrong(nth, table.missing(Origin(origin.0 + nth)));
            }
            return Ok(());
        };
        let mut slots = vec![0; count as usize * SLOT];
        match table.read_raw(&segment, origin.index(), &mut slots, true) {
            Ok(()) => {}
            Err(Error::Damaged(what)) => {
                for nth in 0..u64::from(count) {
                    wrong(nth, (*what).clone());
                }
                return Ok(());
            }
            Err(other) => return Err(other),
        }
        for (nth, header) in open_slots(table, &segment, origin.index(), &mut slots).into_iter().enumerate() {
            let (kind, device, block) = expect(nth as u64);
            match header {
                Some(header) if header.is(kind, device, block) => self.report.verified += SLOT as u64,
                other => {
                    let why = if other.is_some() { "it is another block" } else { "it is not as it was written" };
                    wrong(nth as u64, segment.damage(origin.index() + nth as u32, why));
                }
            }
        }
        let go_on = (self.progress)(self.report.verified, self.total.max(self.report.verified));
        if go_on { self.inner.usable() } else { Err(Error::Cancelled) }
    }

    /// Why a stream can't be used.
    fn stream(&mut self, name: &str) -> Result<Option<String>, Error> {
        let index = |inner: &Inner| {
            let state = lock(&inner.state);
            state.books.streams.iter().find(|row| row.name == name).map(|row| row.index.clone())
        };
        let before = index(self.inner);
        let found = self.stream_pages(name)?;
        // One that was used or replaced meanwhile is nobody's loss.
        Ok(found.filter(|_| before == index(self.inner)))
    }

    fn stream_pages(&mut self, name: &str) -> Result<Option<String>, Error> {
        let records = match self.inner.stream_records(name) {
            Err(Error::Damaged(what)) => return Ok(Some(what.to_string())),
            Err(Error::Unknown(_)) => return Ok(None),
            other => other?,
        };
        for run in records {
            let mut done = 0;
            while done < run.count {
                let count = (run.count - done).min(1024);
                let origin = Origin(run.origin.0 + u64::from(done));
                let first = run.block + u64::from(done);
                self.slots(origin, count, |nth| (Kind::Stream, NO_DEVICE, first + nth))?;
                let bad = (0..u64::from(count)).find_map(|nth| self.bad.get(&(origin.0 + nth)));
                if let Some(damage) = bad {
                    return Ok(Some(damage.to_string()));
                }
                done += count;
            }
        }
        Ok(None)
    }
}
