//! How much of the files is dead, and how writers are held back while the cleaner catches up.
//!
//! A write costs a delay that grows with the debt (what is dead beyond what may be): nothing for long, microseconds then,
//! and steeply towards the bound, so that there is a debt at which writers and the cleaner are as fast as each other. Nobody
//! waits for a pass of the cleaner, and nobody is refused anything.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::inner::Inner;
use crate::slot::SLOT;
use crate::sync::lock;

/// The delay for a slot half-way between where delays begin and the bound.
const HALF_WAY: Duration = Duration::from_micros(10);
/// The longest delays of a slot and of a request.
const OF_SLOT: Duration = Duration::from_millis(5);
const OF_REQUEST: Duration = Duration::from_millis(25);
/// Shorter ones are gathered: to sleep costs more.
const WORTH: Duration = Duration::from_micros(500);

/// What dead slots there may be, in slots; by how many are live.
pub(crate) struct Limits {
    /// From here on the cleaner is at work.
    pub clean: i64,
    /// From here on writers are slowed down.
    begin: i64,
    /// Here they are slowest.
    bound: i64,
}

impl Limits {
    /// For `live` slots, in segments of `segment`.
    pub fn new(live: i64, segment: u32) -> Self {
        let segment = i64::from(segment);
        Self {
            clean: (live / 3).max(8 * segment),
            begin: (live / 2).max(12 * segment),
            bound: (live * 9 / 10).max(16 * segment),
        }
    }

    /// What a slot costs at a debt.
    fn delay(&self, dead: i64) -> Duration {
        if dead <= self.begin {
            return Duration::ZERO;
        }
        let part = (dead - self.begin) as f64 / (self.bound - self.begin).max(1) as f64;
        if part >= 1.0 { OF_SLOT } else { HALF_WAY.mul_f64(part / (1.0 - part)).min(OF_SLOT) }
    }
}

#[derive(Default)]
pub(crate) struct Pace {
    /// As last counted. What died since is in the table.
    dead: AtomicI64,
    live: AtomicI64,
    /// The cleaner finds nothing that it may take: to slow down writers would help nobody.
    idle: AtomicBool,
    /// More may be dead than was counted.
    unsure: AtomicBool,
    /// The background thread was told that there is work.
    told: AtomicBool,
    /// When all that was written is paid for.
    paid: Mutex<Option<Instant>>,
}

impl Pace {
    pub fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Relaxed)
    }

    pub fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// A pass may find more than it did, or than the count says.
    pub fn look_again(&self) {
        self.set_idle(false);
        self.unsure.store(true, Ordering::Relaxed);
    }
}

impl Inner {
    fn dead(&self) -> i64 {
        self.pace.dead.load(Ordering::Relaxed) + self.table.died.load(Ordering::Relaxed)
    }

    fn limits(&self) -> Limits {
        Limits::new(self.pace.live.load(Ordering::Relaxed), self.options.segment_slots)
    }

    /// What generations need is not dead when it is overwritten.
    pub fn count_kept(&self) {
        let kept = lock(&self.state).books.generations.iter().map(|row| row.data_head.0).max();
        self.table.kept.store(kept.unwrap_or(0), Ordering::Relaxed);
    }

    /// Counts what is dead, files that are still to be removed included.
    pub fn survey(&self) {
        self.table.died.store(0, Ordering::Relaxed);
        let (mut stored, mut live) = (0, 0);
        for segment in self.table.all() {
            let needed = segment.live.load(Ordering::Relaxed).max(0);
            live += needed;
            stored += match segment.pack() {
                0 => i64::from(segment.slots.load(Ordering::Acquire)),
                _ => self.table.kept_if_known(&segment).map_or(needed, i64::from),
            };
        }
        stored += lock(&self.replaced).iter().map(|(_, slots)| *slots as i64).sum::<i64>();
        self.pace.live.store(live, Ordering::Relaxed);
        self.pace.dead.store((stored - live).max(0), Ordering::Relaxed);
    }

    /// Whether so much is dead that a pass pays.
    pub fn is_dirty(&self) -> bool {
        self.pace.told.store(false, Ordering::Relaxed);
        self.survey();
        self.pace.unsure.swap(false, Ordering::Relaxed) || self.dead() > self.limits().clean
    }

    /// After a write of `slots`: pays for it.
    pub fn pay(&self, slots: u64) {
        if !self.options.background || self.pace.is_idle() {
            return;
        }
        let (dead, limits) = (self.dead(), self.limits());
        if dead > limits.clean && !self.pace.told.swap(true, Ordering::Relaxed) {
            self.bell.ring();
        }
        let price = limits.delay(dead);
        if price.is_zero() {
            return;
        }
        let price = price.saturating_mul(u32::try_from(slots).unwrap_or(u32::MAX)).min(OF_REQUEST);
        let wait = {
            let (mut paid, now) = (lock(&self.pace.paid), Instant::now());
            let until = paid.map_or(now, |paid| paid.max(now.checked_sub(WORTH).unwrap_or(now))) + price;
            *paid = Some(until);
            until.saturating_duration_since(now)
        };
        if wait >= WORTH {
            std::thread::sleep(wait.min(OF_REQUEST));
        }
    }
}

/// Of so many bytes, live and dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes of slots that are needed, about.
    pub live: u64,
    /// Bytes of slots that are not, but still lie in files.
    pub dead: u64,
}

impl crate::vault::Vault {
    /// What the files hold, needed or not, as it is known without reading.
    #[must_use]
    pub fn space(&self) -> Space {
        self.inner.survey();
        let bytes = |slots: i64| slots.max(0).unsigned_abs() * SLOT as u64;
        Space { live: bytes(self.inner.pace.live.load(Ordering::Relaxed)), dead: bytes(self.inner.dead()) }
    }
}
