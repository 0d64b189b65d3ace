//! Taking a generation elsewhere: the files that it is made of, and beginning from them on another machine.

use std::sync::Arc;

use crate::error::Error;
use crate::head::{self, Head};
use crate::inner::now;
use crate::keys::{Keyring, VaultId};
use crate::root::{Root, SegmentRow};
use crate::roots::read_root;
use crate::segment;
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
    /// The address of its root; opaque to those without keys.
    pub root: u64,
    /// Slots of its root.
    pub pieces: u32,
    /// Its files, in no order. All but those that an earlier manifest named are new.
    pub files: Vec<File>,
}

impl Vault {
    /// What a generation is made of. `known` answers the digest of a file that the caller has seen before (name and length);
    /// the others are read.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Invalid`] if the cleaner has rewritten files of it since: commit anew.
    pub fn manifest(
        &self,
        generation: u64,
        mut known: impl FnMut(&str, u64) -> Option<[u8; 32]>,
    ) -> Result<Manifest, Error> {
        let inner = &self.inner;
        inner.usable()?;
        let _one = lock(&inner.upkeep);
        let row = inner.generation(generation)?;
        let root = read_root(&inner.table, row.root, row.pieces)?;
        let mut lengths: Vec<(String, u64)> = Vec::new();
        for segment in &root.segments {
            if inner.table.get(segment.number).is_none_or(|now| now.pack() != segment.pack) {
                return Err(Error::Invalid(format!("generation {generation} was compacted since; commit anew")));
            }
            let own = segment.number == row.root.segment();
            let slots = if own { row.root.index() + row.pieces } else { segment.slots };
            let (name, length) = match segment.pack {
                0 => (segment::name(segment.number), segment::offset(slots)),
                number => {
                    let name = pack::name(number);
                    let length = inner.table.store().open(&name).and_then(|file| file.len());
                    (name.clone(), length.map_err(|why| Error::io(name, why))?)
                }
            };
            if !lengths.iter().any(|(other, _)| *other == name) {
                lengths.push((name, length));
            }
        }
        let mut files = Vec::new();
        for (name, length) in lengths {
            let digest = match known(&name, length) {
                Some(digest) => digest,
                None => digest_of(&**inner.table.store(), &name, length)?,
            };
            files.push(File { name, length, digest });
        }
        let (vault, made) = (*inner.table.id(), inner.made);
        Ok(Manifest { vault, made, generation, root: row.root.0, pieces: row.pieces, files })
    }

    /// Makes a vault of a manifest whose signature the caller has checked. The store answers for its files, from here or from
    /// afar; none needs to be present. Nothing is read but the root. Open it with [`crate::Options::replace_anchor`] and a
    /// ring of a new epoch.
    ///
    /// # Errors
    /// [`Error::Exists`]; [`Error::NoKey`]; [`Error::WrongKey`], [`Error::Damaged`] if the root is not what it should be.
    pub fn import(store: &Arc<dyn Store>, ring: &Keyring, manifest: &Manifest) -> Result<(), Error> {
        if Superblock::read(&**store).is_ok() {
            return Err(Error::Exists);
        }
        let root = slot::Origin::checked(manifest.root).ok_or_else(|| Error::Invalid("no such address".into()))?;
        let name = segment::name(root.segment());
        let file = store.open(&name).map_err(|why| Error::io(&name, why))?;
        let header = segment::SegmentHeader::read(&*file, root.segment(), ring, &manifest.vault)?;
        let header = header.ok_or(Error::WrongKey(name))?;
        let (salt, epoch, pieces) = (header.salt, header.epoch, manifest.pieces);
        let table = Table::new(store.clone(), manifest.vault, ring.clone());
        table.add(&SegmentRow { number: root.segment(), pack: 0, epoch, slots: slot::SLOTS, live: 0, salt })?;
        let found = read_root(&table, root, pieces)?;
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

fn digest_of(store: &dyn Store, name: &str, length: u64) -> Result<[u8; 32], Error> {
    let failed = |why| Error::io(name, why);
    let file = store.open(name).map_err(failed)?;
    let (mut hasher, mut buffer, mut at) = (blake3::Hasher::new(), vec![0; STEP], 0);
    while at < length {
        let part = (length - at).min(STEP as u64) as usize;
        read_exact(&*file, &mut buffer[..part], at).map_err(failed)?;
        hasher.update(&buffer[..part]);
        at += part as u64;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Whether the bytes of a file are those that a manifest names: for those who fetch.
///
/// # Errors
/// [`Error::Damaged`] if not; [`Error::Io`].
pub fn verify(store: &dyn Store, file: &File) -> Result<(), Error> {
    match digest_of(store, &file.name, file.length)? {
        digest if digest == file.digest => Ok(()),
        _ => Err(Error::damaged(&file.name, "it is not the file that the manifest names; another one or damaged")),
    }
}
