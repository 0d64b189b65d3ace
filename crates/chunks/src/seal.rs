//! Sealing: a chunk's plaintext to bytes that anyone can verify by id and only its key opens.
//!
//! ```text
//! key    = BLAKE3 keyed hash of the plaintext, under a key derived from the company's secret
//! body   = one byte for the encoding (0 raw, 1 zstd), then the plaintext in it
//! nonce  = first 12 bytes of BLAKE3's keyed hash of the body, under a key derived from `key`
//! sealed = nonce, AES-256-GCM(key, nonce, body, associated data "twofold-chunk-1"), tag
//! id     = BLAKE3(sealed)
//! ```
//!
//! **Why no nonce is ever used twice under one key.** The key is a keyed hash of the plaintext, so one key belongs to one
//! plaintext. A fixed nonce would be enough if one plaintext had one body; it has not: another zstd, or another level, encodes
//! it otherwise, and two bodies under one key and nonce would give away their difference and GCM's authentication key. So the
//! nonce is derived from the body. The same body under the same key is the same message, sealed to the same bytes; two bodies
//! of one plaintext share a nonce with probability 2^-96 each. This makes sealing deterministic, which is what lets equal
//! chunks of one company be stored once; that equality is all a reader without keys learns, next to sizes.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zstd::bulk::{Compressor, Decompressor};

use crate::{Error, Id, Key, MAX_CHUNK};

pub(crate) const NONCE: usize = 12;
const TAG: usize = 16;
/// Bytes that sealing adds to a plaintext that does not compress.
pub const OVERHEAD: usize = NONCE + 1 + TAG;
const ASSOCIATED: &[u8] = b"twofold-chunk-1";
const RAW: u8 = 0;
const ZSTD: u8 = 1;
/// The level of compression that most chunks are sealed at.
pub const LEVEL: u8 = 3;

/// What a company's publishers share; from it come chunk keys and the seed of the cuts.
#[derive(Clone)]
pub struct Secret {
    chunk_key: Key,
    /// The seed for [`crate::cut::Cutter`].
    pub cut_seed: [u8; 32],
}

impl Secret {
    /// Derive what is needed from the company's 32 random bytes.
    #[must_use]
    pub fn new(company: &[u8; 32]) -> Self {
        Self {
            chunk_key: blake3::derive_key("twofold 2026-11 chunk key", company),
            cut_seed: blake3::derive_key("twofold 2026-11 chunk boundaries", company),
        }
    }

    /// The key of a plaintext.
    #[must_use]
    pub fn key(&self, plain: &[u8]) -> Key {
        *blake3::keyed_hash(&self.chunk_key, plain).as_bytes()
    }
}

/// A sealed chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// What it is known by.
    pub id: Id,
    /// What opens it.
    pub key: Key,
    /// What is stored.
    pub bytes: Vec<u8>,
}

/// The id of sealed bytes. No key is needed to check it.
#[must_use]
pub fn id(sealed: &[u8]) -> Id {
    *blake3::hash(sealed).as_bytes()
}

/// Seals chunks one after the other, keeping its compressor warm.
pub struct Sealing {
    compressor: Compressor<'static>,
    /// Where bodies are made: a chunk's own bytes are then no more than it stores.
    room: Vec<u8>,
}

impl Sealing {
    /// Ready to seal at [`LEVEL`].
    ///
    /// # Errors
    /// No memory for a compressor.
    pub fn new() -> Result<Self, Error> {
        Self::at(LEVEL)
    }

    /// Ready to seal at a level of compression. Readers need not know it.
    ///
    /// # Errors
    /// [`Error::Size`]: there is no such level.
    pub fn at(level: u8) -> Result<Self, Error> {
        let level = i32::from(level);
        if !(1..=*zstd::compression_level_range().end()).contains(&level) {
            return Err(Error::Size);
        }
        Ok(Self { compressor: Compressor::new(level)?, room: vec![0; MAX_CHUNK] })
    }

    /// Seal `plain`, of at most [`MAX_CHUNK`] bytes, whose key is [`Secret::key`]'s.
    ///
    /// # Errors
    /// [`Error::Size`] if it is longer.
    pub fn seal(&mut self, plain: &[u8], key: Key) -> Result<Sealed, Error> {
        if plain.len() > MAX_CHUNK {
            return Err(Error::Size);
        }
        // A buffer that is too small for the result is how zstd says that it does not shrink.
        let packed = self.compressor.compress_to_buffer(plain, &mut self.room[..plain.len().saturating_sub(1)]);
        let (encoding, body) = packed.map_or((RAW, plain), |size| (ZSTD, &self.room[..size]));
        let mut bytes = Vec::with_capacity(body.len() + OVERHEAD);
        bytes.extend_from_slice(&[0; NONCE]);
        bytes.push(encoding);
        bytes.extend_from_slice(body);
        wrap(key, bytes, ASSOCIATED)
    }
}

/// Opens chunks one after the other, keeping its decompressor warm.
pub struct Opening {
    decompressor: Decompressor<'static>,
}

impl Opening {
    /// Ready to open.
    ///
    /// # Errors
    /// No memory for a decompressor.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { decompressor: Decompressor::new()? })
    }

    /// Verify `sealed` by its id, open it, and write exactly `plain.len()` bytes. `sealed` is used as room and holds nothing of
    /// use afterwards. On an error `plain` holds nothing that may be used.
    ///
    /// # Errors
    /// [`Error::NotTheId`] before any key is tried; [`Error::Sealed`], [`Error::Size`].
    pub fn open(
        &mut self,
        untrusted_sealed: &mut [u8],
        expected: &Id,
        key: &Key,
        plain: &mut [u8],
    ) -> Result<(), Error> {
        let body = unwrap(untrusted_sealed, expected, key, ASSOCIATED)?;
        if plain.len() > MAX_CHUNK {
            return Err(Error::Size);
        }
        match body.split_first() {
            Some((&RAW, data)) if data.len() == plain.len() => {
                plain.copy_from_slice(data);
                Ok(())
            }
            // The target's size is the bound: zstd fails rather than write past it.
            Some((&ZSTD, data)) => match self.decompressor.decompress_to_buffer(data, plain) {
                Ok(size) if size == plain.len() => Ok(()),
                _ => Err(Error::Size),
            },
            _ => Err(Error::Size),
        }
    }
}

/// Seal the body in `bytes`, which follows room for a nonce.
pub(crate) fn wrap(key: Key, mut bytes: Vec<u8>, associated: &[u8]) -> Result<Sealed, Error> {
    let (room, body) = bytes.split_at_mut_checked(NONCE).ok_or(Error::Size)?;
    let nonce = nonce(&key, body);
    room.copy_from_slice(&nonce);
    let tag = cipher(&key)?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), body)
        .map_err(|_| Error::Size)?;
    bytes.extend_from_slice(tag.as_ref());
    Ok(Sealed { id: id(&bytes), key, bytes })
}

/// Verify sealed bytes by their id and open them where they lie.
pub(crate) fn unwrap<'a>(
    untrusted_sealed: &'a mut [u8],
    expected: &Id,
    key: &Key,
    associated: &[u8],
) -> Result<&'a [u8], Error> {
    if id(untrusted_sealed) != *expected {
        return Err(Error::NotTheId);
    }
    if untrusted_sealed.len() < OVERHEAD {
        return Err(Error::Size);
    }
    let (head, rest) = untrusted_sealed.split_at_mut(NONCE);
    let nonce = Nonce::try_assume_unique_for_key(head).map_err(|_| Error::Size)?;
    let body = cipher(key)?.open_in_place(nonce, Aad::from(associated), rest).map_err(|_| Error::Sealed)?;
    Ok(body)
}

fn cipher(key: &Key) -> Result<LessSafeKey, Error> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).map_err(|_| Error::Size)?))
}

fn nonce(key: &Key, body: &[u8]) -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    let digest = blake3::keyed_hash(&blake3::derive_key("twofold 2026-11 chunk nonce", key), body);
    nonce.copy_from_slice(&digest.as_bytes()[..NONCE]);
    nonce
}
