//! What a vault is made of, how it is opened, and where it stands.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::anchor::Anchored;
use crate::disk::Base;
use crate::keys::VaultId;
use crate::slot::SLOTS;
use crate::superblock::Features;

/// A device to be made.
#[derive(Clone, Debug)]
pub struct DeviceSpec {
    /// What it is asked for by; unique in the vault, at most 255 bytes.
    pub name: String,
    /// In bytes, a multiple of [`BLOCK`].
    pub size: u64,
}

/// A device that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Whether writing it is refused.
    pub read_only: bool,
}

/// What a vault takes and where it stands.
#[derive(Clone, Debug)]
pub struct Info {
    /// Its identity.
    pub id: VaultId,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// The newest root's number.
    pub counter: u64,
    /// The version of its format, and the features that it uses.
    pub format: (u32, Features),
    /// The epoch of what is written now.
    pub epoch: u32,
    /// Segments, in files of their own or in packs.
    pub segments: usize,
    /// Bytes of all slots that the files of the vault hold.
    pub stored: u64,
    /// Bytes of about those slots that are still needed.
    pub live: u64,
    /// Bytes that an opening after a crash would replay now.
    pub tail: u64,
    /// Bytes of the map that are in memory.
    pub map_memory: usize,
    /// How far the anchor has it.
    pub anchored: Option<Anchored>,
    /// Whether it was opened read-only, or must be because of features.
    pub read_only: bool,
}

/// How to open a vault. `Options::default()` is what a vault process wants.
#[derive(Clone)]
pub struct Options {
    /// Nothing is written, not even the anchor.
    pub read_only: bool,
    /// Go on without an anchor, and make a new one: a human said so.
    pub replace_anchor: bool,
    /// Open read-only although acknowledged writes at the log's end are damaged.
    pub salvage: bool,
    /// Go on, with writing too, from the last whole write before damage at the log's end. What came behind it is given up:
    /// a human said so. [`crate::Vault::repair`] makes it last. The anchor must be replaced with it.
    pub give_up_tail: bool,
    /// A thread of the vault's own makes checkpoints, anchors and cleans. Without it the caller calls [`Vault::tend`].
    pub background: bool,
    /// Slots of a new segment: [`SLOTS`], or fewer where files must be small, at least 16.
    pub segment_slots: u32,
    /// Bytes behind the last root from which on a checkpoint is due.
    pub tail_limit: u64,
    /// DELTA slots from which on a full checkpoint is due. Each stands for up to 170 runs of blocks.
    pub delta_limit: usize,
    /// Bytes that leaves of one device's map may take in memory, dirty ones apart.
    pub map_memory: usize,
    /// Free bytes that are left for the cleaner: devices get [`Error::NoSpace`] before.
    pub reserve: u64,
    /// The features that are known: [`Features::KNOWN`], or others in tests of what comes later.
    pub known: Features,
    /// What devices are where they were never written, by name.
    pub bases: HashMap<String, Arc<dyn Base>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            replace_anchor: false,
            salvage: false,
            give_up_tail: false,
            background: true,
            segment_slots: SLOTS,
            tail_limit: 256 << 20,
            delta_limit: 4096,
            map_memory: 128 << 20,
            reserve: 256 << 20,
            known: Features::KNOWN,
            bases: HashMap::new(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Options").field("read_only", &self.read_only).finish_non_exhaustive()
    }
}
