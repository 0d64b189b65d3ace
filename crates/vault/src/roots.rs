//! Finding the newest root, and reading slots in bulk.

use std::sync::Arc;

use crate::error::Error;
use crate::head::Head;
use crate::keys::digest;
use crate::root::{Root, SegmentRow};
use crate::segment::{self, SegmentHeader};
use crate::slot::{self, Header, Kind, LAST, Origin, SLOT, SLOTS};
use crate::table::{Segment, Table};

/// Slots read in one step.
const STEP: usize = 512;

/// The newest root that can be read whole.
pub(crate) struct Newest {
    pub root: Root,
    pub place: Origin,
    pub pieces: u32,
    /// The head file to write next.
    pub which: usize,
    /// The counter of a newer one that a head names, and why it can't be read.
    pub beyond: Option<(u64, Error)>,
}

pub(crate) fn newest_root(table: &Arc<Table>, segments: &[u64]) -> Result<Newest, Error> {
    let heads = Head::read_all(&**table.store(), &table.ring(), table.id())?;
    let mut beyond = None;
    for (which, head) in &heads {
        let row = SegmentRow {
            number: head.root.segment(),
            pack: 0,
            epoch: head.epoch,
            slots: SLOTS,
            live: 0,
            salt: head.salt,
        };
        let read = table.add(&row).and_then(|_| read_root(table, head.root, head.pieces));
        table.drop_segment(row.number);
        match read {
            Ok(root) if root.counter == head.counter => {
                return Ok(Newest { root, place: head.root, pieces: head.pieces, which: 1 - which, beyond });
            }
            Ok(_) => {
                let why = Error::damaged(crate::head::NAMES[*which], "it names another root");
                beyond.get_or_insert((head.counter, why));
            }
            // A newer epoch than we have keys for: to go on from an older root would turn the vault back.
            Err(error @ Error::NoKey(_)) => return Err(error),
            Err(error) => {
                beyond.get_or_insert((head.counter, error));
            }
        }
    }
    if let Some((root, place, pieces)) = search(table, segments)? {
        return Ok(Newest { root, place, pieces, which: 0, beyond });
    }
    Err(beyond.map_or_else(|| Error::WrongKey(crate::head::NAMES[0].into()), |(_, why)| why))
}

/// Reads a root of a segment that the table knows.
pub(crate) fn read_root(table: &Table, place: Origin, pieces: u32) -> Result<Root, Error> {
    let mut bytes = Vec::new();
    let mut buffer = [0; SLOT];
    let wrong = |index, why| match table.get(place.segment()) {
        Some(segment) => Error::Damaged(Box::new(segment.damage(index, why))),
        None => Error::damaged(segment::name(place.segment()), why),
    };
    for piece in 0..pieces.min(SLOTS) {
        let (header, payload) = table.read_slot(Origin(place.0 + u64::from(piece)), Kind::Root, &mut buffer)?;
        if header.block != u64::from(piece) {
            return Err(wrong(place.index() + piece, "it is another piece of a root"));
        }
        bytes.extend_from_slice(payload);
    }
    Root::decode(&bytes).ok_or_else(|| wrong(place.index(), "the root is malformed"))
}

/// Without heads: the last whole root of the highest segment that has one.
fn search(table: &Arc<Table>, segments: &[u64]) -> Result<Option<(Root, Origin, u32)>, Error> {
    let mut later: Vec<SegmentHeader> = Vec::new();
    for number in segments.iter().rev() {
        let name = segment::name(*number);
        let file = match table.store().open(&name) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.map_err(|why| Error::io(&name, why))?,
        };
        let Some(header) = SegmentHeader::read(&*file, *number, &table.ring(), table.id())? else { continue };
        // What lies behind the end that a successor declares is dead, roots too.
        let continues = |next: &&SegmentHeader| next.before == *number && next.before_digest == digest(&header.salt);
        let end = later.iter().find(continues).map_or(SLOTS, |next| next.before_end);
        later.push(header.clone());
        let row =
            SegmentRow { number: *number, pack: 0, epoch: header.epoch, slots: SLOTS, live: 0, salt: header.salt };
        let segment = table.add(&row)?;
        let (mut newest, mut first) = (None, None);
        read_slots(table, &segment, 0, end, |index, opened| {
            match opened {
                Some((header, _)) if header.kind == Some(Kind::Root) => {
                    if header.block == 0 {
                        first = Some(index);
                    }
                    if let (Some(first), true) = (first, header.flags & LAST != 0) {
                        newest = Some((first, index + 1 - first));
                    }
                }
                _ => first = None,
            }
            true
        })?;
        let read = newest.map(|(index, pieces)| {
            let place = Origin::new(*number, index);
            read_root(table, place, pieces).map(|root| (root, place, pieces))
        });
        table.drop_segment(*number);
        if let Some(Ok(found)) = read {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Opens slots that follow each other, by two threads if there are many.
pub(crate) fn open_slots(table: &Table, segment: &Segment, first: u32, slots: &mut [u8]) -> Vec<Option<Header>> {
    let open = |from: u32, slots: &mut [u8]| -> Vec<Option<Header>> {
        let open = |(nth, slot): (usize, &mut [u8])| slot::open(segment.key(), table.id(), from + nth as u32, slot);
        slots.chunks_exact_mut(SLOT).enumerate().map(open).collect()
    };
    let half = slots.len() / SLOT / 2;
    if half <= 64 {
        return open(first, slots);
    }
    let (front, back) = slots.split_at_mut(half * SLOT);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| open(first + half as u32, back));
        let mut headers = open(first, front);
        headers.extend(other.join().unwrap_or_default());
        headers
    })
}

/// Reads and opens the slots from `index` to `end`, as far as the file goes, until `each` says no.
pub(crate) fn read_slots(
    table: &Table,
    segment: &Arc<Segment>,
    mut index: u32,
    end: u32,
    mut each: impl FnMut(u32, Option<(Header, &[u8])>) -> bool,
) -> Result<(), Error> {
    let length = table.store().open(&segment.file_name()).and_then(|file| file.len());
    let length = length.map_err(|why| Error::io(segment.file_name(), why))?;
    let there = (length.saturating_sub(segment::START as u64) / SLOT as u64).min(u64::from(SLOTS)) as u32;
    let end = end.min(there);
    let mut slots = vec![0; STEP * SLOT];
    while index < end {
        let count = (end - index).min(STEP as u32);
        let some = &mut slots[..count as usize * SLOT];
        table.read_raw(segment, index, some, true)?;
        let headers = open_slots(table, segment, index, some);
        for (nth, slot) in some.chunks_exact(SLOT).enumerate() {
            let opened = headers.get(nth).copied().flatten().map(|header| (header, slot::payload(slot)));
            if !each(index + nth as u32, opened) {
                return Ok(());
            }
        }
        index += count;
    }
    Ok(())
}
