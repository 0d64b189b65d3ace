//! What the server serves: one block device behind a small trait.

use std::fmt;

/// Why a request failed; each is told to the client as one of NBD's error numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The medium failed or what it holds is damaged (`EIO`).
    Io,
    /// No space left; a hypervisor should pause its guest and try again (`ENOSPC`).
    NoSpace,
    /// The device may not be changed (`EPERM`).
    ReadOnly,
    /// The request makes no sense for this device (`EINVAL`).
    Invalid,
    /// The device can't do this, or not fast (`ENOTSUP`).
    Unsupported,
    /// The device is being closed (`ESHUTDOWN`).
    Closing,
    /// Not now, for want of something that somebody else brings: the server keeps the request, without a thread, until
    /// [`Export::later`] says that it can be tried again. Of [`Export::read`], [`Export::write`] and [`Export::zero`] alone.
    Later,
}

/// Called once, from any thread: the request can be tried again, or failed for good.
pub type Wake = Box<dyn FnOnce(Option<Failure>) + Send>;

/// A failed request: its kind, the first byte that failed where that is known, and words for a log.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What class of failure it is.
    pub kind: Kind,
    /// The damaged range in bytes of the device, `(offset, length)`. A read that names one is answered with the good bytes
    /// before and behind it, and an error for exactly this range.
    pub range: Option<(u64, u64)>,
    /// For people: what happened. Sent to the client too (cut at 1 KiB), so it must hold no secret.
    pub text: String,
}

impl Failure {
    /// A failure of the whole request.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, range: None, text: text.into() }
    }

    /// A failure of exactly `length` bytes at `offset`.
    pub fn at(kind: Kind, offset: u64, length: u64, text: impl Into<String>) -> Self {
        Self { kind, range: Some((offset, length)), text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// How [`Export::try_read`] ended when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The buffer is filled.
    Done,
    /// It would have to wait for the medium; the buffer's content is undefined. The server calls [`Export::read`] on a
    /// worker thread instead.
    WouldBlock,
}

/// What a range of the device is, for `base:allocation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Holds data.
    Data,
    /// Reads as zeroes, space is taken.
    Zero,
    /// Reads as zeroes, no space is taken.
    Hole,
}

impl State {
    /// NBD's flags: bit 0 hole, bit 1 reads as zeroes.
    pub(crate) fn flags(self) -> u32 {
        match self {
            Self::Data => 0,
            Self::Zero => 2,
            Self::Hole => 3,
        }
    }
}

/// Collects consecutive ranges of a device from the asked offset on; neighbours of one kind become one.
#[derive(Debug)]
pub struct Extents {
    list: Vec<(u64, u32)>,
    limit: usize,
}

impl Extents {
    /// Room for `limit` ranges (at least one).
    pub fn new(limit: usize) -> Self {
        Self { list: Vec::new(), limit: limit.max(1) }
    }

    /// The next `length` bytes are `state`. Answers whether it has room for more; when not, the caller may stop early.
    pub fn push(&mut self, length: u64, state: State) -> bool {
        self.add(length, state.flags())
    }

    /// The next `length` bytes changed or did not. Answers as [`Extents::push`].
    pub fn push_changed(&mut self, length: u64, changed: bool) -> bool {
        self.add(length, u32::from(changed))
    }

    /// The ranges so far as (length in bytes, NBD flags).
    pub fn as_slice(&self) -> &[(u64, u32)] {
        &self.list
    }

    fn add(&mut self, length: u64, flags: u32) -> bool {
        let room = self.list.len() < self.limit;
        match self.list.last_mut() {
            _ if length == 0 => return room,
            Some(last) if last.1 == flags => last.0 = last.0.saturating_add(length),
            _ if room => self.list.push((length, flags)),
            _ => return false,
        }
        true
    }
}

/// One block device. All offsets and lengths are bytes; the server has checked that they lie inside [`Export::size`] as
/// it was when the client connected. Called by several threads at once; requests that are in flight together may be
/// carried out in any order.
pub trait Export: Send + Sync {
    /// The size in bytes. Read once for each connection: a resize is seen by the next one.
    fn size(&self) -> u64;

    /// Whether every change is refused. Read once for each connection.
    fn read_only(&self) -> bool {
        false
    }

    /// The smallest unit that a client may address: a power of two from 1 to 4096.
    fn minimum_block(&self) -> u32 {
        1
    }

    /// One line for people, shown by `nbdinfo`.
    fn description(&self) -> String {
        String::new()
    }

    /// Whether flush on one connection covers the writes answered on every other (`NBD_FLAG_CAN_MULTI_CONN`).
    fn multi_conn(&self) -> bool {
        false
    }

    /// Fills `buffer` from `offset`. A failure with a range fails that range alone; the server then reads around it.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Failure>;

    /// As [`Export::read`], but answers [`Readiness::WouldBlock`] rather than wait for a medium.
    fn try_read(&self, offset: u64, buffer: &mut [u8]) -> Result<Readiness, Failure> {
        self.read(offset, buffer).map(|()| Readiness::Done)
    }

    /// Writes `data` at `offset`. It need not leave the process before [`Export::push`].
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Failure>;

    /// Whether a [`Export::write`] to this range may have to wait for a medium first (a partial block whose rest isn't in
    /// memory); the server then runs it on a worker thread.
    fn write_may_block(&self, _offset: u64, _length: u64) -> bool {
        false
    }

    /// Makes the range read as zeroes; with `no_hole` it must keep its space.
    fn zero(&self, offset: u64, length: u64, no_hole: bool) -> Result<(), Failure>;

    /// Whether [`Export::zero`] costs no more than its bookkeeping; when not, `NBD_CMD_FLAG_FAST_ZERO` is answered `ENOTSUP`.
    fn fast_zero(&self) -> bool {
        true
    }

    /// The content of the range is not needed any more.
    fn trim(&self, offset: u64, length: u64) -> Result<(), Failure>;

    /// Called before the replies to a group of changes go out: from here on the death of this process must lose none of
    /// them. A failure fails every change of the group.
    fn push(&self) -> Result<(), Failure>;

    /// Makes every change that was pushed durable: after it a power cut loses none. Called by one thread at a time for
    /// each connection.
    fn flush(&self) -> Result<(), Failure>;

    /// Calls `wake` once what a request lacked that failed with [`Kind::Later`] and this range is there, or will not come. It
    /// always calls it, in bounded time, and at once where nothing lacks any more.
    fn later(&self, _offset: u64, _length: u64, wake: Wake) {
        wake(Some(Failure::new(Kind::Io, "nobody brings what this request lacks")));
    }

    /// The range will be read soon. May do nothing. Called on a worker thread.
    fn cache(&self, _offset: u64, _length: u64) -> Result<(), Failure> {
        Ok(())
    }

    /// Describes the range from its first byte on, in order, until `extents` is full or the range ends.
    fn status(&self, _offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        extents.push(length, State::Data);
        Ok(())
    }

    /// The generations that [`Export::changed`] can answer for, newest first; each is offered as the metadata context
    /// `twofold:changed-since:<generation>`.
    fn generations(&self) -> Vec<u64> {
        Vec::new()
    }

    /// Which parts of the range changed since generation `since`, as [`Export::status`] does.
    fn changed(&self, _since: u64, _offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        extents.push_changed(length, true);
        Ok(())
    }
}
