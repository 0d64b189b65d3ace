//! Patches: what turns chunks that a device has into chunks that it lacks.
//!
//! A new version of an image cuts the files that changed anew, and what a chunk holds is then mostly what the former version's
//! chunks held around the same place. A patch is the plaintext of a run of new chunks, compressed with a run of old ones before
//! it, and sealed like a chunk:
//!
//! ```text
//! key    = BLAKE3 derived from the old chunks' ids and the new chunks' keys, in their order ("twofold 2026-11 patch key")
//! body   = the level at which the new chunks were compressed when they were sealed (one byte), then a zstd frame of the new
//!          chunks' plaintexts, one behind the other, with the old chunks' as prefix
//! nonce  = first 12 bytes of BLAKE3's keyed hash of the body, under a key derived from `key`
//! sealed = nonce, AES-256-GCM(key, nonce, body, associated data "twofold-patch-1"), tag
//! id     = BLAKE3(sealed)
//! ```
//!
//! Whoever applies one seals each new chunk again, and keeps it if, and only if, it has the id that the index names: a chunk
//! that came by a patch is byte for byte the one that the server has, or it is fetched from there. So nothing that is stored
//! or opened later knows of patches, and another zstd, which may compress otherwise, costs bytes on the wire and nothing else.
//!
//! The nonce is derived as a chunk's is, for the same reason (`seal`): one key belongs to one pair of runs, and two bodies of
//! one pair are two encodings of it. What a reader without keys learns is the size: how much changed.

use std::io::{Read, Write};
use std::path::Path;

use zstd::stream::{read, write};

use crate::folder::{self, Row};
use crate::seal::{self, NONCE, Opening, Sealed, Sealing};
use crate::{Error, Id, Key, MAX_CHUNK};

/// The most plaintext on either side of a patch.
pub const MOST: usize = 4 << 20;
/// 8 MiB: both sides.
const WINDOW: u32 = 23;
const LEVEL: i32 = 9;
const ASSOCIATED: &[u8] = b"twofold-patch-1";

/// Make a patch from `old` (in `folder`) to `new`, whose plaintexts are `plain` one behind the other; None where it would be
/// too long to be carried like a chunk. `level` is what the new chunks were sealed at.
///
/// # Errors
/// [`Error::Size`]: too much at once, or rows that are not what `plain` is; else as opening the old chunks does.
pub fn make(folder: &Path, old: &[Row], new: &[Row], plain: &[u8], level: u8) -> Result<Option<Sealed>, Error> {
    if size(new)? != plain.len() {
        return Err(Error::Size);
    }
    let prefix = opened(folder, old)?;
    let mut room = vec![0; NONCE];
    room.push(level);
    let mut encoder = write::Encoder::with_ref_prefix(room, LEVEL, &prefix)?;
    encoder.window_log(WINDOW)?;
    encoder.write_all(plain)?;
    let bytes = encoder.finish()?;
    if bytes.len() - NONCE > MAX_CHUNK {
        return Ok(None);
    }
    seal::wrap(key(old, new), bytes, ASSOCIATED).map(Some)
}

/// Open the patch `id` and the chunks `old`, all of `folder`, and put those of the chunks `new` there that come out as their ids
/// say. Returns how many did.
///
/// # Errors
/// [`Error::NotTheId`], [`Error::Sealed`], [`Error::Size`], [`Error::Io`]: the patch or an old chunk is missing or damaged.
pub fn apply(folder: &Path, id: &Id, old: &[Row], new: &[Row]) -> Result<usize, Error> {
    let total = size(new)?;
    let mut untrusted_sealed = folder::fetch(folder, id)?;
    let body = seal::unwrap(&mut untrusted_sealed, id, &key(old, new), ASSOCIATED)?;
    let (level, frame) = body.split_first().ok_or(Error::Size)?;
    let prefix = opened(folder, old)?;
    let mut decoder = read::Decoder::with_ref_prefix(frame, &prefix)?;
    decoder.window_log_max(WINDOW)?;
    let mut plain = Vec::with_capacity(total);
    // One byte more than is wanted shows a frame that goes on.
    decoder.take(total as u64 + 1).read_to_end(&mut plain).map_err(|_| Error::Size)?;
    if plain.len() != total {
        return Err(Error::Size);
    }
    let mut sealing = Sealing::at(*level)?;
    let (mut rest, mut came) = (&plain[..], 0);
    for row in new {
        let (one, after) = rest.split_at(row.size);
        rest = after;
        let sealed = sealing.seal(one, row.key)?;
        if sealed.id == row.id {
            folder::put(folder, &row.id, &sealed.bytes)?;
            came += 1;
        }
    }
    Ok(came)
}

fn size(rows: &[Row]) -> Result<usize, Error> {
    let total = rows.iter().try_fold(0usize, |sum, row| sum.checked_add(row.size)).ok_or(Error::Size)?;
    let fits = (1..=MOST).contains(&total) && rows.iter().all(|row| row.size <= MAX_CHUNK);
    if fits { Ok(total) } else { Err(Error::Size) }
}

fn opened(folder: &Path, rows: &[Row]) -> Result<Vec<u8>, Error> {
    let mut plain = vec![0; size(rows)?];
    let (mut rest, mut opening) = (&mut plain[..], Opening::new()?);
    for row in rows {
        let (room, after) = rest.split_at_mut(row.size);
        opening.open(&mut folder::fetch(folder, &row.id)?, &row.id, &row.key, room)?;
        rest = after;
    }
    Ok(plain)
}

fn key(old: &[Row], new: &[Row]) -> Key {
    let mut hasher = blake3::Hasher::new_derive_key("twofold 2026-11 patch key");
    hasher.update(&(old.len() as u64).to_le_bytes());
    for part in old.iter().map(|row| &row.id).chain(new.iter().map(|row| &row.key)) {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}
