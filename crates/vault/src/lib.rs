//! A sealed, log-structured store for block devices that an insecure host can't read, forge or turn back.
//!
//! `docs/vault-format.md` says how it lies on disk and why. Nothing here knows NBD, Python or a key's owner: the caller
//! brings a [`Keyring`], a [`Store`] (a [`Folder`]) and an [`Anchor`], and gets devices that read and write.
//!
//! **Threads.** Everything may be called from many threads. A [`Vault`] is a handle: clones are the same vault.
//!
//! **What a caller owes its clients.** [`Device::push`] before a reply to a write goes out (then the death of the process
//! loses nothing), [`Device::flush`] before a reply to a flush (then a power cut loses nothing).
#![forbid(unsafe_code)]

mod afar;
mod ahead;
mod anchor;
mod bytes;
mod check;
mod checkpoint;
mod cleaner;
mod device;
mod disk;
mod error;
mod export;
mod folder;
mod freeze;
mod generation;
mod head;
mod inner;
mod keeper;
mod keys;
mod log;
mod map;
mod mark;
pub mod memory;
mod open;
mod options;
mod pace;
mod pack;
mod packing;
mod proof;
mod recover;
mod renew;
mod repair;
mod resize;
mod root;
mod roots;
mod segment;
mod slot;
pub mod store;
mod stream;
mod superblock;
mod sync;
mod table;
mod upgrade;
mod vault;
mod writing;

pub use afar::{Afar, Source};
pub use anchor::{Anchor, Anchored, FileAnchor, MemoryAnchor};
pub use check::{Loss, Report};
pub use cleaner::{Cleaned, Cleaning, Recipe};
pub use device::{Device, Range, RangeKind};
pub use disk::Base;
pub use error::{Damage, Error};
pub use export::{Export, File, Manifest, verify};
pub use folder::Folder;
pub use generation::{Change, Generation};
pub use keys::{Keyring, Salt, VaultId};
pub use options::{DeviceInfo, DeviceSpec, Info, Options};
pub use pace::Space;
pub use repair::Repaired;
pub use slot::{BLOCK, SLOT, SLOTS};
pub use store::{Medium, Store};
pub use stream::{Hold, StreamInfo, StreamReader, StreamWriter};
pub use superblock::{Features, VERSION};
pub use vault::Vault;
