//! Many sealed chunks in one body: for each its id (32 bytes), its length (4 bytes, little endian), its bytes.

use crate::seal::OVERHEAD;
use crate::{Error, Id, MAX_STORED};

/// Bytes before each chunk.
pub const HEAD: usize = 36;

/// Append one chunk.
pub fn push(frames: &mut Vec<u8>, id: &Id, sealed: &[u8]) {
    let at = frames.len();
    frames.resize(at + HEAD + sealed.len(), 0);
    write(&mut frames[at..], id, sealed);
}

/// Write one chunk to where exactly it fits.
pub fn write(room: &mut [u8], id: &Id, sealed: &[u8]) {
    room[..32].copy_from_slice(id);
    #[allow(clippy::cast_possible_truncation)] // at most MAX_STORED
    room[32..HEAD].copy_from_slice(&(sealed.len() as u32).to_le_bytes());
    room[HEAD..].copy_from_slice(sealed);
}

/// Take frames apart. The ids are claims until the bytes have been hashed.
///
/// # Errors
/// [`Error::Frames`]: torn, or a length that no chunk has.
pub fn parse(mut untrusted_frames: &[u8]) -> Result<Vec<(Id, &[u8])>, Error> {
    let mut found = Vec::new();
    while !untrusted_frames.is_empty() {
        let (head, rest) = untrusted_frames.split_at_checked(HEAD).ok_or(Error::Frames)?;
        let id: Id = head[..32].try_into().map_err(|_| Error::Frames)?;
        let length: [u8; 4] = head[32..].try_into().map_err(|_| Error::Frames)?;
        let length = u32::from_le_bytes(length) as usize;
        if !(OVERHEAD..=MAX_STORED).contains(&length) {
            return Err(Error::Frames);
        }
        let (sealed, rest) = rest.split_at_checked(length).ok_or(Error::Frames)?;
        found.push((id, sealed));
        untrusted_frames = rest;
    }
    Ok(found)
}
