//! Where sealed chunks are looked for, one place after the other. What a source gives is not trusted: opening verifies it.

use std::path::PathBuf;

use crate::seal::Opening;
use crate::{Error, Id, Key, folder};

/// Gives out sealed chunks.
pub trait Source: Send + Sync {
    /// The sealed bytes of a chunk, not verified; None where it has none now.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Size`]: it has something, and that can't be read.
    fn sealed(&self, id: &Id) -> Result<Option<Vec<u8>>, Error>;

    /// Whether it has something under this id; quick, and no promise.
    fn has(&self, id: &Id) -> bool;
}

/// A folder as [`crate::folder`] lays it out: a cache, or a stick that somebody carried here.
#[derive(Clone, Debug)]
pub struct Folder(pub PathBuf);

impl Source for Folder {
    fn sealed(&self, id: &Id) -> Result<Option<Vec<u8>>, Error> {
        match folder::fetch(&self.0, id) {
            Ok(sealed) => Ok(Some(sealed)),
            Err(Error::Io(why)) if why.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(other) => Err(other),
        }
    }

    fn has(&self, id: &Id) -> bool {
        folder::path(&self.0, id).is_file()
    }
}

/// Open a chunk from the first source that has it whole, and write its plaintext to `plain`; whether one had it. A copy that is
/// torn, damaged or another's is as good as none.
pub fn open(sources: &[Box<dyn Source>], opening: &mut Opening, id: &Id, key: &Key, plain: &mut [u8]) -> bool {
    sources.iter().any(|source| match source.sealed(id) {
        Ok(Some(mut sealed)) => opening.open(&mut sealed, id, key, plain).is_ok(),
        _ => false,
    })
}
