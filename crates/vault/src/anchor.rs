//! Anchors: a record, outside the vault, of how far it had come (docs/vault-format.md, *Anchors*).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::bytes::{Reader, Writer, hex};
use crate::keys::VaultId;

/// How far a vault had come, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchored {
    /// Which vault.
    pub vault: VaultId,
    /// The counter of its newest root.
    pub counter: u64,
    /// The segment that its log ended in.
    pub segment: u64,
    /// How many slots of that segment were durable.
    pub slots: u32,
    /// Names the making of that segment.
    pub digest: [u8; 16],
    /// Its key epoch; 0 in records of an earlier build.
    pub epoch: u32,
}

impl std::fmt::Display for Anchored {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { counter, segment, slots, .. } = self;
        write!(out, "root {counter}, segment {segment} with {slots} slots ({})", hex(&self.digest[..4]))
    }
}

/// Where the record is kept. What makes it trustworthy is the place, not this trait.
pub trait Anchor: Send + Sync {
    /// The newest record, None if there never was one or it was lost.
    ///
    /// # Errors
    /// The place can't be read, or what is there is no record.
    fn load(&self) -> io::Result<Option<Anchored>>;

    /// Keeps the record, durably, in place of the older one.
    ///
    /// # Errors
    /// The place can't be written.
    fn store(&self, record: &Anchored) -> io::Result<()>;
}

/// An anchor in a file. Stops mistakes (a backup put back over the vault), not thieves.
pub struct FileAnchor {
    path: PathBuf,
}

const MAGIC: &[u8; 8] = b"TFANCHR1";
const SUMMED: usize = 96;
const SIZE: usize = 128;

impl FileAnchor {
    /// At `path`, outside the vault's folder.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

fn decode(bytes: &[u8]) -> Option<Anchored> {
    if bytes.len() != SIZE || *blake3::hash(&bytes[..SUMMED]).as_bytes() != bytes[SUMMED..] {
        return None;
    }
    let mut from = Reader(bytes);
    if from.array()? != *MAGIC || from.u32()? != 1 {
        return None;
    }
    from.u32()?;
    let (vault, counter, segment, slots) = (from.array()?, from.u64()?, from.u64()?, from.u32()?);
    from.u32()?;
    let digest = from.array()?;
    from.u64()?;
    Some(Anchored { vault, counter, segment, slots, digest, epoch: from.u32()? })
}

impl Anchor for FileAnchor {
    fn load(&self) -> io::Result<Option<Anchored>> {
        match fs::read(&self.path) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            other => match decode(&other?) {
                Some(record) => Ok(Some(record)),
                None => Err(io::Error::new(io::ErrorKind::InvalidData, "the anchor is damaged")),
            },
        }
    }

    fn store(&self, record: &Anchored) -> io::Result<()> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut out = Writer::default();
        out.bytes(MAGIC)
            .u32(1)
            .u32(0)
            .bytes(&record.vault)
            .u64(record.counter)
            .u64(record.segment)
            .u32(record.slots)
            .u32(0);
        out.bytes(&record.digest).u64(time).u32(record.epoch).pad(SUMMED);
        let sum = blake3::hash(&out.0);
        out.bytes(sum.as_bytes());
        let beside = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&out.0)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        let folder = self.path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

/// An anchor in memory: for tests, and for programs that keep the record elsewhere.
#[derive(Default)]
pub struct MemoryAnchor(Mutex<Option<Anchored>>);

impl MemoryAnchor {
    /// Holding `record`.
    #[must_use]
    pub fn new(record: Option<Anchored>) -> Self {
        Self(Mutex::new(record))
    }
}

impl Anchor for MemoryAnchor {
    fn load(&self) -> io::Result<Option<Anchored>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn store(&self, record: &Anchored) -> io::Result<()> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(record.clone());
        Ok(())
    }
}
