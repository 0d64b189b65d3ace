//! Cuts images into chunks; hashes, compresses, seals, verifies and opens them.
//!
//! Nothing here knows Python, a network or a key's owner. A chunk's life: [`cut`] finds its bounds, [`seal`] makes it an
//! object that anyone can verify and only a key opens, [`frames`] carries many at once, [`folder`] keeps them,
//! and a [`source`] gives them out. A [`patch`] turns those that a device has into those that it lacks.
#![forbid(unsafe_code)]

pub mod cut;
mod error;
pub mod folder;
pub mod frames;
pub mod guide;
mod parallel;
pub mod patch;
pub mod seal;
pub mod sealer;
pub mod source;

pub use error::Error;

/// Every boundary lies on a multiple of this, as file systems place their data.
pub const BLOCK: usize = 4096;
/// The largest chunk in bytes of plaintext.
pub const MAX_CHUNK: usize = 256 << 10;
/// The largest chunk as it is stored: the plaintext, a byte for its encoding, nonce and tag.
pub const MAX_STORED: usize = MAX_CHUNK + seal::OVERHEAD;

/// BLAKE3 of a chunk's sealed bytes: what it is known, fetched and verified by.
pub type Id = [u8; 32];
/// What opens one chunk.
pub type Key = [u8; 32];
