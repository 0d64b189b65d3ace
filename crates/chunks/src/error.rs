use std::{fmt, io};

/// What can be wrong with a chunk. Bytes that raise one of these have been given to nobody.
#[derive(Debug)]
pub enum Error {
    /// The bytes are not the ones that the id names.
    NotTheId,
    /// The key does not open it.
    Sealed,
    /// It opens to something other than the stated number of bytes.
    Size,
    /// Frames that do not follow their format.
    Frames,
    /// The disk said no.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTheId => out.write_str("the bytes are not the ones that the id names"),
            Self::Sealed => out.write_str("the key does not open the chunk"),
            Self::Size => out.write_str("the chunk has another size than stated"),
            Self::Frames => out.write_str("the frames are malformed"),
            Self::Io(why) => why.fmt(out),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(why: io::Error) -> Self {
        Self::Io(why)
    }
}
