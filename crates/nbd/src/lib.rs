//! Serves block devices over NBD: fixed newstyle, structured replies, several exports, on connected Unix streams.
//!
//! The server knows nothing of vaults: it serves whatever implements [`Export`]. Everything a client sends is untrusted
//! until it is validated; no input makes it panic, or use more memory than [`MAX_PAYLOAD`] and a few buffers for each
//! connection. Metadata contexts: `base:allocation`, and `twofold:changed-since:<generation>` (decimal), whose flags have
//! bit 0 set where the device changed since that generation. Source: the NBD project's `doc/proto.md`, without TLS and
//! extended headers.
#![forbid(unsafe_code)]

mod export;
mod handshake;
mod link;
mod pool;
mod replies;
mod request;
mod server;
mod session;
mod wire;

pub use export::{Export, Extents, Failure, Kind, Readiness, State, Wake};
pub use server::Server;

/// The most bytes one read or write request may carry; told to clients as the maximum block size.
pub const MAX_PAYLOAD: usize = 32 << 20;
