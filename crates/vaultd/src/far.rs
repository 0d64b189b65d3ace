//! A vault whose older files still lie with the company's server: read by range as they are needed, brought whole behind
//! (docs/decisions/0014). Which files those are says a record in the vault's folder, which goes when the last of them is here.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde_json::{Value, json};
use twofold_vault::{Afar, Folder, Source, Store, Vault};

use crate::feed::{self, Feed, Missing};
use crate::memory::Progress;
use crate::moving::manifest;
use crate::opened::path;
use crate::said::{Code, Said};
use crate::service::Answer;
use crate::verbs::{exactly, none};

/// The record in the vault's folder: the manifest's fields that the vault itself needs, as `import` takes them.
pub const RECORD: &str = "afar";
/// Its bytes.
const LARGEST: u64 = 64 << 20;

/// A vault whose older files are afar.
pub struct Far {
    /// Where they come from.
    pub feed: Arc<Feed>,
    afar: Arc<Afar>,
    here: Arc<dyn Store>,
    total: u64,
}

impl Far {
    /// Of the vault in a folder; None if all of it is here.
    pub fn of(folder: &OwnedFd) -> Result<Option<Self>, Said> {
        let here: Arc<dyn Store> = Arc::new(Folder::new(path(folder)));
        let record = match here.open(RECORD) {
            Err(none) if none.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut bytes = vec![0; record.len()?.min(LARGEST) as usize];
        let read = record.read_at(&mut bytes, 0)?;
        let manifest = manifest(&bytes[..read]).map_err(|_| {
            Said::new(Code::Damaged, "What says which of the workspace's files are still to come is damaged.")
        })?;
        let feed = Feed::new(Arc::clone(&here), &manifest)?;
        let afar = Arc::new(Afar::new(Arc::clone(&here), Arc::clone(&feed) as Arc<dyn Source>, &manifest));
        let total = manifest.files.iter().map(|file| file.length).sum();
        Ok(Some(Self { feed, afar, here, total }))
    }

    /// Write down, durably, that the files of a generation are afar.
    pub fn note(folder: &OwnedFd, record: &[u8]) -> Result<(), Said> {
        let (here, fresh) = (Folder::new(path(folder)), format!("{RECORD}.new"));
        let _ = here.remove(&fresh);
        let file = here.create(&fresh)?;
        file.write_at(record, 0)?;
        file.sync()?;
        here.rename(&fresh, RECORD)?;
        Ok(here.sync()?)
    }

    /// What the vault is opened on.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.afar) as Arc<dyn Store>
    }

    /// Bytes that are here, and all.
    pub fn status(&self) -> Value {
        let left: u64 = self.afar.missing(|_| true).map_or(0, |left| left.iter().map(|file| file.length).sum());
        json!({"here": self.total - left, "of": self.total})
    }

    /// Bring one file here whole, of those that are read the most first. Once none lacks that `vault` needs (any, without one),
    /// that is durable, and nobody is needed any more. Whether there are more.
    pub fn fill(&self, vault: Option<&Vault>, progress: &mut dyn FnMut(u64, u64)) -> Result<bool, Said> {
        let needed = vault.map(Vault::files);
        let wanted = |name: &str| needed.as_ref().is_none_or(|needed| needed.contains(name));
        let mut lacking = self.afar.missing(wanted)?;
        lacking.sort_by_key(|file| (self.feed.read_of(&file.name), file.name.clone()));
        if let Some(file) = lacking.pop() {
            let brought = feed::bringing(|| self.afar.bring(&file.name, &mut |done| progress(done, file.length)));
            brought.map_err(unbrought)?;
            self.feed.forget(&file.name);
        }
        if lacking.is_empty() && self.afar.missing(wanted)?.is_empty() {
            match self.here.remove(RECORD) {
                Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why.into()),
                _ => self.here.sync()?,
            }
        }
        Ok(!lacking.is_empty())
    }
}

/// Bring one more file of what lies afar, if anything does: whether there are more, the bytes that are here, and all.
pub fn step(far: Option<&Far>, vault: Option<&Vault>, progress: &mut dyn FnMut(u64, u64)) -> Result<Value, Said> {
    let Some(far) = far else { return Ok(json!({"more": false, "far": null})) };
    let more = far.fill(vault, progress)?;
    Ok(json!({"more": more, "far": far.status()}))
}

/// Bring one file of a vault that nobody has open (its folder, and a stream to ask on). Whoever opens it ends this process first.
pub fn bring(args: Value, fds: Vec<OwnedFd>, progress: Progress<'_>) -> Result<Answer, Said> {
    none(args)?;
    let [folder, stream] = exactly(fds)?;
    let _one = Folder::new(path(&folder)).lock().map_err(|_| {
        Said::new(Code::Conflict, "The workspace's store is open already.").safe("It was left as it is.")
    })?;
    let far = Far::of(&folder)?;
    if let Some(far) = &far {
        far.feed.connect(stream)?;
    }
    step(far.as_ref(), None, progress).map(Answer::body)
}

/// Refuses what needs all of a vault, as long as some of it is afar.
pub fn whole(folder: &OwnedFd) -> Result<(), Said> {
    match Folder::new(path(folder)).open(RECORD) {
        Err(_) => Ok(()),
        Ok(_) => Err(Said::new(Code::Conflict, "Not all of this workspace is on this device yet.")
            .safe("Nothing was changed.")
            .next("Stay connected until it is:  twofold info")),
    }
}

fn unbrought(why: io::Error) -> Said {
    if why.kind() == io::ErrorKind::InvalidData {
        return Said::new(Code::Damaged, "What the server sent of the workspace is not what was backed up.")
            .safe("It was not used.")
            .next("Tell your administrator:  twofold server verify");
    }
    match why.get_ref().and_then(|inner| inner.downcast_ref::<Missing>()) {
        Some(Missing(text)) => away(text),
        None => why.into(),
    }
}

/// A part of the workspace can't be had now.
pub fn away(text: &str) -> Said {
    Said::new(Code::Unreachable, format!("A part of the workspace is not on this device yet: {text}."))
        .safe("Nothing is lost.")
        .next("Connect to your company's server, then try again.")
}
