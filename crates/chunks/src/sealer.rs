//! A whole stream to sealed chunks, some megabytes at a time, on two threads.

use std::collections::HashMap;
use std::io::Read;

use ring::digest::{Context, SHA256};

use crate::cut::{Cutter, Grain, Span};
use crate::folder::Row;
use crate::guide::Guide;
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

enum Job<'a> {
    Digest(&'a mut Context),
    Seal(Span, Option<Key>),
}

/// Reads, cuts and seals a stream.
pub struct Sealer<R> {
    input: R,
    secret: Secret,
    cutter: Cutter,
    guide: Guide,
    level: u8,
    known: HashMap<Key, (Id, usize)>,
    buffer: Vec<u8>,
    digest: Context,
    offset: u64,
    end: bool,
}

impl<R: Read> Sealer<R> {
    /// `known` holds chunks that were published before, by key, with their stored bytes: they are neither compressed nor sealed
    /// again, and keep their id whatever became of the compressor since. `guide` cuts besides content. `level` is zstd's.
    pub fn new(input: R, secret: Secret, known: HashMap<Key, (Id, usize)>, guide: Guide, level: u8) -> Self {
        let cutter = Cutter::new(&secret.cut_seed, Grain::IMAGE);
        Self {
            input,
            secret,
            cutter,
            guide,
            level,
            known,
            buffer: Vec::new(),
            digest: Context::new(&SHA256),
            offset: 0,
            end: false,
        }
    }

    /// Bytes of plaintext that are done, holes included.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// SHA-256 of what was read so far: of the whole stream once [`Self::next`] has given None.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.digest.clone().finish().as_ref());
        digest
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
        let held = self.buffer.len();
        let read = self.input.by_ref().take(missing as u64).read_to_end(&mut self.buffer)?;
        self.end = read < missing;
        let (spans, rest) = self.guide.cut(&self.cutter, &self.secret, self.offset, &self.buffer, self.end);
        let Self { secret, known, level, buffer, digest, offset: base, .. } = self;
        // The digest is one more piece of work, begun first since nothing divides it.
        let mut jobs = vec![Job::Digest(digest)];
        jobs.extend(spans.into_iter().map(|(span, key)| Job::Seal(span, key)));
        let pieces = parallel::each(
            jobs,
            || Sealing::at(*level),
            |sealing, job| {
                let (Span { offset, size }, key) = match job {
                    Job::Seal(span, key) => (span, key),
                    Job::Digest(digest) => {
                        digest.update(&buffer[held..]);
                        return Ok(None);
                    }
                };
                let plain = &buffer[offset..offset + size];
                let key = key.unwrap_or_else(|| secret.key(plain));
                let row = |id| Row { offset: *base + offset as u64, size, id, key };
                if let Some((id, stored)) = known.get(&key) {
                    return Ok(Some(Piece { row: row(*id), stored: *stored, bytes: Vec::new() }));
                }
                let sealed = sealing.seal(plain, key)?;
                Ok::<_, Error>(Some(Piece { row: row(sealed.id), stored: sealed.bytes.len(), bytes: sealed.bytes }))
            },
        )?;
        self.buffer.drain(..rest);
        self.offset += rest as u64;
        Ok(Some(pieces.into_iter().flatten().collect()))
    }
}
