//! UDP: a socket of the host's for each pair of a guest's port and a peer, forgotten when nothing has passed for a minute.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::link::{GUEST, Out};
use crate::tcp::{Key, Why};

/// Pairs at once; the one that was silent for longest gives way.
pub const MOST: usize = 256;
const SILENT: Duration = Duration::from_secs(60);
/// Datagrams that one peer may send in a row before others have their turn.
const ROW: usize = 64;

#[derive(Debug)]
struct Pair {
    world: UdpSocket,
    why: Why,
    last: Instant,
}

/// All pairs of the guest.
#[derive(Debug, Default)]
pub struct Udp(HashMap<Key, Pair>);

impl Udp {
    /// Pairs there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// A datagram of the guest's. False where the policy says no.
    pub fn send(&mut self, now: Instant, key: Key, data: &[u8], allowed: impl FnOnce(u16) -> Option<Why>) -> bool {
        if let Some(pair) = self.0.get_mut(&key) {
            pair.last = now;
            let _ = pair.world.send(data); // as on any network: it may be lost
            return true;
        }
        let Some(why) = allowed(key.2) else { return false };
        if self.0.len() >= MOST {
            let oldest = self.0.iter().min_by_key(|(_, pair)| pair.last).map(|(key, _)| *key);
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        let Ok(world) = UdpSocket::bind("0.0.0.0:0") else { return true };
        // Connected: nobody but this peer is heard.
        if world.set_nonblocking(true).is_ok() && world.connect((key.1, key.2)).is_ok() {
            let _ = world.send(data);
            self.0.insert(key, Pair { world, why, last: now });
        }
        true
    }

    /// What is to be waited for.
    pub fn waits(&self) -> impl Iterator<Item = (Key, BorrowedFd<'_>)> {
        self.0.iter().map(|(key, pair)| (*key, pair.world.as_fd()))
    }

    /// A peer has sent something.
    pub fn ready(&mut self, now: Instant, key: &Key, out: &mut Out) {
        let Some(pair) = self.0.get_mut(key) else { return };
        let mut untrusted_data = [0; 2048];
        for _ in 0..ROW {
            let Ok(length) = pair.world.recv(&mut untrusted_data) else { return };
            pair.last = now;
            if length < untrusted_data.len() {
                out.datagram((key.1, key.2), (GUEST, key.0), &untrusted_data[..length]);
            }
        }
    }

    /// Cut what `stays` does not want any more.
    pub fn cut(&mut self, stays: impl Fn(&Key, &Why) -> bool) {
        self.0.retain(|key, pair| stays(key, &pair.why));
    }

    /// Forget what is silent.
    pub fn sweep(&mut self, now: Instant) {
        self.0.retain(|_, pair| now.duration_since(pair.last) < SILENT);
    }

    /// The guest has gone.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
