//! Opening: finds the newest root and replays what follows it (docs/vault-format.md, *Opening*).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::Options;
use crate::disk::{Disk, forget};
use crate::error::{Damage, Error};
use crate::inner::Books;
use crate::keys::digest;
use crate::log::End;
use crate::root::{GenerationRow, Root, STILL_OPEN, SegmentRow};
use crate::roots::{Newest, newest_root, read_slots};
use crate::segment::{self, AFTER_DURABLE, SegmentHeader};
use crate::slot::{BLOCK, EARLIER, Header, Kind, LAST, Origin, Record, SLOT, SLOTS};
use crate::store::{Medium, read_exact};
use crate::superblock::Superblock;
use crate::table::{Segment, Table};

/// Crashes leave a few segments above the newest that is known, never so many.
const FAR: u64 = 1 << 20;

pub(crate) struct Recovered {
    pub books: Books,
    pub disks: Vec<Arc<Disk>>,
    pub end: End,
    pub highest: u64,
    pub may_write: bool,
    /// Files that neither the root nor the log behind it knows.
    pub orphans: Vec<String>,
    /// What could not be read of the map's uppermost part, or of the log's end.
    pub losses: Vec<Damage>,
}

/// The headers of segments above the root, by the predecessor that they name; of several the highest wins.
pub(crate) type Successors = BTreeMap<u64, Vec<SegmentHeader>>;

pub(crate) struct Recovery<'a> {
    pub table: &'a Arc<Table>,
    pub options: &'a Options,
    books: Books,
    disks: Vec<Arc<Disk>>,
    may_write: bool,
    losses: Vec<Damage>,
    /// Something that was read says that all before it was durable.
    durable: Origin,
}

pub(crate) fn recover(table: &Arc<Table>, block: &Superblock, options: &Options) -> Result<Recovered, Error> {
    let names = table.store().list().map_err(|why| Error::io("the folder", why))?;
    let mut segments: Vec<u64> = names.iter().filter_map(|name| segment::number(name, 's')).collect();
    segments.sort_unstable();
    let Newest { root, place, pieces, which, beyond } = newest_root(table, &segments)?;
    let mut found = Recovery {
        table,
        options,
        books: Books::default(),
        disks: Vec::new(),
        may_write: true,
        losses: Vec::new(),
        durable: Origin(place.0 + u64::from(pieces)),
    };
    found.adopt(&root, place, pieces, block)?;
    found.books.which = which;
    let end = found.replay(&segments, block)?;
    // Files far above all that the vault knows are nobody's of ours: they must not use up the numbers.
    let known = root.segments.iter().map(|row| row.number).max().unwrap_or(0).max(end.number);
    let highest =
        segments.iter().fold(
            known,
            |highest, number| {
                if number.saturating_sub(highest) <= FAR { highest.max(*number) } else { highest }
            },
        );
    match beyond {
        // A head is written after its root is durable: what it names had been acknowledged.
        Some((counter, why)) if counter > found.books.counter => match why {
            Error::Damaged(what) if options.salvage || options.give_up_tail => {
                found.losses.push(*what);
                // A counter is given out once.
                found.books.counter = counter;
            }
            why => return Err(why),
        },
        _ => {}
    }
    found.settle(place, &end)?;
    let known = |number: u64| table.get(number).is_some_and(|segment| segment.pack() == 0);
    let packs: Vec<u64> = table.all().iter().map(|segment| segment.pack()).collect();
    let orphan = |name: &&String| match (segment::number(name, 's'), segment::number(name, 'p')) {
        (Some(number), _) => !known(number),
        (_, Some(number)) => !packs.contains(&number),
        _ => *name == "vault.new",
    };
    let orphans = names.iter().filter(orphan).cloned().collect();
    let Recovery { books, disks, may_write, losses, .. } = found;
    Ok(Recovered { books, disks, end, highest, may_write, orphans, losses })
}

/// Removes what a crash left. What can't be removed now will be another time.
pub(crate) fn sweep(table: &Table, orphans: &[String]) {
    for name in orphans {
        let _ = table.store().remove(name);
    }
}

impl Recovery<'_> {
    /// Everything is what the root says.
    fn adopt(&mut self, root: &Root, place: Origin, pieces: u32, block: &Superblock) -> Result<(), Error> {
        self.may_write = root.features.check(root.version, &self.options.known)?;
        let covered = |ours: u64, its: u64| ours & !its == 0;
        let features = &block.features;
        if !covered(features.incompatible, root.features.incompatible)
            || !covered(features.read_compatible, root.features.read_compatible)
            || block.version > root.version
        {
            return Err(Error::damaged(crate::superblock::NAME, "it names features that the vault does not have"));
        }
        self.losses.clear();
        self.table.clear();
        for row in &root.segments {
            let slots = if row.slots == STILL_OPEN { place.index() + pieces } else { row.slots };
            self.table.add(&SegmentRow { slots, ..row.clone() })?;
        }
        let bases = &self.options.bases;
        self.disks = root.devices.iter().map(|row| Arc::new(Disk::new(row, bases.get(&row.name).cloned()))).collect();
        for (disk, row) in self.disks.iter().zip(&root.devices) {
            disk.load_pages(self.table, row, &mut self.losses)?;
        }
        for delta in &root.deltas {
            match apply_deltas(self.table, &self.disks, std::slice::from_ref(delta)) {
                Err(Error::Damaged(what)) if self.options.salvage => self.losses.push(*what),
                other => other?,
            }
        }
        self.books = Books {
            counter: root.counter,
            root: place,
            pieces,
            features: root.features,
            data_head: root.data_head,
            digest: root.digest,
            next_generation: root.next_generation,
            next_pack: root.next_pack,
            last_revert: root.last_revert,
            deltas: root.deltas.clone(),
            generations: own_place(&root.generations, place, pieces),
            streams: root.streams.clone(),
            recent: Vec::new(),
            tail: 0,
            which: self.books.which,
        };
        Ok(())
    }

    fn successors(&self, segments: &[u64]) -> Result<Successors, Error> {
        let mut found = Successors::new();
        for number in segments.iter().filter(|number| **number > self.books.root.segment()) {
            let name = segment::name(*number);
            let file = match self.table.store().open(&name) {
                Err(why) if why.kind() == std::io::ErrorKind::NotFound => continue,
                // To pass over it would be to forget what it holds.
                other => other.map_err(|why| Error::io(&name, why))?,
            };
            if let Some(header) = SegmentHeader::read(&*file, *number, &self.table.ring(), self.table.id())? {
                found.entry(header.before).or_default().push(header);
            }
        }
        found.values_mut().for_each(|headers| headers.sort_by_key(|header| std::cmp::Reverse(header.number)));
        Ok(found)
    }

    /// Replays what follows the root. Answers where the log ends.
    fn replay(&mut self, segments: &[u64], block: &Superblock) -> Result<End, Error> {
        let successors = self.successors(segments)?;
        let mut at = Origin(self.books.root.0 + u64::from(self.books.pieces) - 1);
        let mut next = at.index() + 1;
        let mut batch = Batch::default();
        // Where the last whole batch ended.
        let Some(mut segment) = self.table.get(at.segment()) else {
            return Err(Error::damaged(segment::name(at.segment()), "the root does not name its own segment"));
        };
        let mut end = End { number: segment.number, slots: next, salt: segment.salt };
        loop {
            let follows = successors.get(&segment.number).and_then(|headers| {
                // Epochs never go back: an older epoch's key makes nothing that follows.
                let continues = |header: &&SegmentHeader| {
                    header.before_digest == digest(&segment.salt) && header.epoch >= segment.epoch
                };
                headers.iter().find(continues).filter(|header| header.before_end >= end_in(&end, segment.number))
            });
            let stop = follows.map_or(SLOTS, |header| header.before_end);
            let (table, mut broken, mut whole) = (self.table, None, Ok(()));
            read_slots(table, &segment, next, stop, |index, opened| {
                let Some((header, payload)) = opened else {
                    broken = Some(index);
                    return false;
                };
                at = Origin::new(segment.number, index);
                next = index + 1;
                let said = header.durable > 0 || header.flags & EARLIER != 0;
                if said && header.durable <= SLOTS {
                    self.durable = self.durable.max(Origin(at.0 - u64::from(index) + u64::from(header.durable)));
                }
                batch.slots += 1;
                batch.take(&header, payload, at);
                if header.flags & LAST != 0 {
                    whole = self.finish(std::mem::take(&mut batch), at, &segment, block);
                    end = End { number: segment.number, slots: next, salt: segment.salt };
                }
                whole.is_ok()
            })?;
            whole?;
            if broken.is_none() && next < stop && follows.is_some() {
                // The file ends before the successor says that it does.
                broken = Some(next);
            }
            match (broken, follows) {
                (None, Some(header)) => {
                    // A root may have been adopted since, and with it another table.
                    if let Some(done) = table.get(segment.number) {
                        done.slots.store(header.before_end, Ordering::Release);
                    }
                    if header.flags & AFTER_DURABLE != 0 {
                        self.durable = self.durable.max(Origin::new(header.number, 0));
                    }
                    let row = row(header);
                    segment = table.add(&row)?;
                    next = 0;
                }
                (broken, follows) => {
                    let proof = match self.flushed_beyond(&segment, broken.unwrap_or(next), follows, &successors)? {
                        None => self.cut_off(&end, &successors)?,
                        proof => proof,
                    };
                    match proof {
                        Some(proof) if self.options.salvage || self.options.give_up_tail => self.losses.push(proof),
                        Some(proof) => return Err(Error::TailDamaged(Box::new(proof))),
                        None => {}
                    }
                    break;
                }
            }
        }
        // Segments that hold nothing of the log.
        for segment in self.table.all() {
            if segment.number > end.number {
                self.table.drop_segment(segment.number);
            }
        }
        if let Some(last) = self.table.get(end.number) {
            last.slots.store(end.slots, Ordering::Release);
        }
        Ok(end)
    }

    /// A whole batch takes effect.
    fn finish(&mut self, batch: Batch, at: Origin, segment: &Segment, block: &Superblock) -> Result<(), Error> {
        self.books.tail += batch.slots;
        if !batch.root.is_empty() {
            let place = Origin(at.0 + 1 - batch.pieces);
            let wrong = || Error::Damaged(Box::new(segment.damage(place.index(), "the root is malformed")));
            let root = Root::decode(&batch.root).ok_or_else(wrong)?;
            return self.adopt(&root, place, batch.pieces as u32, block);
        }
        for record in &batch.records {
            let mut gone = Vec::new();
            let disk = self.disks.iter().find(|disk| disk.id == record.device);
            if !disk.is_some_and(|disk| disk.apply(record, &mut |entry| gone.push(entry))) {
                return Err(Error::Damaged(Box::new(segment.damage(at.index(), "it names blocks that no device has"))));
            }
            gone.iter().for_each(|entry| forget(self.table, *entry));
            if !record.zero {
                self.table.live(record.origin, record.count.into());
            }
            if !self.books.recent.last_mut().is_some_and(|last| last.join(record)) {
                self.books.recent.push(*record);
            }
        }
        if batch.moves {
            self.books.data_head = at;
            self.books.digest = digest(&segment.salt);
        }
        Ok(())
    }

    /// Makes what was found durable: it is about to be served.
    fn settle(&self, root: Origin, end: &End) -> Result<(), Error> {
        if self.options.read_only || self.options.salvage {
            return Ok(());
        }
        let store = self.table.store();
        for segment in self.table.all() {
            if (root.segment()..=end.number).contains(&segment.number) && segment.pack() == 0 {
                let name = segment.file_name();
                let slots =
                    if segment.number == end.number { end.slots } else { segment.slots.load(Ordering::Acquire) };
                let first = Origin::new(segment.number, 0).0;
                let from = match self.durable.0.checked_sub(first) {
                    None | Some(0) => 0,
                    Some(some) => segment::offset(some.min(slots.into()) as u32),
                };
                let file = store.open(&name).map_err(|why| Error::io(&name, why))?;
                rewrite(&*file, from, segment::offset(slots)).map_err(|why| Error::io(&name, why))?;
            }
        }
        store.sync().map_err(|why| Error::io("the folder", why))
    }
}

/// Writes a part of a file again as it is, and makes it durable. A sync alone is not enough: where an earlier one failed,
/// the system may show what never reached the disk, and take it for done.
fn rewrite(file: &dyn Medium, mut from: u64, to: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    while from < to {
        let some = &mut buffer[..(to - from).min(1 << 20) as usize];
        read_exact(file, some, from)?;
        file.write_at(some, from)?;
        from += some.len() as u64;
    }
    file.sync()
}

/// The generation that a root itself is gets its place.
fn own_place(rows: &[GenerationRow], root: Origin, pieces: u32) -> Vec<GenerationRow> {
    let placed = |row: &GenerationRow| match row.root {
        Origin::NONE => GenerationRow { root, pieces, ..row.clone() },
        _ => row.clone(),
    };
    rows.iter().map(placed).collect()
}

fn end_in(end: &End, number: u64) -> u32 {
    if end.number == number { end.slots } else { 0 }
}

pub(crate) fn row(header: &SegmentHeader) -> SegmentRow {
    SegmentRow { number: header.number, pack: 0, epoch: header.epoch, slots: 0, live: 0, salt: header.salt }
}

/// Brings a map up to its root.
pub(crate) fn apply_deltas(table: &Table, disks: &[Arc<Disk>], deltas: &[Origin]) -> Result<(), Error> {
    let mut buffer = [0; SLOT];
    for origin in deltas {
        let (_, payload) = table.read_slot(*origin, Kind::Delta, &mut buffer)?;
        let records = Record::decode(payload, *origin).unwrap_or_default();
        for record in &records {
            let disk = disks.iter().find(|disk| disk.id == record.device);
            if let Some(disk) = disk {
                // What lies beyond a device that was made smaller since is gone.
                let room = (disk.size() / BLOCK as u64).saturating_sub(record.block);
                let count = u64::from(record.count).min(room) as u32;
                disk.apply(&Record { count, ..*record }, &mut |_| {});
            }
        }
    }
    Ok(())
}

/// Slots of a batch that is not whole yet.
#[derive(Default)]
struct Batch {
    slots: u64,
    records: Vec<Record>,
    root: Vec<u8>,
    pieces: u64,
    moves: bool,
}

impl Batch {
    fn take(&mut self, header: &Header, payload: &[u8], at: Origin) {
        match header.kind {
            Some(Kind::Data) => {
                self.moves = true;
                let record = Record { device: header.device, zero: false, count: 1, block: header.block, origin: at };
                if !self.records.last_mut().is_some_and(|last| last.join(&record)) {
                    self.records.push(record);
                }
            }
            Some(Kind::List) => {
                self.moves = true;
                self.records.extend(Record::decode(payload, at).unwrap_or_default());
            }
            Some(Kind::Mark) => self.moves = true,
            Some(Kind::Root) => {
                self.root.extend_from_slice(payload);
                self.pieces += 1;
            }
            _ => {}
        }
    }
}
