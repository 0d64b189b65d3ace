//! What the thread that receives a connection's requests shares with the workers that answer some of them.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::net::{SendFlags, send};

use crate::export::{Export, Failure, Kind, Readiness};
use crate::pool::{Pool, lock};
use crate::replies::Replies;
use crate::request::{Request, Terms};
use crate::wire::flag;

/// A structured read is answered in chunks of this size: small enough to stay in the processor's cache on its way.
pub const CHUNK: usize = 256 << 10;
/// From here on a read is worth a second processor while others wait behind it.
const LARGE: usize = 128 << 10;
/// Damaged ranges named in one reply before the rest of the request is given up.
const MAX_FAILURES: usize = 64;
/// Bounds on what waits for workers: requests, and bytes copied for them.
const MAX_FLIGHTS: usize = 1024;
const MAX_BYTES: usize = 64 << 20;

pub struct Link {
    pub export: Arc<dyn Export>,
    pub terms: Terms,
    pub stream: UnixStream,
    pub pool: Arc<Pool>,
    /// Processors beside the one that receives.
    spare: usize,
    outlet: Mutex<()>,
    flights: Mutex<Flights>,
    landed: Condvar,
    flushes: Mutex<Flushes>,
}

/// Requests with the workers, the bytes copied for them, and whether somebody waits for one to end.
#[derive(Default)]
struct Flights {
    count: usize,
    bytes: usize,
    awaited: bool,
}

#[derive(Default)]
struct Flushes {
    running: bool,
    waiting: Vec<u64>,
}

/// One request with a worker. Dropped by a panic, it hangs up: a client must not wait for ever.
struct Flight {
    link: Arc<Link>,
    bytes: usize,
}

impl Drop for Flight {
    fn drop(&mut self) {
        if thread::panicking() {
            self.link.hang_up();
        }
        let mut flights = lock(&self.link.flights);
        flights.count -= 1;
        flights.bytes -= self.bytes;
        let awaited = std::mem::take(&mut flights.awaited);
        drop(flights);
        if awaited {
            self.link.landed.notify_all();
        }
    }
}

impl Link {
    pub fn new(export: Arc<dyn Export>, terms: Terms, stream: UnixStream, pool: Arc<Pool>) -> Arc<Self> {
        Arc::new(Self {
            export,
            terms,
            stream,
            pool,
            spare: thread::available_parallelism().map_or(0, |all| all.get() - 1),
            outlet: Mutex::default(),
            flights: Mutex::default(),
            landed: Condvar::new(),
            flushes: Mutex::default(),
        })
    }

    pub fn hang_up(&self) {
        let _ = self.stream.shutdown(Shutdown::Both); // it may be gone already
    }

    /// Sends what was put in, and empties it. A client that is gone is noticed where requests are received.
    pub fn send(&self, replies: &mut Replies) {
        let mut rest = replies.as_slice();
        if !rest.is_empty() {
            let _held = lock(&self.outlet);
            while !rest.is_empty() {
                match send(&self.stream, rest, SendFlags::NOSIGNAL) {
                    Ok(sent) => rest = &rest[sent..],
                    Err(rustix::io::Errno::INTR) => (),
                    Err(_) => {
                        self.hang_up();
                        break;
                    }
                }
            }
        }
        replies.cut(0);
    }

    /// Gives a request to a worker; waits while too many are under way.
    pub fn dispatch(self: &Arc<Self>, bytes: usize, work: impl FnOnce(&Arc<Self>, &mut Replies) + Send + 'static) {
        let mut flights = lock(&self.flights);
        while flights.count >= MAX_FLIGHTS || (flights.bytes > 0 && flights.bytes + bytes > MAX_BYTES) {
            flights.awaited = true;
            flights = self.landed.wait(flights).unwrap_or_else(PoisonError::into_inner);
        }
        let flight = self.depart(flights, bytes);
        self.pool.run(Box::new(move |replies| {
            work(&flight.link, replies);
            flight.link.send(replies);
        }));
    }

    fn depart(self: &Arc<Self>, mut flights: MutexGuard<'_, Flights>, bytes: usize) -> Flight {
        flights.count += 1;
        flights.bytes += bytes;
        Flight { link: Arc::clone(self), bytes }
    }

    /// Keeps a request, without a thread, until the export says that it can be tried again or not at all; a worker goes on
    /// with it then. It is beyond the bounds for a moment: the worker that calls this has it still.
    fn park(
        self: &Arc<Self>,
        bytes: usize,
        (offset, length): (u64, u64),
        work: impl FnOnce(&Arc<Self>, Option<Failure>, &mut Replies) + Send + 'static,
    ) {
        let flight = self.depart(lock(&self.flights), bytes);
        self.export.later(
            offset,
            length,
            Box::new(move |failure| {
                let pool = Arc::clone(&flight.link.pool);
                pool.run(Box::new(move |replies| {
                    work(&flight.link, failure, replies);
                    flight.link.send(replies);
                }));
            }),
        );
    }

    /// Makes a change on a worker, as often as it takes.
    pub fn change(self: &Arc<Self>, request: Request, change: Change, replies: &mut Replies) {
        let (offset, length) = (request.offset, u64::from(request.length));
        let mut result = match &change {
            Change::Write(data) => self.export.write(offset, data),
            Change::Zero => self.export.zero(offset, length, request.has(flag::NO_HOLE)),
        };
        if let Some(failure) = result.as_ref().err().filter(|failure| failure.kind == Kind::Later) {
            let range = failure.range.unwrap_or((offset, length));
            return self.park(change.bytes(), range, move |link, failure, replies| match failure {
                None => link.change(request, change, replies),
                Some(failure) => link.outcome(replies, request.cookie, Some(&failure)),
            });
        }
        result = result.and_then(|()| self.export.push());
        if request.has(flag::FUA) {
            result = result.and_then(|()| self.export.flush());
        }
        self.outcome(replies, request.cookie, result.err().as_ref());
    }

    /// Whether the workers have nothing of this connection.
    pub fn is_idle(&self) -> bool {
        lock(&self.flights).count == 0
    }

    /// Waits until the workers have answered everything.
    pub fn settle(&self) {
        let mut flights = lock(&self.flights);
        while flights.count > 0 {
            flights.awaited = true;
            flights = self.landed.wait(flights).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Answers these once everything pushed so far is durable. One flush serves all that wait for one, so that a storm of
    /// them leaves workers for reads.
    pub fn flush_later(self: &Arc<Self>, cookies: &mut Vec<u64>) {
        let mut flushes = lock(&self.flushes);
        flushes.waiting.append(cookies);
        if flushes.running {
            return;
        }
        flushes.running = true;
        drop(flushes);
        self.dispatch(0, |link, replies| {
            loop {
                let waiting = {
                    let mut flushes = lock(&link.flushes);
                    flushes.running = !flushes.waiting.is_empty();
                    std::mem::take(&mut flushes.waiting)
                };
                if waiting.is_empty() {
                    return;
                }
                let result = link.export.flush();
                for cookie in waiting {
                    link.outcome(replies, cookie, result.as_ref().err());
                }
                link.send(replies);
            }
        });
    }

    /// The reply to a request that carries no data back.
    pub fn outcome(&self, replies: &mut Replies, cookie: u64, failure: Option<&Failure>) {
        match failure {
            None => replies.simple(cookie, 0),
            Some(failure) => replies.failure(cookie, self.terms.structured, true, failure),
        }
    }

    /// Answers a read as far as it can without waiting; the rest is given to a worker. `more`: others wait behind it.
    pub fn read(self: &Arc<Self>, request: &Request, more: bool, replies: &mut Replies) {
        let whole = !self.terms.structured || request.has(flag::DF);
        let length = request.length as usize;
        let huge = whole && length > CHUNK * 4; // one buffer for it is enough
        let rest = if more && !huge && length >= LARGE && lock(&self.flights).count < self.spare {
            Some(Rest::of(request))
        } else {
            self.read_on(Rest::of(request), whole, huge, replies)
        };
        if let Some(rest) = rest {
            self.dispatch(0, move |link, replies| {
                link.read_on(rest, whole, true, replies);
            });
        }
    }

    /// Goes on with a read that was kept, on a worker; `failure`: what it lacked does not come.
    fn read_again(self: &Arc<Self>, mut rest: Rest, whole: bool, failure: Option<Failure>, replies: &mut Replies) {
        if let Some(failure) = failure {
            let length = if whole { rest.length } else { rest.length.min(CHUNK) };
            self.read_around(&mut rest, length, whole, &failure, replies);
        }
        self.read_on(rest, whole, true, replies);
    }

    /// Puts the chunks of a read behind each other, sending full buffers. Answers what is left where it would have to wait.
    fn read_on(self: &Arc<Self>, mut rest: Rest, whole: bool, wait: bool, replies: &mut Replies) -> Option<Rest> {
        let structured = self.terms.structured;
        let cookie = rest.cookie;
        while rest.length > 0 {
            let length = if whole { rest.length } else { rest.length.min(CHUNK) };
            let before = replies.len();
            let last = length == rest.length;
            let done = last && rest.failures == 0 && structured;
            let buffer = replies.data(cookie, structured, done, rest.offset, length);
            let result = if wait {
                self.export.read(rest.offset, buffer).map(|()| Readiness::Done)
            } else {
                self.export.try_read(rest.offset, buffer)
            };
            match result {
                Ok(Readiness::Done) => {
                    rest.pass(length);
                    if last && !done && structured {
                        replies.done(cookie);
                    }
                }
                Ok(Readiness::WouldBlock) => {
                    replies.cut(before);
                    return Some(rest);
                }
                Err(failure) if failure.kind == Kind::Later => {
                    replies.cut(before);
                    let range = failure.range.unwrap_or((rest.offset, length as u64));
                    self.park(0, range, move |link, failure, replies| {
                        let exact = failure.map(|failure| Failure { range: failure.range.or(Some(range)), ..failure });
                        link.read_again(rest, whole, exact, replies);
                    });
                    return None;
                }
                Err(failure) => {
                    replies.cut(before);
                    self.read_around(&mut rest, length, whole, &failure, replies);
                }
            }
            if replies.len() >= CHUNK && rest.length > 0 {
                self.send(replies);
            }
        }
        None
    }

    /// Answers the good bytes before a failed range and an error for it, and goes on behind it if it may.
    fn read_around(&self, rest: &mut Rest, length: usize, whole: bool, failure: &Failure, replies: &mut Replies) {
        let (cookie, structured) = (rest.cookie, self.terms.structured);
        let end = rest.offset + length as u64;
        // The range inside this chunk, at least one block long so that there is an end to it.
        let range = failure
            .range
            .map(|(offset, length)| (offset.max(rest.offset), offset.saturating_add(length.max(512)).min(end)))
            .filter(|(from, to)| from < to && structured && !whole);
        rest.failures += 1;
        let Some((from, to)) = range.filter(|_| rest.failures <= MAX_FAILURES) else {
            let offset = failure.range.map(|(offset, _)| offset.clamp(rest.offset, end - 1));
            replies.error(cookie, structured, true, failure.kind.number(), offset, &failure.text);
            return rest.length = 0;
        };
        let good = (from - rest.offset) as usize;
        if good > 0 {
            let before = replies.len();
            let buffer = replies.data(cookie, true, false, rest.offset, good);
            if let Err(failure) = self.export.read(rest.offset, buffer) {
                // It failed elsewhere the second time; from here on nothing is certain.
                replies.cut(before);
                replies.error(cookie, true, true, Kind::Io.number(), Some(rest.offset), &failure.text);
                return rest.length = 0;
            }
        }
        let passed = (to - rest.offset) as usize;
        let done = passed == rest.length;
        replies.error(cookie, true, done, failure.kind.number(), Some(from), &failure.text);
        rest.pass(passed);
    }
}

/// A change that a worker makes: what it writes, or zeroes.
pub enum Change {
    Write(Vec<u8>),
    Zero,
}

impl Change {
    /// Copied for it.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Write(data) => data.len(),
            Self::Zero => 0,
        }
    }
}

/// What is still to be read of a request.
struct Rest {
    cookie: u64,
    offset: u64,
    length: usize,
    failures: usize,
}

impl Rest {
    fn of(request: &Request) -> Self {
        Self { cookie: request.cookie, offset: request.offset, length: request.length as usize, failures: 0 }
    }

    fn pass(&mut self, length: usize) {
        self.offset += length as u64;
        self.length -= length;
    }
}
