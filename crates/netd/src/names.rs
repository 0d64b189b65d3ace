//! Names that were asked for, and the addresses that may be reached because of them.

use std::collections::HashMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::dns::{Outcome, Question};
use crate::policy::{Place, Policy};
use crate::world::{Nameless, World};

/// How long the guest may keep an answer, in seconds.
const TOLD: u32 = 60;
/// How long we keep one before the host is asked again.
const FRESH: Duration = Duration::from_secs(30);
/// How long an address may be connected to after it was last given out: longer than any guest keeps it.
const REACHED: Duration = Duration::from_secs(300);
/// Names that are kept, questions that wait, and names that are asked for at once.
const NAMES: usize = 4096;
const WAITING: usize = 256;
const ASKERS: usize = 4;

/// Who asked: the guest's port.
type Asker = (u16, Question);
type Found = Result<Vec<Ipv4Addr>, Nameless>;

#[derive(Debug)]
struct Known {
    /// What the host said, and until when that is answered without asking it again.
    addresses: Vec<Ipv4Addr>,
    fresh: Instant,
    /// What was given out, also before, and until when it may be connected to.
    reached: Vec<(Ipv4Addr, Instant)>,
}

impl Known {
    fn told(&mut self, now: Instant) {
        self.reached.retain(|(address, until)| now < *until && !self.addresses.contains(address));
        self.reached.truncate(64);
        self.reached.extend(self.addresses.iter().map(|address| (*address, now + REACHED)));
    }
}

/// The resolver.
#[derive(Debug)]
pub struct Names {
    known: HashMap<String, Known>,
    waiting: HashMap<String, Vec<Asker>>,
    ask: Sender<String>,
    found: Receiver<(String, Found)>,
}

impl Names {
    /// Start the threads that ask; each answer wakes `waker`.
    ///
    /// # Errors
    /// There are no more threads or descriptors.
    pub fn new(world: &Arc<impl World>, waker: &UnixStream) -> std::io::Result<Self> {
        let (ask, asked) = channel::<String>();
        let (tell, found) = channel();
        let asked = Arc::new(Mutex::new(asked));
        for number in 0..ASKERS {
            let (world, asked, tell, mut waker) =
                (Arc::clone(world), Arc::clone(&asked), tell.clone(), waker.try_clone()?);
            // getaddrinfo(3) takes some room on the stack.
            thread::Builder::new().name(format!("names-{number}")).stack_size(256 << 10).spawn(move || {
                loop {
                    let next = asked.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(name) = next else { return };
                    let said = world.resolve(&name);
                    if tell.send((name, said)).is_err() {
                        return;
                    }
                    let _ = waker.write(b"n");
                }
            })?;
        }
        Ok(Self { known: HashMap::new(), waiting: HashMap::new(), ask, found })
    }

    /// A question of the guest's: an answer at once, or later by `answers`.
    pub fn ask(&mut self, policy: &Policy, now: Instant, port: u16, question: Question) -> Option<Vec<u8>> {
        if question.name.is_empty() || !policy.name(&question.name) {
            return Some(question.answer(Outcome::Unknown, &[], 0));
        }
        if !question.address {
            return Some(question.answer(Outcome::Found, &[], 0)); // IPv6 and the rest: there is none
        }
        if let Some(known) = self.known.get_mut(&question.name) {
            if now < known.fresh {
                known.told(now);
                return Some(question.answer(Outcome::Found, &known.addresses, TOLD));
            }
        }
        if self.waiting.values().map(Vec::len).sum::<usize>() >= WAITING {
            return Some(question.answer(Outcome::Failed, &[], 0));
        }
        let askers = self.waiting.entry(question.name.clone()).or_default();
        if askers.is_empty() {
            let _ = self.ask.send(question.name.clone());
        }
        askers.push((port, question));
        None
    }

    /// What was found meanwhile: each asker's port and answer.
    pub fn answers(&mut self, world: &impl World, policy: &Policy, now: Instant) -> Vec<(u16, Vec<u8>)> {
        let mut answers = Vec::new();
        while let Ok((name, said)) = self.found.try_recv() {
            let (outcome, addresses) = self.settle(world, policy, now, &name, said);
            for (port, question) in self.waiting.remove(&name).unwrap_or_default() {
                answers.push((port, question.answer(outcome, &addresses, TOLD)));
            }
        }
        answers
    }

    fn settle(
        &mut self,
        world: &impl World,
        policy: &Policy,
        now: Instant,
        name: &str,
        said: Found,
    ) -> (Outcome, Vec<Ipv4Addr>) {
        let mut addresses = match said {
            Ok(addresses) if policy.name(name) => addresses, // the policy may have changed while we asked
            Err(Nameless::Unreachable) => return (Outcome::Failed, Vec::new()),
            _ => return (Outcome::Unknown, Vec::new()),
        };
        let some = !addresses.is_empty();
        addresses.retain(|address| policy.may_tell(*address, world.place(*address)));
        if addresses.is_empty() {
            // It points to where the policy does not lead: as if it were not there.
            return (if some { Outcome::Unknown } else { Outcome::Found }, addresses);
        }
        if self.known.len() >= NAMES {
            self.forget(now);
        }
        if self.known.len() < NAMES || self.known.contains_key(name) {
            let empty = || Known { addresses: Vec::new(), fresh: now, reached: Vec::new() };
            let known = self.known.entry(name.to_owned()).or_insert_with(empty);
            (known.addresses, known.fresh) = (addresses.clone(), now + FRESH);
            known.told(now);
        }
        (Outcome::Found, addresses)
    }

    /// The allowed name because of which an address may be reached at this port, if any.
    pub fn leading_to(
        &self,
        policy: &Policy,
        now: Instant,
        address: Ipv4Addr,
        port: u16,
        place: Place,
    ) -> Option<String> {
        self.known
            .iter()
            .filter(|(_, known)| known.reached.iter().any(|(one, until)| *one == address && now < *until))
            .find(|(name, _)| policy.by_name(name, port, place))
            .map(|(name, _)| name.clone())
    }

    /// Names that are known now.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// Forget what is old.
    pub fn forget(&mut self, now: Instant) {
        self.known.retain(|_, known| known.reached.iter().any(|(_, until)| now < *until));
    }

    /// The policy has changed: forget names that it does not have, and ask for the others anew.
    pub fn keep(&mut self, policy: &Policy, now: Instant) {
        self.known.retain(|name, _| policy.name(name));
        self.known.values_mut().for_each(|known| known.fresh = now);
    }
}
