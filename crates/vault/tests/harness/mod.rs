//! What breaks a vault on purpose: a store that remembers every call and can fail, power cuts made from what it remembers,
//! a model of what must then be found, and the format once more, written from the paper alone.
#![allow(dead_code)]

pub mod feed;
pub mod model;
pub mod nonces;
pub mod paper;
pub mod power;
pub mod tape;

/// Small, seeded, the same everywhere (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 for 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.roll() % n.max(1) as u64) as usize
    }

    /// True `part` times in 100.
    pub fn chance(&mut self, part: usize) -> bool {
        self.below(100) < part
    }
}

/// A number from the environment.
pub fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

/// Runs `each` for every number, on all cores. The first panic names its number.
pub fn on_all_cores(numbers: std::ops::Range<u64>, each: impl Fn(u64) + Sync) {
    let next = std::sync::atomic::AtomicU64::new(numbers.start);
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if number >= numbers.end {
                        return;
                    }
                    each(number);
                }
            });
        }
    });
}
