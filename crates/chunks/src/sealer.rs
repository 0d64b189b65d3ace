//! A whole stream to sealed chunks, some megabytes at a time, on two threads.

use std::collections::HashMap;
use std::io::Read;

use crate::cut::{Cutter, Span};
use crate::folder::Row;
use crate::seal::{Sealing, Secret};
use crate::{BLOCK, Error, Id, Key, MAX_CHUNK, parallel};

/// One chunk of a stream. `bytes` is empty where the caller knew the chunk by its key.
#[derive(Debug)]
pub struct Piece {
    /// Where its plaintext lies and how to open it.
    pub row: Row,
    /// Bytes as stored.
    pub stored: usize,
    /// What is stored.
    pub bytes: Vec<u8>,
}

/// Reads, cuts and seals a stream.
pub struct Sealer<R> {
    input: R,
    secret: Secret,
    cutter: Cutter,
    known: HashMap<Key, (Id, usize)>,
    buffer: Vec<u8>,
    offset: u64,
    end: bool,
}

impl<R: Read> Sealer<R> {
    /// `known` holds chunks that were published before, by key, with their stored bytes: they are neither compressed nor sealed
    /// again, and keep their id whatever became of the compressor since.
    pub fn new(input: R, secret: Secret, known: HashMap<Key, (Id, usize)>) -> Self {
        let cutter = Cutter::new(&secret.cut_seed);
        Self { input, secret, cutter, known, buffer: Vec::new(), offset: 0, end: false }
    }

    /// Bytes of plaintext that are done, holes included.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Seal what the next `window` bytes complete; None at the end. A window of holes gives no pieces.
    ///
    /// # Errors
    /// [`Error::Io`]: the stream fails.
    pub fn next(&mut self, window: usize) -> Result<Option<Vec<Piece>>, Error> {
        if self.end {
            return Ok(None);
        }
        // More than one chunk with its hole behind it, so that every call decides something; whole blocks, as the cutter asks.
        let window = window.max(4 * MAX_CHUNK) / BLOCK * BLOCK;
        let missing = window.saturating_sub(self.buffer.len());
        let read = self.input.by_ref().take(missing as u64).read_to_end(&mut self.buffer)?;
        self.end = read < missing;
        let (spans, rest) = self.cutter.cut(&self.buffer, self.end);
        let pieces = parallel::each(spans, Sealing::new, |sealing, Span { offset, size }| {
            let plain = &self.buffer[offset..offset + size];
            let key = self.secret.key(plain);
            let place = self.offset + offset as u64;
            if let Some((id, stored)) = self.known.get(&key) {
                return Ok(Piece {
                    row: Row { offset: place, size, id: *id, key },
                    stored: *stored,
                    bytes: Vec::new(),
                });
            }
            let sealed = sealing.seal(plain, key)?;
            let row = Row { offset: place, size, id: sealed.id, key };
            Ok::<_, Error>(Piece { row, stored: sealed.bytes.len(), bytes: sealed.bytes })
        })?;
        self.buffer.drain(..rest);
        self.offset += rest as u64;
        Ok(Some(pieces))
    }
}
