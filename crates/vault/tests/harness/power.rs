//! What a disk may hold after the power went.

use std::collections::BTreeMap;

use twofold_vault::Anchored;

use super::Dice;
use super::tape::{Event, Image, Reel};

const SECTOR: usize = 512;

/// What became of changes that were not made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All are there: the process was killed.
    All,
    /// None is.
    Nothing,
    /// Those up to some moment, the last one torn at any byte.
    Prefix,
    /// Any of their sectors, in any order, each as it was at some moment; what was never written there reads as zeroes.
    Sectors,
    /// The same, but it reads as whatever lay on the disk before.
    Dirty,
}

pub const CUTS: [Cut; 5] = [Cut::All, Cut::Nothing, Cut::Prefix, Cut::Sectors, Cut::Dirty];

#[derive(Default)]
struct File<'a> {
    durable: Vec<u8>,
    pending: Vec<Pending<'a>>,
}

/// A write that nothing made durable yet.
struct Pending<'a> {
    at: usize,
    data: &'a [u8],
    /// How much of it had been written at the moment of [`Cut::Prefix`].
    early: usize,
}

impl Pending<'_> {
    fn end(&self) -> usize {
        self.at + self.data.len()
    }
}

fn write(content: &mut Vec<u8>, at: usize, data: &[u8]) {
    content.resize(content.len().max(at + data.len()), 0);
    content[at..at + data.len()].copy_from_slice(data);
}

fn rename(names: &mut BTreeMap<String, usize>, event: &Event) {
    match event {
        Event::Create(file, name) => {
            names.insert(name.clone(), *file);
        }
        Event::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Event::Remove(name) => {
            names.remove(name);
        }
        _ => {}
    }
}

/// The files and the anchor after the first `upto` events and a power cut.
pub fn after(reel: &Reel, upto: usize, cut: Cut, dice: &mut Dice) -> (Image, Option<Anchored>) {
    let mut files: Vec<File> =
        reel.base.values().map(|bytes| File { durable: bytes.clone(), ..File::default() }).collect();
    let mut names: BTreeMap<String, usize> =
        reel.base.keys().enumerate().map(|(file, name)| (name.clone(), file)).collect();
    let mut pending_names: Vec<&Event> = Vec::new();
    let mut anchor = reel.first_anchor.clone();
    let unsynced = reel.events[..upto].iter().rev().take_while(|event| !matches!(event, Event::Sync(_))).count();
    // The moment of Prefix: more often than not among what nothing made durable since.
    let most = if dice.chance(70) { unsynced } else { upto };
    let moment = upto - dice.below(most + 1);
    for (nth, event) in reel.events[..upto].iter().enumerate() {
        match event {
            Event::Create(_, _) | Event::Rename(_, _) | Event::Remove(_) => {
                if let Event::Create(_, _) = event {
                    files.push(File::default());
                }
                if cut != Cut::Prefix || nth < moment {
                    pending_names.push(event);
                }
            }
            Event::Write(file, at, data) => {
                let early = match nth + 1 {
                    now if now < moment => data.len(),
                    now if now == moment => dice.below(data.len() + 1),
                    _ => 0,
                };
                files[*file].pending.push(Pending { at: *at as usize, data, early });
            }
            Event::Length(file, length) => files[*file].durable.resize(*length as usize, 0),
            Event::Sync(file) => {
                let File { durable, pending } = &mut files[*file];
                pending.drain(..).for_each(|one| write(durable, one.at, one.data));
            }
            Event::Lost(file) => {
                let lost = std::mem::take(&mut files[*file].pending);
                sectors(&mut files[*file].durable, &lost, 30, cut == Cut::Dirty, dice);
            }
            Event::Names => {
                // A folder that was synced holds all names up to there.
                if cut == Cut::Prefix {
                    pending_names = reel.events[..=nth].iter().filter(|event| is_name(event)).collect();
                }
                pending_names.drain(..).for_each(|event| rename(&mut names, event));
            }
            Event::Anchor(record) => anchor = Some(record.clone()),
        }
    }
    let in_order = dice.chance(50);
    let keep = [10, 50, 90][dice.below(3)];
    for event in pending_names {
        let there = match cut {
            Cut::All | Cut::Prefix => true,
            Cut::Nothing => false,
            Cut::Sectors | Cut::Dirty if in_order && !dice.chance(keep) => break,
            Cut::Sectors | Cut::Dirty => in_order || dice.chance(keep),
        };
        if there {
            rename(&mut names, event);
        }
    }
    let mut image = Image::new();
    for (name, file) in names {
        let File { mut durable, pending } = std::mem::take(&mut files[file]);
        match cut {
            Cut::Nothing => {}
            Cut::All => pending.iter().for_each(|one| write(&mut durable, one.at, one.data)),
            Cut::Prefix => {
                let early = pending.iter().filter(|one| one.early > 0);
                early.for_each(|one| write(&mut durable, one.at, &one.data[..one.early]));
            }
            Cut::Sectors | Cut::Dirty => sectors(&mut durable, &pending, keep, cut == Cut::Dirty, dice),
        }
        image.insert(name, durable);
    }
    (image, anchor)
}

/// Whether both heads are durable as they were last written, whatever the cut. `before`: they were before the first event.
pub fn heads_are_kept(reel: &Reel, upto: usize, before: bool) -> bool {
    let kept = |name: &str| {
        let numbers: Vec<usize> = (0..reel.made.len()).filter(|file| reel.made[*file] == name).collect();
        let last = reel.events[..upto].iter().rev().find_map(|event| match event {
            Event::Sync(file) if numbers.contains(file) => Some(true),
            Event::Write(file, ..) | Event::Length(file, _) if numbers.contains(file) => Some(false),
            _ => None,
        });
        last.unwrap_or(before)
    };
    kept("head.a") && kept("head.b")
}

fn is_name(event: &Event) -> bool {
    matches!(event, Event::Create(_, _) | Event::Rename(_, _) | Event::Remove(_))
}

/// Of each sector of what was written one of the contents that it had, old or new, `keep` times in 100 a new one.
fn sectors(content: &mut Vec<u8>, pending: &[Pending], keep: usize, dirty: bool, dice: &mut Dice) {
    let mut old = content.clone();
    let whole = pending.iter().map(Pending::end).max().unwrap_or(0).max(old.len());
    // The length that the file has: before, after, or of one of the writes.
    let length = match dice.below(3) {
        0 => whole,
        1 => old.len(),
        _ => pending.get(dice.below(pending.len())).map_or(whole, Pending::end),
    };
    if dirty {
        let from = old.len();
        old.resize(whole, 0);
        // What lay there before: an older part of the same file, or noise.
        for at in (from..whole).step_by(SECTOR) {
            let end = (at + SECTOR).min(whole);
            if dice.chance(50) && at >= SECTOR + 4128 {
                old.copy_within(at - 4128..end - 4128, at);
            } else {
                let noise = dice.roll().to_le_bytes();
                old[at..end].iter_mut().enumerate().for_each(|(i, byte)| *byte = noise[i % 8]);
            }
        }
    }
    old.resize(whole, 0);
    let mut made = old;
    for one in pending {
        let (mut from, end) = (one.at, one.end());
        while from < end {
            let to = ((from / SECTOR + 1) * SECTOR).min(end);
            if dice.chance(keep) {
                // Once in a while a sector is torn too.
                let to = if dice.chance(2) { from + dice.below(to - from) } else { to };
                made[from..to].copy_from_slice(&one.data[from - one.at..to - one.at]);
            }
            from = to;
        }
    }
    made.truncate(length.max(content.len()));
    *content = made;
}
