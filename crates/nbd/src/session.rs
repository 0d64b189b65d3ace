//! The transmission phase of one connection: receives, checks, carries out, answers.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};

use crate::MAX_PAYLOAD;
use crate::export::{Extents, Failure};
use crate::handshake::Context;
use crate::link::{CHUNK, Change, Link};
use crate::replies::Replies;
use crate::request::{Command, Request};
use crate::wire::{REQUEST_LENGTH, error, flag};

/// Room for one `recv`: many small requests, or part of a large one.
const INBOX: usize = 512 << 10;
/// What the inbox may keep between two large writes.
const KEPT: usize = 4 << 20;
/// A flush that takes longer keeps no other request waiting the next time.
const QUICK_FLUSH: Duration = Duration::from_millis(10);
/// The most ranges in one reply to a status request.
const MAX_EXTENTS: usize = 4096;

/// One connection that has chosen its export.
pub struct Session {
    link: Arc<Link>,
    contexts: Vec<Context>,
    replies: Replies,
    /// Changes carried out and not yet pushed: cookie, and whether it must be durable first.
    changes: Vec<(u64, bool)>,
    /// Flush requests and changes with FUA, once they are pushed.
    flushes: Vec<u64>,
    /// The one request of a client that waits for its reply.
    alone: bool,
    /// Flushes to hand over before one is tried here again.
    slow_flushes: u32,
}

impl Session {
    pub fn new(link: Arc<Link>, contexts: Vec<Context>) -> Self {
        Self {
            link,
            contexts,
            replies: Replies::default(),
            changes: Vec::new(),
            flushes: Vec::new(),
            alone: false,
            slow_flushes: 0,
        }
    }

    /// Serves until the client leaves or breaks the protocol. Everything it asked before is carried out.
    pub fn run(mut self) -> io::Result<()> {
        let result = self.receive();
        self.settle();
        self.link.settle();
        result
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut untrusted_inbox = vec![0; INBOX];
        let mut filled = 0;
        loop {
            let (mut at, mut served) = (0, 0);
            let missing = loop {
                match Request::parse(&untrusted_inbox[at..filled])
                    .map_err(|broken| io::Error::new(io::ErrorKind::InvalidData, broken.0))?
                {
                    None => break REQUEST_LENGTH - (filled - at),
                    Some(request) if filled - at < REQUEST_LENGTH + request.payload() => {
                        break REQUEST_LENGTH + request.payload() - (filled - at);
                    }
                    Some(request) if request.command == Command::Disconnect => return Ok(()),
                    Some(request) => {
                        let end = at + REQUEST_LENGTH + request.payload();
                        let more = filled - end >= REQUEST_LENGTH;
                        self.carry_out(&request, &untrusted_inbox[at + REQUEST_LENGTH..end], more);
                        (at, served) = (end, served + 1);
                    }
                }
            };
            self.alone = served == 1 && at == filled && self.link.is_idle();
            self.settle();
            self.alone = false;
            // Where a large payload is under way, receive no more than it: what comes behind it would have to be moved.
            let partial = filled - at;
            let needed = partial + missing;
            let capacity = if needed > CHUNK / 2 { needed } else { INBOX };
            untrusted_inbox.copy_within(at..filled, 0);
            filled = partial;
            if capacity > untrusted_inbox.len() {
                untrusted_inbox.resize(capacity.min(REQUEST_LENGTH + MAX_PAYLOAD), 0);
            } else if needed <= INBOX && untrusted_inbox.len() > KEPT {
                untrusted_inbox.truncate(INBOX);
                untrusted_inbox.shrink_to_fit();
            }
            match recv(&self.link.stream, &mut untrusted_inbox[filled..capacity], RecvFlags::empty()) {
                Ok((0, _)) => return Ok(()), // gone without goodbye: as if it had said it
                Ok((_, received)) => filled += received,
                Err(rustix::io::Errno::INTR) => (),
                Err(rustix::io::Errno::CONNRESET | rustix::io::Errno::PIPE) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Pushes what was changed, answers it, and sends all replies.
    fn settle(&mut self) {
        if !self.changes.is_empty() {
            let result = self.link.export.push();
            for (cookie, durable) in self.changes.drain(..) {
                match &result {
                    Ok(()) if durable => self.flushes.push(cookie),
                    result => self.link.outcome(&mut self.replies, cookie, result.as_ref().err()),
                }
            }
        }
        if !self.flushes.is_empty() && self.alone && self.slow_flushes == 0 {
            // Nobody else waits, and another thread would cost more than it is worth, unless the disk is a slow one.
            let began = Instant::now();
            let result = self.link.export.flush();
            for cookie in self.flushes.drain(..) {
                self.link.outcome(&mut self.replies, cookie, result.as_ref().err());
            }
            self.slow_flushes = if began.elapsed() > QUICK_FLUSH { 32 } else { 0 };
        } else if !self.flushes.is_empty() {
            self.slow_flushes = self.slow_flushes.saturating_sub(1);
            self.link.flush_later(&mut self.flushes);
        }
        self.link.send(&mut self.replies);
    }

    fn carry_out(&mut self, request: &Request, untrusted_payload: &[u8], more: bool) {
        let link = &self.link;
        let Request { cookie, offset, length, .. } = *request;
        if let Err((number, why)) = request.check(&link.terms) {
            return self.replies.error(cookie, link.terms.structured, true, number, None, why);
        }
        let (payload, length) = (untrusted_payload, u64::from(length)); // its place is checked; what it says is the guest's
        match request.command {
            Command::Read if length == 0 && link.terms.structured => self.replies.done(cookie),
            Command::Read if length == 0 => self.replies.simple(cookie, 0),
            Command::Read => link.read(request, more, &mut self.replies),
            Command::Write if link.export.write_may_block(offset, length) => {
                self.change_later(request, Change::Write(payload.to_vec()));
            }
            Command::Write => self.changed(request, self.link.export.write(offset, payload)),
            Command::Trim => self.changed(request, self.link.export.trim(offset, length)),
            Command::Zero if link.export.write_may_block(offset, length) => self.change_later(request, Change::Zero),
            Command::Zero => {
                let no_hole = request.has(flag::NO_HOLE);
                self.changed(request, self.link.export.zero(offset, length, no_hole));
            }
            Command::Flush => self.flushes.push(cookie),
            Command::Cache => link.dispatch(0, move |link, replies| {
                link.outcome(replies, cookie, link.export.cache(offset, length).err().as_ref());
            }),
            Command::Status => self.status(request),
            Command::Disconnect | Command::Unknown => {
                self.replies.error(cookie, link.terms.structured, true, error::INVALID, None, "no such command");
            }
        }
        if self.replies.len() >= CHUNK {
            self.settle();
        }
    }

    fn changed(&mut self, request: &Request, result: Result<(), Failure>) {
        match result {
            Ok(()) => self.changes.push((request.cookie, request.has(flag::FUA))),
            Err(failure) => self.link.outcome(&mut self.replies, request.cookie, Some(&failure)),
        }
    }

    fn change_later(&self, request: &Request, change: Change) {
        let request = *request;
        self.link.dispatch(change.bytes(), move |link, replies| link.change(request, change, replies));
    }

    fn status(&mut self, request: &Request) {
        let Request { cookie, offset, length, .. } = *request;
        let begin = self.replies.len();
        let limit = if request.has(flag::REQ_ONE) { 1 } else { MAX_EXTENTS };
        let contexts = self.contexts.len();
        for (place, context) in self.contexts.iter().enumerate() {
            let mut extents = Extents::new(limit);
            let result = match context {
                Context::Allocation => self.link.export.status(offset, u64::from(length), &mut extents),
                Context::ChangedSince(since) => {
                    self.link.export.changed(*since, offset, u64::from(length), &mut extents)
                }
            };
            if let Err(failure) = result {
                self.replies.cut(begin);
                return self.replies.failure(cookie, true, true, &failure);
            }
            let id = u32::try_from(place + 1).unwrap_or(0);
            self.replies.status(cookie, place + 1 == contexts, id, &within(extents.as_slice(), length));
        }
    }
}

/// The extents cut to the request's length; an export that described nothing gets the answer that is always safe.
fn within(extents: &[(u64, u32)], length: u32) -> Vec<(u32, u32)> {
    let mut rest = length;
    let mut list = Vec::with_capacity(extents.len().max(1));
    for (extent, flags) in extents {
        let cut = u32::try_from(*extent).unwrap_or(u32::MAX).min(rest);
        if cut > 0 {
            list.push((cut, *flags));
            rest -= cut;
        }
    }
    if list.is_empty() {
        list.push((length, 0));
    }
    list
}
