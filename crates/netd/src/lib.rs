//! A workspace's network. This process is the only way out of the guest: it gets the guest's Ethernet frames from QEMU, ends TCP
//! and UDP itself, answers the guest's questions for names, and opens sockets of the host's for what the company's policy allows
//! and for nothing else. `docs/decisions/0018-network-process.md` says why it is made so, `docs/protocol.md` (chapter 6) how one
//! talks to it.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod dhcp;
mod dns;
pub mod harden;
pub mod link;
mod names;
pub mod network;
pub mod policy;
pub mod service;
mod tcp;
mod udp;
pub mod world;
