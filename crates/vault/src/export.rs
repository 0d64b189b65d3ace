//! Taking a generation elsewhere: the files that it is made of, and beginning from them on another machine.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::Error;
use crate::head::{self, Head};
use crate::inner::{Inner, now};
use crate::keys::{Keyring, VaultId};
use crate::root::{GenerationRow, Root, SegmentRow};
use crate::roots::read_root;
use crate::segment;
use crate::slot::Origin;
use crate::store::{Store, read_exact};
use crate::superblock::Superblock;
use crate::sync::lock;
use crate::table::Table;
use crate::vault::Vault;
use crate::{pack, slot};

/// Read in one step.
const STEP: usize = 1 << 20;

/// A file of a generation: its first `length` bytes never change again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name in the store.
    pub name: String,
    /// How much of it belongs to the generation.
    pub length: u64,
    /// BLAKE3 of these bytes.
    pub digest: [u8; 32],
}

/// Everything that a generation is made of. Signed by the caller, it is the record of the generation: it says which sealed
/// root is meant, and by their digests which files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The vault.
    pub vault: VaultId,
    /// When the vault was made.
    pub made: u64,
    /// The generation.
    pub generation: u64,
    /// The newest key epoch in it.
    pub epoch: u32,
    /// The address of its root; opaque to those without keys.
    pub root: u64,
    /// Slots of its root.
    pub pieces: u32,
    /// Its files, in no order. All but those that an earlier manifest named are new.
    pub files: Vec<File>,
}

/// A generation that somebody copies: what it is made of, and until this is dropped none of its files is removed.
pub struct Export {
    inner: Arc<Inner>,
    number: u64,
    manifest: Manifest,
}

impl Export {
    /// What it is made of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        lock(&self.inner.held).retain(|(number, _)| *number != self.number);
    }
}

impl Vault {
    /// A generation, to be copied: its files stay until the answer is dropped, whatever the cleaner would like to do. `known`
    /// answers the digest of a file that the caller has seen before (name and length); the others are read, while everybody
    /// else goes on, and `progress` hears of how many bytes of how many.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Invalid`] if the cleaner has rewritten files of it since: commit anew.
    pub fn export(
        &self,
        generation: u64,
        mut known: impl FnMut(&str, u64) -> Option<[u8; 32]>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Export, Error> {
        let inner = &self.inner;
        inner.usable()?;
        let (row, lengths, number) = {
            // A pass of the cleaner that is under way ends first.
            let _one = lock(&inner.upkeep);
            let row = inner.generation(generation)?;
            let lengths = inner.files(&row)?;
            let mut held = lock(&inner.held);
            let number = held.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
            held.push((number, lengths.iter().map(|(name, _)| name.clone()).collect()));
            (row, lengths, number)
        };
        let (vault, made) = (*inner.table.id(), inner.made);
        let epoch = inner.table.get(row.root.segment()).map_or(0, |segment| segment.epoch);
        let (root, pieces) = (row.root.0, row.pieces);
        let manifest = Manifest { vault, made, generation, epoch, root, pieces, files: Vec::new() };
        let mut export = Export { inner: inner.clone(), number, manifest };
        let total = lengths.iter().map(|(_, length)| length).sum();
        let mut done = 0;
        for (name, length) in lengths {
            let digest = match known(&name, length) {
                Some(digest) => digest,
                None => digest_of(&**inner.table.store(), &name, length, &mut |some| progress(done + some, total))?,
            };
            done += length;
            progress(done, total);
            export.manifest.files.push(File { name, length, digest });
        }
        export.manifest.files.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(export)
    }

    /// What a generation is made of, as in [`Vault::export`], to look at: its files may go any time.
    ///
    /// # Errors
    /// As [`Vault::export`].
    pub fn manifest(
        &self,
        generation: u64,
        known: impl FnMut(&str, u64) -> Option<[u8; 32]>,
    ) -> Result<Manifest, Error> {
        Ok(self.export(generation, known, &mut |_, _| {})?.manifest.clone())
    }

    /// The names of the files that the vault needs now, each once: of those of a generation that lie elsewhere, which are
    /// worth bringing.
    #[must_use]
    pub fn files(&self) -> HashSet<String> {
        self.inner.table.all().iter().map(|segment| segment.file_name()).collect()
    }

    /// Makes a vault of a manifest whose signature the caller has checked. The store answers for its files, from here or from
    /// afar; none needs to be present. Nothing is read but the root. Open it with [`crate::Options::replace_anchor`] and a
    /// ring of a new epoch.
    ///
    /// # Errors
    /// [`Error::Exists`]; [`Error::NoKey`]; [`Error::WrongKey`], [`Error::Damaged`] if the root is not what it should be;
    /// [`Error::Invalid`] if the manifest lacks a file that its root names. Nothing was changed then.
    pub fn import(store: &Arc<dyn Store>, ring: &Keyring, manifest: &Manifest) -> Result<(), Error> {
        if Superblock::read(&**store).is_ok() {
            return Err(Error::Exists);
        }
        let root = Origin::checked(manifest.root).ok_or_else(|| Error::Invalid("no such address".into()))?;
        let name = segment::name(root.segment());
        let file = store.open(&name).map_err(|why| Error::io(&name, why))?;
        let header = segment::SegmentHeader::read(&*file, root.segment(), ring, &manifest.vault)?;
        let header = header.ok_or(Error::WrongKey(name))?;
        let (salt, epoch, pieces) = (header.salt, header.epoch, manifest.pieces);
        let table = Table::new(store.clone(), manifest.vault, ring.clone());
        table.add(&SegmentRow { number: root.segment(), pack: 0, epoch, slots: slot::SLOTS, live: 0, salt })?;
        let found = read_root(&table, root, pieces)?;
        complete(&found, manifest)?;
        let head = Head { counter: found.counter, root, pieces, time: now(), salt, epoch };
        for (which, name) in head::NAMES.iter().enumerate() {
            let file = store.open(name).or_else(|_| store.create(name)).map_err(|why| Error::io(*name, why))?;
            head.write(&*file, which, ring, &manifest.vault)?;
            file.sync().map_err(|why| Error::io(*name, why))?;
        }
        let Root { version, features, .. } = found;
        Superblock { version, features, id: manifest.vault, made: manifest.made }.write(&**store)
    }
}

impl Inner {
    /// The files of a generation and how much of each belongs to it. The lock on upkeep is held.
    fn files(&self, row: &GenerationRow) -> Result<Vec<(String, u64)>, Error> {
        let root = read_root(&self.table, row.root, row.pieces)?;
        let mut lengths: Vec<(String, u64)> = Vec::new();
        for segment in &root.segments {
            if self.table.get(segment.number).is_none_or(|now| now.pack() != segment.pack) {
                let number = row.number;
                return Err(Error::Invalid(format!("generation {number} was compacted since; commit anew")));
            }
            let (name, least) = file_of(segment, row.root, row.pieces);
            let length = match segment.pack {
                0 => least,
                _ => self.table.store().open(&name).and_then(|file| file.len()).map_err(|why| Error::io(&name, why))?,
            };
            if !lengths.iter().any(|(other, _)| *other == name) {
                lengths.push((name, length));
            }
        }
        Ok(lengths)
    }

    /// Whether somebody copies this file.
    pub(crate) fn is_held(&self, name: &str) -> bool {
        lock(&self.held).iter().any(|(_, names)| names.iter().any(|other| other == name))
    }
}

/// The file that holds a segment for a root, and how long that must be at the least.
fn file_of(segment: &SegmentRow, root: Origin, pieces: u32) -> (String, u64) {
    match segment.pack {
        0 => {
            let own = segment.number == root.segment();
            let slots = if own { root.index().saturating_add(pieces) } else { segment.slots };
            (segment::name(segment.number), segment::offset(slots))
        }
        number => (pack::name(number), pack::start(1)),
    }
}

/// Refuses a manifest that is of another generation than its root, or lacks files which that names.
fn complete(root: &Root, manifest: &Manifest) -> Result<(), Error> {
    let invalid = |why: String| Err(Error::Invalid(format!("the generation's record does not fit its root: {why}")));
    let own = |row: &GenerationRow| row.number == manifest.generation && row.root == Origin::NONE;
    if !root.generations.iter().any(own) {
        return invalid(format!("it is not generation {}", manifest.generation));
    }
    for segment in &root.segments {
        let (name, least) = file_of(segment, Origin(manifest.root), manifest.pieces);
        if !manifest.files.iter().any(|file| file.name == name && file.length >= least) {
            return invalid(format!("it lacks {name}, or some of it"));
        }
    }
    Ok(())
}

fn digest_of(store: &dyn Store, name: &str, length: u64, progress: &mut dyn FnMut(u64)) -> Result<[u8; 32], Error> {
    let failed = |why| Error::io(name, why);
    let file = store.open(name).map_err(failed)?;
    let (mut hasher, mut buffer, mut at) = (blake3::Hasher::new(), vec![0; STEP], 0);
    while at < length {
        let part = (length - at).min(STEP as u64) as usize;
        read_exact(&*file, &mut buffer[..part], at).map_err(failed)?;
        hasher.update(&buffer[..part]);
        at += part as u64;
        progress(at);
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Whether the bytes of a file are those that a manifest names: for those who fetch.
///
/// # Errors
/// [`Error::Damaged`] if not; [`Error::Io`].
pub fn verify(store: &dyn Store, file: &File) -> Result<(), Error> {
    match digest_of(store, &file.name, file.length, &mut |_| {}) {
        Ok(digest) if digest == file.digest => Ok(()),
        Err(Error::Io(name, why)) if why.kind() != std::io::ErrorKind::UnexpectedEof => Err(Error::Io(name, why)),
        _ => Err(Error::damaged(&file.name, "it is not the file that the manifest names; another one or damaged")),
    }
}
