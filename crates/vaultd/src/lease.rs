//! The right to hold the key, by the clock of this machine: nobody has to come and take it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;

/// Until when the key may be held. Times are Unix seconds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// 0: without end, a local lease.
    #[serde(default)]
    pub expires: u64,
    /// The highest time that was ever seen here, so that turning the clock back gains nothing.
    #[serde(default)]
    pub seen: u64,
    /// Whether the keys may be wrapped for another device.
    #[serde(default)]
    pub wrap: bool,
}

/// A lease counted down on the boot-time clock, which goes on while the machine sleeps and can't be set (clock_gettime(2)).
#[derive(Clone, Copy, Debug)]
pub struct Countdown {
    expires: u64,
    until: Option<Duration>,
}

impl Countdown {
    /// Begin to count.
    pub fn new(lease: Lease) -> Self {
        let now = unix().max(lease.seen);
        let left = Duration::from_secs(lease.expires.saturating_sub(now));
        Self { expires: lease.expires, until: (lease.expires > 0).then(|| boot() + left) }
    }

    /// What is left; zero at the end, `None` without one. The wall clock may shorten it, never lengthen it.
    pub fn left(&self) -> Option<Duration> {
        let by_boot = self.until?.saturating_sub(boot());
        Some(by_boot.min(Duration::from_secs(self.expires.saturating_sub(unix()))))
    }

    /// Whether it has ended.
    pub fn over(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }
}

fn boot() -> Duration {
    time(ClockId::Boottime)
}

fn unix() -> u64 {
    time(ClockId::Realtime).as_secs()
}

fn time(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_lease_has_no_end() {
        assert_eq!(Countdown::new(Lease::default()).left(), None);
        assert!(!Countdown::new(Lease { seen: u64::MAX, ..Lease::default() }).over());
    }

    #[test]
    fn what_is_left_counts_from_the_highest_time_seen() {
        let now = unix();
        assert!(Countdown::new(Lease { expires: now - 1, ..Lease::default() }).over());
        assert!(
            Countdown::new(Lease { expires: now + 100, seen: now + 100, wrap: false }).over(),
            "the clock was turned back"
        );
        let left = Countdown::new(Lease { expires: now + 100, seen: now + 40, wrap: false }).left().unwrap();
        assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(57));
    }
}
