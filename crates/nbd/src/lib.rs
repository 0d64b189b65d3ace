//! Serves block devices over NBD: fixed newstyle, structured replies, several exports on one connected Unix stream each.
//!
//! The server knows nothing of vaults: it serves whatever implements [`Export`]. Everything a client sends is untrusted
//! until it is validated; no input makes it panic or use more memory than [`MAX_PAYLOAD`] and a few buffers.
//! Source: the NBD project's `doc/proto.md`, without TLS and extended headers.
#![forbid(unsafe_code)]

mod export;

pub use export::{Export, Extents, Failure, Kind, Readiness, State};

/// The most bytes one read or write request may carry; told to clients as the maximum block size.
pub const MAX_PAYLOAD: usize = 32 << 20;
