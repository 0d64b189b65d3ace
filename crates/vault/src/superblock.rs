//! The file `vault`: what this is, and who may open it.

use crate::Error;
use crate::bytes::{Reader, Writer};
use crate::keys::VaultId;
use crate::store::{Store, read_exact};

pub(crate) const NAME: &str = "vault";
const MAGIC: &[u8; 8] = b"TFVAULT1";
const SIZE: usize = 128;
/// The version that this crate writes.
pub const VERSION: u32 = 1;

/// Feature bits: what a reader must know to open, to write, or may ignore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Unknown: refuse.
    pub incompatible: u64,
    /// Unknown: open read-only.
    pub read_compatible: u64,
    /// Unknown: ignore and keep.
    pub compatible: u64,
}

impl Features {
    /// What this version knows, and gives a vault that it upgrades.
    pub const KNOWN: Self = Self { incompatible: 0, read_compatible: 0, compatible: 0 };

    /// Whether a vault with these may be written by one who knows `known`, given that it may be opened.
    pub(crate) fn check(&self, version: u32, known: &Self) -> Result<bool, Error> {
        let unknown = self.incompatible & !known.incompatible;
        if version > VERSION {
            return Err(Error::Incompatible(format!("its format is version {version}, this one knows {VERSION}")));
        }
        if unknown != 0 {
            return Err(Error::Incompatible(format!("it uses features {unknown:#x}, which this one does not know")));
        }
        Ok(self.read_compatible & !known.read_compatible == 0)
    }

    /// Whether all of `other` are among these.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let missing = |ours: u64, its: u64| its & !ours;
        missing(self.incompatible, other.incompatible) == 0
            && missing(self.read_compatible, other.read_compatible) == 0
            && missing(self.compatible, other.compatible) == 0
    }

    /// These and the others.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        Self {
            incompatible: self.incompatible | other.incompatible,
            read_compatible: self.read_compatible | other.read_compatible,
            compatible: self.compatible | other.compatible,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Superblock {
    pub version: u32,
    pub features: Features,
    pub id: VaultId,
    pub made: u64,
}

impl Superblock {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(MAGIC).u32(self.version).u32(SIZE as u32);
        out.u64(self.features.incompatible).u64(self.features.read_compatible).u64(self.features.compatible);
        out.bytes(&self.id).u64(self.made).pad(96);
        let sum = blake3::hash(&out.0);
        out.bytes(sum.as_bytes()).0.clone()
    }

    fn decode(untrusted: &[u8]) -> Result<Self, Error> {
        let parse = || {
            let mut from = Reader(untrusted);
            if from.array()? != *MAGIC {
                return None;
            }
            let (version, _) = (from.u32()?, from.u32()?);
            let features =
                Features { incompatible: from.u64()?, read_compatible: from.u64()?, compatible: from.u64()? };
            Some(Self { version, features, id: from.array()?, made: from.u64()? })
        };
        let found = parse().ok_or_else(|| Error::damaged(NAME, "it does not begin as a vault does"))?;
        // A newer version may have another length and sum: say that it is newer, not that it is damaged.
        if found.version <= VERSION
            && (untrusted.len() < SIZE || *blake3::hash(&untrusted[..96]).as_bytes() != untrusted[96..SIZE])
        {
            return Err(Error::damaged(NAME, "its checksum is wrong"));
        }
        Ok(found)
    }

    pub fn read(store: &dyn Store) -> Result<Self, Error> {
        let file = match store.open(NAME) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Err(Error::NotAVault),
            other => other.map_err(|why| Error::io(NAME, why))?,
        };
        let mut bytes = vec![0; SIZE];
        match read_exact(&*file, &mut bytes, 0) {
            Err(why) if why.kind() == std::io::ErrorKind::UnexpectedEof => Err(Error::damaged(NAME, "it is cut short")),
            other => other.map_err(|why| Error::io(NAME, why)).and_then(|()| Self::decode(&bytes)),
        }
    }

    /// Replaces the file in one durable step.
    pub fn write(&self, store: &dyn Store) -> Result<(), Error> {
        replace(store, NAME, &self.encode()).map_err(|why| Error::io(NAME, why))
    }
}

/// Writes `name` whole: beside, synced, renamed, and the name made durable.
pub(crate) fn replace(store: &dyn Store, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let beside = format!("{name}.new");
    let _ = store.remove(&beside);
    let file = store.create(&beside)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    store.rename(&beside, name)?;
    store.sync()
}
