//! Replies on their way out: put behind each other in one buffer that is used again and again, sent with one call.

use crate::export::Failure;
use crate::wire::{self, CHUNK_LENGTH, SIMPLE_LENGTH, chunk};

/// The most words of an error that travel.
const MAX_TEXT: usize = 1024;
/// What a buffer may keep when it is empty.
const KEPT: usize = 1 << 20;

#[derive(Default)]
pub struct Replies {
    /// Longer than what is in use, so that no byte is zeroed twice.
    buffer: Vec<u8>,
    used: usize,
}

impl Replies {
    pub fn len(&self) -> usize {
        self.used
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.buffer[..self.used]
    }

    /// Forgets what was put behind `length`.
    pub fn cut(&mut self, length: usize) {
        self.used = self.used.min(length);
        if self.used == 0 && self.buffer.len() > KEPT {
            self.buffer = Vec::new();
        }
    }

    fn claim(&mut self, length: usize) -> &mut [u8] {
        let end = self.used + length;
        if end > self.buffer.len() {
            self.buffer.resize(end.next_multiple_of(64 << 10), 0);
        }
        let claimed = &mut self.buffer[self.used..end];
        self.used = end;
        claimed
    }

    fn put(&mut self, bytes: &[u8]) {
        self.claim(bytes.len()).copy_from_slice(bytes);
    }

    /// The short reply: to everything but a structured read or status.
    pub fn simple(&mut self, cookie: u64, error: u32) {
        let header = self.claim(SIMPLE_LENGTH);
        header[..4].copy_from_slice(&wire::SIMPLE_REPLY.to_be_bytes());
        header[4..8].copy_from_slice(&error.to_be_bytes());
        header[8..].copy_from_slice(&cookie.to_be_bytes());
    }

    fn chunk(&mut self, cookie: u64, flags: u16, kind: u16, length: usize) {
        let header = self.claim(CHUNK_LENGTH);
        header[..4].copy_from_slice(&wire::STRUCTURED_REPLY.to_be_bytes());
        header[4..6].copy_from_slice(&flags.to_be_bytes());
        header[6..8].copy_from_slice(&kind.to_be_bytes());
        header[8..16].copy_from_slice(&cookie.to_be_bytes());
        header[16..].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    }

    /// A chunk that says no more than that all is said.
    pub fn done(&mut self, cookie: u64) {
        self.chunk(cookie, chunk::DONE, chunk::NONE, 0);
    }

    /// Room for `length` bytes of data from `offset`, to be filled by the caller; structured or behind a simple header.
    pub fn data(&mut self, cookie: u64, structured: bool, done: bool, offset: u64, length: usize) -> &mut [u8] {
        if structured {
            self.chunk(cookie, if done { chunk::DONE } else { 0 }, chunk::OFFSET_DATA, 8 + length);
            self.put(&offset.to_be_bytes());
        } else {
            self.simple(cookie, 0);
        }
        self.claim(length)
    }

    /// One context's answer to a status request.
    pub fn status(&mut self, cookie: u64, done: bool, id: u32, extents: &[(u32, u32)]) {
        self.chunk(cookie, if done { chunk::DONE } else { 0 }, chunk::BLOCK_STATUS, 4 + 8 * extents.len());
        self.put(&id.to_be_bytes());
        for (length, flags) in extents {
            self.put(&length.to_be_bytes());
            self.put(&flags.to_be_bytes());
        }
    }

    /// An error for the whole request, or from the failure's range on.
    pub fn failure(&mut self, cookie: u64, structured: bool, done: bool, failure: &Failure) {
        let number = failure.kind.number();
        let offset = failure.range.map(|(offset, _)| offset);
        self.error(cookie, structured, done, number, offset, &failure.text);
    }

    pub fn error(&mut self, cookie: u64, structured: bool, done: bool, number: u32, offset: Option<u64>, text: &str) {
        if !structured {
            return self.simple(cookie, number);
        }
        let mut cut = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        let kind = if offset.is_some() { chunk::ERROR_OFFSET } else { chunk::ERROR };
        self.chunk(cookie, if done { chunk::DONE } else { 0 }, kind, 6 + cut + if offset.is_some() { 8 } else { 0 });
        self.put(&number.to_be_bytes());
        self.put(&u16::try_from(cut).unwrap_or(0).to_be_bytes());
        self.put(&text.as_bytes()[..cut]);
        if let Some(offset) = offset {
            self.put(&offset.to_be_bytes());
        }
    }
}
