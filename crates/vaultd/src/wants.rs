//! Chunks that somebody waits for and this machine lacks. This process has no network: it tells the agent, which fetches.
//!
//! Nobody waits on a thread: a request is kept as the closure that goes on with it. A thread of its own tells the watchers, so
//! that one that reads nothing holds up no disk, and lets go of what has waited too long.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use twofold_chunks::Id;
use twofold_nbd::{Failure, Kind, Wake};

use crate::said::Said;

/// How long a request is kept. Then it fails on the very blocks that lack, and a hypervisor pauses its guest.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Ids in one event or answer.
pub const BATCH: usize = 256;
/// A chunk that came so often and was never whole is given up for now.
const TRIES: u32 = 3;

/// Called with ids that are wanted, the most urgent first, at most [`BATCH`] at once.
pub type Tell = Box<dyn Fn(&[Id]) + Send + Sync>;

/// See above.
pub struct Wants {
    state: Mutex<State>,
    changed: Condvar,
    patience: Duration,
}

#[derive(Default)]
struct State {
    wanted: HashMap<Id, Want>,
    /// Still to be told, the most urgent first.
    fresh: Vec<Id>,
    /// Chunks that came, until they are found whole.
    came: HashMap<Id, u32>,
    asked: u64,
    closed: bool,
}

struct Want {
    since: Instant,
    number: u64,
    wakes: Vec<Wake>,
}

impl Wants {
    /// With a thread that tells.
    pub fn new(tell: Tell, patience: Duration) -> Result<Arc<Self>, Said> {
        let wants = Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), patience });
        let own = Arc::clone(&wants);
        thread::Builder::new().name("wants".into()).spawn(move || own.work(&tell))?;
        Ok(wants)
    }

    /// Have these fetched. Asking twice is asking once.
    pub fn ask(&self, ids: &[Id]) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        for id in ids {
            if !state.wanted.contains_key(id) {
                state.asked += 1;
                let want = Want { since: Instant::now(), number: state.asked, wakes: Vec::new() };
                state.wanted.insert(*id, want);
                state.fresh.push(*id);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Call `wake` once one of these is no longer waited for; at once if none is, or if one came again and again for nothing.
    pub fn wait(&self, ids: &[Id], wake: Wake) {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            return wake(Some(Failure::new(Kind::Closing, "the vault is being closed")));
        }
        if ids.iter().any(|id| state.came.get(id).is_some_and(|times| *times >= TRIES)) {
            state.came.retain(|id, _| !ids.contains(id));
            drop(state);
            return wake(Some(Failure::new(Kind::Io, "a piece of the image came damaged again and again")));
        }
        match ids.iter().find(|id| state.wanted.contains_key(*id)).and_then(|id| state.wanted.get_mut(id)) {
            Some(want) => want.wakes.push(wake),
            None => {
                drop(state);
                wake(None);
            }
        }
    }

    /// These lie in the cache now: what waits for them is tried again.
    pub fn arrived(&self, ids: &[Id]) {
        let wakes = {
            let mut state = self.lock();
            let mut wakes = Vec::new();
            for id in ids {
                if let Some(want) = state.wanted.remove(id) {
                    *state.came.entry(*id).or_default() += 1;
                    wakes.extend(want.wakes);
                }
            }
            wakes
        };
        wakes.into_iter().for_each(|wake| wake(None));
    }

    /// A chunk was found whole.
    pub fn found(&self, id: &Id) {
        let mut state = self.lock();
        if !state.came.is_empty() {
            state.came.remove(id);
        }
    }

    /// These can't be had now: what waits for them fails.
    pub fn absent(&self, ids: &[Id], why: &str) {
        let mut state = self.lock();
        let wakes: Vec<_> = ids.iter().filter_map(|id| state.wanted.remove(id)).flat_map(|want| want.wakes).collect();
        drop(state);
        fail(wakes, Kind::Io, why);
    }

    /// Tell all that is wanted once more: somebody new watches.
    pub fn remind(&self) {
        let mut state = self.lock();
        let mut all: Vec<_> = state.wanted.iter().map(|(id, want)| (want.number, *id)).collect();
        all.sort_unstable();
        state.fresh = all.into_iter().map(|(_, id)| id).collect();
        drop(state);
        self.changed.notify_all();
    }

    /// How many are wanted.
    pub fn count(&self) -> usize {
        self.lock().wanted.len()
    }

    /// Nothing is waited for any more, and the thread ends. Idempotent.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.fresh.clear();
        let wakes: Vec<_> = state.wanted.drain().flat_map(|(_, want)| want.wakes).collect();
        drop(state);
        self.changed.notify_all();
        fail(wakes, Kind::Closing, "the vault is being closed");
    }

    fn work(&self, tell: &Tell) {
        let mut state = self.lock();
        while !state.closed {
            if !state.fresh.is_empty() {
                let some = state.fresh.len().min(BATCH);
                let fresh: Vec<_> = state.fresh.drain(..some).collect();
                let ids: Vec<_> = fresh.into_iter().filter(|id| state.wanted.contains_key(id)).collect();
                drop(state);
                if !ids.is_empty() {
                    tell(&ids);
                }
                state = self.lock();
                continue;
            }
            state = match state.wanted.values().map(|want| want.since + self.patience).min() {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    let (mut state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
                    let late = self.late(&mut state);
                    if !late.is_empty() {
                        drop(state);
                        fail(late, Kind::Io, "a piece of the image is not on this machine, and nobody brought it");
                        state = self.lock();
                    }
                    state
                }
            };
        }
    }

    fn late(&self, state: &mut State) -> Vec<Wake> {
        let late: HashSet<_> =
            state.wanted.iter().filter(|(_, want)| want.since.elapsed() >= self.patience).map(|(id, _)| *id).collect();
        late.iter().filter_map(|id| state.wanted.remove(id)).flat_map(|want| want.wakes).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fail(wakes: Vec<Wake>, kind: Kind, why: &str) {
    wakes.into_iter().for_each(|wake| wake(Some(Failure::new(kind, why))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    const SOON: Duration = Duration::from_secs(20);

    fn id(nth: usize) -> Id {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&nth.to_le_bytes());
        id
    }

    fn made(patience: Duration) -> (Arc<Wants>, Receiver<Vec<Id>>) {
        let (said, told) = channel();
        let said = Mutex::new(said);
        let tell = move |ids: &[Id]| drop(said.lock().unwrap().send(ids.to_vec()));
        (Wants::new(Box::new(tell), patience).unwrap(), told)
    }

    /// What became of a request that waits.
    fn waiting(wants: &Wants, ids: &[Id]) -> Receiver<Option<(Kind, String)>> {
        let (said, told) = channel();
        let end = move |failure: Option<Failure>| drop(said.send(failure.map(|failure| (failure.kind, failure.text))));
        wants.wait(ids, Box::new(end));
        told
    }

    #[test]
    fn what_is_asked_for_twice_is_told_once_in_order_and_not_more_than_fits_a_line() {
        let (wants, told) = made(SOON);
        let all: Vec<_> = (0..BATCH + 3).map(id).collect();
        wants.ask(&all);
        wants.ask(&all);
        let mut found = told.recv_timeout(SOON).unwrap();
        assert!(found.len() <= BATCH);
        while found.len() < all.len() {
            found.extend(told.recv_timeout(SOON).unwrap());
        }
        assert!(found == all);
        // Who comes later is told what is left, the oldest first.
        wants.arrived(&all[1..BATCH + 2]);
        wants.remind();
        assert!(told.recv_timeout(SOON).unwrap() == [id(0), id(BATCH + 2)]);
        assert!(told.try_recv().is_err());
        wants.close();
    }

    #[test]
    fn a_request_ends_when_it_came_when_it_can_not_be_had_and_when_nobody_answers() {
        let (wants, _told) = made(Duration::from_millis(300));
        wants.ask(&[id(1), id(2), id(3)]);
        let (one, two, three) = (waiting(&wants, &[id(1)]), waiting(&wants, &[id(2)]), waiting(&wants, &[id(3)]));
        let none = waiting(&wants, &[id(4)]);
        assert_eq!(none.recv_timeout(SOON).unwrap(), None, "nobody asked for it: it is here by now");
        wants.arrived(&[id(1)]);
        wants.absent(&[id(2)], "the server is away");
        assert_eq!(one.recv_timeout(SOON).unwrap(), None);
        assert_eq!(two.recv_timeout(SOON).unwrap(), Some((Kind::Io, "the server is away".into())));
        let began = Instant::now();
        assert!(matches!(three.recv_timeout(SOON).unwrap(), Some((Kind::Io, _))));
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(wants.count(), 0);
        wants.close();
    }

    #[test]
    fn what_comes_again_and_again_for_nothing_is_given_up_once() {
        let (wants, _told) = made(SOON);
        for _ in 0..TRIES {
            wants.ask(&[id(1)]);
            let one = waiting(&wants, &[id(1)]);
            wants.arrived(&[id(1)]);
            assert_eq!(one.recv_timeout(SOON).unwrap(), None);
        }
        wants.ask(&[id(1)]);
        assert!(matches!(waiting(&wants, &[id(1)]).recv_timeout(SOON).unwrap(), Some((Kind::Io, _))));
        let again = waiting(&wants, &[id(1)]);
        assert!(again.try_recv().is_err(), "the next one waits");
        wants.close();
        assert!(matches!(again.recv_timeout(SOON).unwrap(), Some((Kind::Closing, _))));
        assert!(matches!(waiting(&wants, &[id(1)]).recv_timeout(SOON).unwrap(), Some((Kind::Closing, _))));
    }
}
