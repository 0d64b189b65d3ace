use std::sync::Arc;
use std::{fmt, io};

/// Bytes that cannot be given out: what was found to be wrong, and exactly where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file of the vault.
    pub file: String,
    /// The segment whose slot it is; 0 where the damage is not in a slot.
    pub segment: u64,
    /// The slot's index in its segment.
    pub slot: u32,
    /// The device whose bytes are lost; None where they belong to no device or it is not known.
    pub device: Option<String>,
    /// The first lost byte of the device.
    pub offset: u64,
    /// How many bytes of the device are lost.
    pub length: u64,
    /// What was found.
    pub why: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.file)?;
        if self.segment != 0 {
            write!(out, ", segment {} slot {}", self.segment, self.slot)?;
        }
        write!(out, ": {}", self.why)?;
        if let Some(device) = &self.device {
            write!(out, "; lost: {} bytes of device {device} at {}", self.length, self.offset)?;
        }
        Ok(())
    }
}

/// Why a vault could not do what was asked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The disk is short. Nothing is lost; the same request can be made again once there is room.
    NoSpace,
    /// What was read is not what was written. The rest of the vault stays readable.
    Damaged(Box<Damage>),
    /// Acknowledged writes at the log's end are damaged; which blocks they held is not known.
    TailDamaged(Box<Damage>),
    /// The vault is older than its anchor says: it was turned back, or a copy was put in its place.
    Stale {
        /// The state that was found.
        found: String,
        /// The state that was anchored.
        anchored: String,
    },
    /// There is no anchor for this vault, so nothing says whether it is the newest. It can be replaced on purpose.
    AnchorLost,
    /// The anchor belongs to another vault.
    ForeignAnchor,
    /// The keyring has no key of this epoch.
    NoKey(u32),
    /// No key opens what the vault begins with: a wrong key, or another vault's files.
    WrongKey(String),
    /// Made by a newer version, or with features that this one does not know.
    Incompatible(String),
    /// No vault is here.
    NotAVault,
    /// There is a vault already.
    Exists,
    /// Somebody else has it open.
    Busy,
    /// The device or the vault may not be written.
    ReadOnly,
    /// Offset and length reach beyond the device.
    OutOfRange,
    /// No device, generation or stream of that name.
    Unknown(String),
    /// What was asked makes no sense; nothing was done.
    Invalid(String),
    /// The data is not in memory; ask again where waiting is allowed.
    WouldBlock,
    /// These bytes of the device's base, from the first on that was asked for, are not on this machine now.
    Away {
        /// The first of them.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// The devices were written since the stream was stored.
    Outdated(String),
    /// Whoever asked for it asked to stop; nothing was changed.
    Cancelled,
    /// The vault was closed.
    Closed,
    /// The disk failed while something was made durable. Nothing more is written until the vault is opened again, which
    /// finds all that was acknowledged before.
    Failed(Arc<io::Error>),
    /// The disk said no.
    Io(String, Arc<io::Error>),
}

impl Error {
    pub(crate) fn io(what: impl Into<String>, why: io::Error) -> Self {
        match why.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            io::ErrorKind::WouldBlock => Self::WouldBlock,
            _ => Self::Io(what.into(), Arc::new(why)),
        }
    }

    pub(crate) fn damaged(file: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Damaged(Box::new(Damage {
            file: file.into(),
            segment: 0,
            slot: 0,
            device: None,
            offset: 0,
            length: 0,
            why: why.into(),
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSpace => out.write_str("the disk is short; nothing is lost, free some space and go on"),
            Self::Damaged(what) => write!(out, "damaged: {what}"),
            Self::TailDamaged(what) => {
                write!(out, "acknowledged writes at the end of the log are damaged ({what}); all before them is safe")
            }
            Self::Stale { found, anchored } => {
                write!(out, "the vault is older than its anchor: found {found}, anchored {anchored}")
            }
            Self::AnchorLost => {
                out.write_str("the vault's anchor is missing, so nothing proves that this is its newest state")
            }
            Self::ForeignAnchor => out.write_str("the anchor belongs to another vault"),
            Self::NoKey(epoch) => write!(out, "no key of epoch {epoch}"),
            Self::WrongKey(file) => write!(out, "{file}: the key does not open it"),
            Self::Incompatible(why) => write!(out, "this version cannot open the vault: {why}"),
            Self::NotAVault => out.write_str("no vault is here"),
            Self::Exists => out.write_str("there is a vault already"),
            Self::Busy => out.write_str("the vault is open already"),
            Self::ReadOnly => out.write_str("it may not be written"),
            Self::OutOfRange => out.write_str("beyond the end of the device"),
            Self::Unknown(what) => write!(out, "there is no {what}"),
            Self::Invalid(why) => out.write_str(why),
            Self::WouldBlock => out.write_str("it would have to wait for the disk"),
            Self::Away { offset, length } => {
                write!(out, "{length} bytes of the image at {offset} are not on this machine now")
            }
            Self::Outdated(name) => write!(out, "the disks were written since {name} was stored; it is not to be used"),
            Self::Cancelled => out.write_str("it was cancelled; nothing was changed"),
            Self::Closed => out.write_str("the vault is closed"),
            Self::Failed(why) => {
                write!(out, "the disk failed earlier ({why}); open the vault again: all that was acknowledged is there")
            }
            Self::Io(what, why) => write!(out, "{what}: {why}"),
        }
    }
}

impl std::error::Error for Error {}
