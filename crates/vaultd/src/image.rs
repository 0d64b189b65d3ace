//! The image version that an open vault stands on: its sealed index, the folders that hold its chunks, what is asked for.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};

use serde::Deserialize;
use serde_json::{Value, json};
use twofold_chunks::Id;
use twofold_chunks::source::{Folder, Source};
use twofold_vault::Base;

use crate::base::{ChunkBase, Shelf};
use crate::hex;
use crate::index::{self, Table};
use crate::keys::Ring;
use crate::part;
use crate::said::Said;
use crate::service::Service;
use crate::wants::{BATCH, PATIENCE, Wants};

/// Folders that one opening may hand over: the machine's cache, and a stick.
pub const FOLDERS: usize = 2;
/// Ranges in one answer.
const RANGES: usize = 4096;

/// What `open` says of it; the sealed index and the folders come as descriptors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageArgs {
    digest: String,
    folders: usize,
}

impl ImageArgs {
    /// How many descriptors belong to it.
    ///
    /// # Errors
    /// `BadInput`: no folder, or too many.
    pub fn descriptors(&self) -> Result<usize, Said> {
        match self.folders {
            1..=FOLDERS => Ok(1 + self.folders),
            _ => Err(Said::bad("An image's chunks lie in one or two folders.")),
        }
    }
}

/// See above.
pub struct Image {
    bases: Vec<Arc<ChunkBase>>,
    shelf: Arc<Shelf>,
    /// What is missing.
    pub wants: Arc<Wants>,
    // Their paths name these descriptors.
    _folders: Vec<OwnedFd>,
}

impl Image {
    /// Open the sealed index and stand ready; nothing is read yet.
    ///
    /// # Errors
    /// `Damaged`: it is not what was sealed under this digest. `BadInput`.
    pub fn open(args: &ImageArgs, mut fds: Vec<OwnedFd>, ring: &Ring, service: Weak<Service>) -> Result<Self, Said> {
        let folders = fds.split_off(1);
        let mut untrusted_sealed = part::whole(fds.remove(0), part::LARGEST + part::OVERHEAD)?;
        let tables = index::parse(part::open(ring, index::NAME, &args.digest, &mut untrusted_sealed)?);
        zeroize::Zeroize::zeroize(&mut untrusted_sealed); // opened in place: it held the chunks' keys
        let tell = move |ids: &[Id]| {
            if let Some(service) = service.upgrade() {
                let ids: Vec<_> = ids.iter().map(|id| hex::encode(id)).collect();
                service.tell(&json!({"event": "want", "ids": ids}));
            }
        };
        let wants = Wants::new(Box::new(tell), PATIENCE)?;
        Ok(Self::new(tables?, wants, folders))
    }

    fn new(tables: Vec<Table>, wants: Arc<Wants>, folders: Vec<OwnedFd>) -> Self {
        let source = |folder: &OwnedFd| -> Box<dyn Source> {
            Box::new(Folder(format!("/proc/self/fd/{}", folder.as_raw_fd()).into()))
        };
        let shelf = Shelf::new(folders.iter().map(source).collect(), Arc::clone(&wants));
        let bases = tables.into_iter().map(|table| ChunkBase::new(table, Arc::clone(&shelf))).collect();
        Self { bases, shelf, wants, _folders: folders }
    }

    /// What the vault wants of it.
    pub fn bases(&self) -> HashMap<String, Arc<dyn Base>> {
        let named = |base: &Arc<ChunkBase>| (base.device().to_owned(), Arc::clone(base) as Arc<dyn Base>);
        self.bases.iter().map(named).collect()
    }

    /// A device's base.
    pub fn base(&self, device: &str) -> Option<Arc<ChunkBase>> {
        self.bases.iter().find(|base| base.device() == device).cloned()
    }

    /// What it takes in memory, and how many chunks are wanted now.
    pub fn status(&self) -> Value {
        let device = |base: &Arc<ChunkBase>| json!({"name": base.device(), "size": base.size()});
        let devices: Vec<_> = self.bases.iter().map(device).collect();
        json!({"devices": devices, "kept": self.shelf.kept(), "wanted": self.wants.count()})
    }

    /// What was read since the opening, in the order of the first time; from the `from`th range on, and where to go on.
    pub fn touched(&self, from: usize) -> Value {
        let ranges = |base: &Arc<ChunkBase>| {
            let named = |(offset, length)| json!([base.device(), offset, length]);
            base.touched().into_iter().map(named).collect::<Vec<_>>()
        };
        let all: Vec<_> = self.bases.iter().flat_map(ranges).collect();
        let until = from.saturating_add(RANGES).min(all.len());
        let some = all.get(from..until).unwrap_or_default();
        json!({"ranges": some, "next": (until < all.len()).then_some(until)})
    }

    /// Ids as they travel.
    ///
    /// # Errors
    /// `BadInput`: too many, or not ids.
    pub fn ids(untrusted_ids: &[String]) -> Result<Vec<Id>, Said> {
        if untrusted_ids.len() > BATCH {
            return Err(Said::bad("Too many ids at once."));
        }
        untrusted_ids
            .iter()
            .map(|text| {
                let mut id = Id::default();
                hex::decode_into(text, &mut id).map(|()| id)
            })
            .collect()
    }
}
