//! One request of the transmission phase, from untrusted bytes to something that may be carried out.

use crate::MAX_PAYLOAD;
use crate::wire::{Fields, REQUEST, REQUEST_LENGTH, error, flag};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    Cache,
    Zero,
    Status,
    Unknown,
}

#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub command: Command,
    pub flags: u16,
    /// Chosen by the client, sent back with the reply.
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
}

/// The stream holds something that is no request, or one too big to skip: no reply is possible.
#[derive(Debug)]
pub struct Broken(pub &'static str);

/// What requests are measured against: fixed when the client chose its export.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub size: u64,
    pub read_only: bool,
    pub minimum_block: u32,
    pub structured: bool,
    pub fast_zero: bool,
    pub status: bool,
}

impl Request {
    /// Reads a header; the payload of a write follows it. `None`: not all of it is there yet.
    pub fn parse(untrusted: &[u8]) -> Result<Option<Self>, Broken> {
        let Some(untrusted_header) = untrusted.get(..REQUEST_LENGTH) else { return Ok(None) };
        let mut fields = Fields(untrusted_header);
        let (Some(magic), Some(flags), Some(kind), Some(cookie), Some(offset), Some(length)) =
            (fields.u32(), fields.u16(), fields.u16(), fields.u64(), fields.u64(), fields.u32())
        else {
            return Ok(None);
        };
        if magic != REQUEST {
            return Err(Broken("the client sent something that is no request"));
        }
        let command = match kind {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            5 => Command::Cache,
            6 => Command::Zero,
            7 => Command::Status,
            _ => Command::Unknown,
        };
        if command == Command::Write && length as usize > MAX_PAYLOAD {
            return Err(Broken("the client sent a write above the block size it was told"));
        }
        Ok(Some(Self { command, flags, cookie, offset, length }))
    }

    /// Bytes of payload behind the header.
    pub fn payload(&self) -> usize {
        if self.command == Command::Write { self.length as usize } else { 0 }
    }

    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Whether it may be carried out; if not, the error number to answer and why.
    pub fn check(&self, terms: &Terms) -> Result<(), (u32, &'static str)> {
        use Command::{Disconnect, Flush, Read, Status, Trim, Unknown, Write, Zero};
        let known = match self.command {
            Read if terms.structured => flag::DF,
            Zero => flag::NO_HOLE | flag::FAST_ZERO,
            Status => flag::REQ_ONE,
            Unknown => return Err((error::INVALID, "no such command")),
            _ => 0,
        };
        if self.flags & !(known | flag::FUA) != 0 {
            return Err((error::INVALID, "a flag that this command doesn't know"));
        }
        match self.command {
            Disconnect => return Ok(()),
            Flush if self.offset != 0 || self.length != 0 => return Err((error::INVALID, "a flush covers everything")),
            Flush => return Ok(()),
            Write | Trim | Zero if terms.read_only => return Err((error::PERM, "the device is read-only")),
            Status if !terms.status => return Err((error::INVALID, "no metadata context was chosen")),
            Status if self.length == 0 => return Err((error::INVALID, "a status of nothing")),
            Read if self.length as usize > MAX_PAYLOAD => return Err((error::OVERFLOW, "above the block size told")),
            Zero if self.has(flag::FAST_ZERO) && !terms.fast_zero => {
                return Err((error::UNSUPPORTED, "zeroes are no faster than writing them"));
            }
            _ => (),
        }
        match self.offset.checked_add(u64::from(self.length)) {
            Some(end) if end <= terms.size => (),
            _ if matches!(self.command, Write | Zero) => return Err((error::NO_SPACE, "beyond the end of the device")),
            _ => return Err((error::INVALID, "beyond the end of the device")),
        }
        let unit = u64::from(terms.minimum_block);
        if self.offset % unit != 0 || u64::from(self.length) % unit != 0 {
            return Err((error::INVALID, "not on the smallest block told"));
        }
        Ok(())
    }
}
