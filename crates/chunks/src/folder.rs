//! A folder of sealed chunks: `ab/<id in hex>`. A name is there with its whole content or not at all, save for a power cut
//! before [`sync`]; whoever reads a chunk verifies it, and a damaged one is written anew.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::seal::{self, Opening};
use crate::{Error, Id, Key, MAX_STORED, frames, parallel};

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// What opens one chunk into its place.
#[derive(Clone, Debug)]
pub struct Row {
    /// The first byte of the plaintext, from the start of the part.
    pub offset: u64,
    /// Bytes of plaintext.
    pub size: usize,
    /// What it is known by.
    pub id: Id,
    /// What opens it.
    pub key: Key,
}

/// Where a chunk lies.
#[must_use]
pub fn path(folder: &Path, id: &Id) -> PathBuf {
    let name = hex(id);
    folder.join(&name[..2]).join(name)
}

/// Verify every chunk of `frames` by its id and keep those the folder lacks. Returns how many were new.
///
/// # Errors
/// [`Error::NotTheId`], [`Error::Frames`]: a frame is wrong; nothing of the body is kept. [`Error::Io`].
pub fn store(folder: &Path, untrusted_frames: &[u8]) -> Result<usize, Error> {
    let parsed = frames::parse(untrusted_frames)?;
    let found = parallel::each(
        parsed,
        || Ok(()),
        |(), (id, sealed)| if seal::id(sealed) == id { Ok((id, sealed)) } else { Err(Error::NotTheId) },
    )?;
    let fresh = parallel::each(found, || Ok(()), |(), (id, sealed)| put(folder, &id, sealed).map(usize::from))?;
    Ok(fresh.into_iter().sum())
}

/// Whether the chunk was new. One that is there and is not these bytes is torn or damaged, and replaced.
pub(crate) fn put(folder: &Path, id: &Id, sealed: &[u8]) -> Result<bool, Error> {
    let to = path(folder, id);
    let whole = |facts: fs::Metadata| facts.is_file() && facts.len() == sealed.len() as u64;
    if fs::metadata(&to).is_ok_and(whole) && fetch(folder, id).is_ok_and(|there| there == sealed) {
        return Ok(false);
    }
    let home = to.parent().unwrap_or(folder);
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = home.join(format!(".{}.{}.{unique}", hex(&id[..4]), std::process::id()));
    let mut open = File::create_new(&temporary);
    if open.as_ref().is_err_and(|why| why.kind() == io::ErrorKind::NotFound) {
        fs::create_dir_all(home)?;
        open = File::create_new(&temporary);
    }
    let written = open.and_then(|mut file| file.write_all(sealed)).and_then(|()| fs::rename(&temporary, &to));
    if let Err(why) = written {
        let _ = fs::remove_file(&temporary); // the first error is the one to tell
        return Err(why.into());
    }
    Ok(true)
}

/// The chunks that the folder lacks, or has with another length than stated.
#[must_use]
pub fn lacking(folder: &Path, wanted: &[(Id, Option<u64>)]) -> Vec<Id> {
    let there = |id: &Id, stored: Option<u64>| {
        fs::metadata(path(folder, id))
            .is_ok_and(|facts| facts.is_file() && stored.is_none_or(|size| facts.len() == size))
    };
    wanted.iter().filter(|(id, stored)| !there(id, *stored)).map(|(id, _)| *id).collect()
}

/// Read chunks as frames, unverified: whoever gets them verifies them.
///
/// # Errors
/// [`Error::Io`]: one is not there, or the disk fails.
pub fn read(folder: &Path, ids: &[Id]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    for id in ids {
        frames::push(&mut out, id, &fetch(folder, id)?);
    }
    Ok(out)
}

pub(crate) fn fetch(folder: &Path, id: &Id) -> Result<Vec<u8>, Error> {
    let file = File::open(path(folder, id))?;
    let mut sealed = Vec::with_capacity(MAX_STORED / 4);
    file.take(MAX_STORED as u64 + 1).read_to_end(&mut sealed)?;
    if sealed.len() > MAX_STORED { Err(Error::Size) } else { Ok(sealed) }
}

/// Open the rows into `plain`, which begins at byte `start` of the part and is all zeroes; what no row covers stays so. Returns
/// the ids of chunks that are missing or damaged; if there are any, `plain` holds nothing that may be used.
///
/// # Errors
/// [`Error::Size`]: the rows are not ascending or do not fit. [`Error::Io`]: no memory.
pub fn open(folder: &Path, rows: &[Row], start: u64, plain: &mut [u8]) -> Result<Vec<Id>, Error> {
    let mut jobs = Vec::with_capacity(rows.len());
    let (mut rest, mut at) = (plain, start);
    for row in rows {
        let gap = row.offset.checked_sub(at).and_then(|gap| usize::try_from(gap).ok()).ok_or(Error::Size)?;
        let (_, after) = rest.split_at_mut_checked(gap).ok_or(Error::Size)?;
        let (room, after) = after.split_at_mut_checked(row.size).ok_or(Error::Size)?;
        jobs.push((row, room));
        rest = after;
        at = row.offset + row.size as u64;
    }
    let bad = parallel::each(jobs, Opening::new, |opening, (row, room)| {
        let opened = fetch(folder, &row.id).and_then(|mut sealed| opening.open(&mut sealed, &row.id, &row.key, room));
        Ok::<_, Error>(opened.err().map(|_| row.id))
    })?;
    Ok(bad.into_iter().flatten().collect())
}

/// Make everything that was stored durable: one flush for the file system instead of one for each chunk.
///
/// # Errors
/// [`Error::Io`]: the disk fails.
pub fn sync(folder: &Path) -> Result<(), Error> {
    rustix::fs::syncfs(File::open(folder)?).map_err(|why| Error::Io(why.into()))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}
