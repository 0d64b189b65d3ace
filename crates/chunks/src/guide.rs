//! Cuts besides those that content asks for: where a former version was cut, and where what a start reads begins and ends.
//!
//! A chunk travels whole. Where a start reads a few blocks here and there, cutting around them halves what it waits for; and a
//! new version that follows its predecessor's cuts has the same chunks wherever it has the same content, edges and all.

use std::collections::HashMap;

use crate::cut::{Cutter, Span, past_holes};
use crate::folder::Row;
use crate::seal::Secret;
use crate::{BLOCK, Key, MAX_CHUNK};

/// Bytes that are looked at together: what a chunk of the former version may have become, and the one behind it.
pub const SIGHT: usize = 3 * MAX_CHUNK;
/// Blocks by which something in front of a chunk may have grown or shrunk for that to be found at once.
const ASIDE: i64 = 16;
/// Chunks of the former version on either side of the one that is due which are looked for as well.
const AROUND: usize = 4;
/// After so many chunks that the former version has not, its cuts say nothing of where content lies now.
const LOST: u32 = 3;

/// The cuts of one stream, in the order of its bytes.
#[derive(Default)]
pub struct Guide {
    /// Where a chunk ends if content did not end it before, ascending; multiples of [`BLOCK`].
    edges: Vec<u64>,
    former: Vec<Row>,
    /// Which row has a key that no other has.
    by_key: HashMap<Key, usize>,
    next: usize,
    /// How far what follows has moved since.
    shift: i64,
    /// Chunks in a row that the former version has not.
    lost: u32,
}

impl Guide {
    /// `edges` in any order, `former` ascending: what the part was cut into in the version before.
    pub fn new(mut edges: Vec<u64>, former: Vec<Row>) -> Self {
        edges.retain(|edge| edge % BLOCK as u64 == 0);
        edges.sort_unstable();
        let mut by_key = HashMap::with_capacity(former.len());
        let mut twice = Vec::new();
        for (nth, row) in former.iter().enumerate() {
            if by_key.insert(row.key, nth).is_some() {
                twice.push(row.key);
            }
        }
        for key in &twice {
            by_key.remove(key);
        }
        Self { edges, former, by_key, next: 0, shift: 0, lost: 0 }
    }

    /// Cut `data`, which is the stream from `base` on; as [`Cutter::cut`]. Calls follow the stream, each from where the one before
    /// left it, and see more than [`SIGHT`] of it. A chunk's key stands beside it where it had to be computed.
    pub fn cut(
        &mut self,
        cutter: &Cutter,
        secret: &Secret,
        base: u64,
        data: &[u8],
        end: bool,
    ) -> (Vec<(Span, Option<Key>)>, usize) {
        let mut spans = Vec::new();
        let mut at = past_holes(data, 0);
        while at < data.len() {
            if !end && !self.former.is_empty() && data.len() - at < SIGHT {
                break; // the next call sees more, and decides as if it had been there all along
            }
            let place = base + at as u64;
            // What grew pushes the right one ahead of where it has to be, what shrank pulls another in front of it.
            let around = (self.next..=self.next + AROUND).chain(self.next.saturating_sub(AROUND)..self.next);
            if let Some(nth) = around.into_iter().find(|nth| self.is(*nth, secret, data, at)) {
                let row = &self.former[nth];
                spans.push((Span { offset: at, size: row.size }, Some(row.key)));
                at = past_holes(data, (at + row.size).next_multiple_of(BLOCK).min(data.len()));
                self.shift = signed(place) - signed(row.offset);
                (self.next, self.lost) = (nth + 1, 0);
                continue;
            }
            let bound = self
                .next_begins(secret, base, data, at)
                .or_else(|| self.former_bound(place).filter(|_| self.lost < LOST));
            let edge = self.edges.get(self.edges.partition_point(|edge| *edge <= place)).copied();
            let stop = bound.into_iter().chain(edge).min().unwrap_or(u64::MAX);
            let stop = at.saturating_add(usize::try_from(stop - place).unwrap_or(usize::MAX));
            let Some((span, next)) = cutter.one(data, at, end, stop) else { break };
            let key = (!self.former.is_empty()).then(|| secret.key(&data[at..at + span.size]));
            self.went_on(place, base + next as u64, key);
            spans.push((span, key));
            at = past_holes(data, next);
        }
        (spans, at)
    }

    /// Whether the former version's chunk `nth` lies at `at`.
    fn is(&self, nth: usize, secret: &Secret, data: &[u8], at: usize) -> bool {
        let plain = self.former.get(nth).and_then(|row| Some((row, data.get(at..at.checked_add(row.size)?)?)));
        plain.is_some_and(|(row, plain)| secret.key(plain) == row.key)
    }

    /// Where the former version's next chunk begins, or the next but one, if it is in sight where it has to be or a little aside:
    /// what lies before it came in between, or is the next one, changed.
    fn next_begins(&self, secret: &Secret, base: u64, data: &[u8], at: usize) -> Option<u64> {
        let begins = |nth: usize| {
            let row = self.former.get(nth)?;
            let begins = signed(row.offset).checked_add(self.shift)?.checked_sub(signed(base))?;
            let places = (0..=ASIDE).flat_map(|by| [by, -by]).map(|by| begins.saturating_add(by * BLOCK as i64));
            places
                .filter_map(|place| usize::try_from(place).ok())
                .filter(|place| *place > at && place - at <= SIGHT - MAX_CHUNK)
                .find(|place| self.is(nth, secret, data, *place))
        };
        begins(self.next).or_else(|| begins(self.next + 1)).map(|place| base + place as u64)
    }

    /// The next place behind `place` where the former version was cut.
    fn former_bound(&self, place: u64) -> Option<u64> {
        let row = self.former.get(self.next)?;
        let finish = row.offset.checked_add(row.size as u64)?.next_multiple_of(BLOCK as u64);
        let moved = |at: u64| u64::try_from(signed(at).checked_add(self.shift)?).ok().filter(|at| *at > place);
        moved(row.offset).into_iter().chain(moved(finish)).min()
    }

    /// A chunk that was not the next of the former version: it is a later one, or stands for those that end before `until`.
    fn went_on(&mut self, place: u64, until: u64, key: Option<Key>) {
        if let Some(nth) = key.and_then(|key| self.by_key.get(&key)) {
            self.shift = signed(place) - signed(self.former[*nth].offset);
            (self.next, self.lost) = (nth + 1, 0);
            return;
        }
        self.lost += 1;
        let ended = |row: &&Row| signed(row.offset + row.size as u64) + self.shift <= signed(until);
        self.next += self.former[self.next.min(self.former.len())..].iter().take_while(ended).count();
    }
}

/// Offsets are far below 2^63.
fn signed(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}
