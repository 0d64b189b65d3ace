//! Fetching what is about to be read from a disk that has to be waited for.
//!
//! After a while of random writes the blocks of a device lie in the order in which they were written. Read in sequence from a
//! disk, each would be waited for in turn; told of all of them at once, the disk fetches many at a time.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::device::Device;
use crate::slot::{Origin, SLOTS, ZERO};

/// Blocks behind a read in sequence that are fetched with it: 2 MiB.
const AHEAD: u64 = 512;

/// Where the last read ended, and how far what follows was asked for.
#[derive(Default)]
pub(crate) struct Ahead {
    end: AtomicU64,
    asked: AtomicU64,
}

/// Of so many entries from the first on, the slots follow each other.
pub(crate) fn run(entries: &[u64]) -> usize {
    let Some(first) = entries.first() else { return 0 };
    let room = (SLOTS - Origin(*first).index()) as usize;
    let follows = |(nth, entry): &(usize, &u64)| **entry == first + *nth as u64;
    entries.iter().enumerate().take(room).take_while(follows).count()
}

impl Device {
    /// A read of these entries, from `first` on, has to wait: the disk is told of all of them, and of what follows where
    /// this read follows the last one.
    pub(crate) fn fetch(&self, first: u64, entries: &[u64]) {
        let end = first + entries.len() as u64;
        self.ask(entries);
        // Several at a time may come in any order.
        if self.ahead.end.load(Ordering::Relaxed).abs_diff(first) > AHEAD {
            return;
        }
        let behind = self.size() / crate::slot::BLOCK as u64;
        let from = self.ahead.asked.load(Ordering::Relaxed).clamp(end, end + AHEAD);
        let to = (end + AHEAD).min(behind);
        // By halves: to look them up costs something too.
        if from + AHEAD / 2 > to {
            return;
        }
        self.ahead.asked.store(to, Ordering::Relaxed);
        let mut next = vec![0; (to - from) as usize];
        if self.disk.entries(&self.inner.table, from, &mut next, true).is_ok() {
            self.ask(&next);
        }
    }

    /// A read ended here.
    pub(crate) fn passed(&self, end: u64) {
        self.ahead.end.store(end, Ordering::Relaxed);
    }

    fn ask(&self, entries: &[u64]) {
        let pushed = self.inner.pushed.load(Ordering::Acquire);
        let mut at = 0;
        while at < entries.len() {
            let entry = entries[at];
            let stored = entry != 0 && entry & ZERO == 0;
            let count = if stored { run(&entries[at..]) } else { 1 };
            if stored && entry < pushed {
                self.inner.table.will_need(Origin(entry), count as u32);
            }
            at += count;
        }
    }
}
