//! A vault whose older files lie elsewhere: they are read from there by range as they are needed, and brought here whole,
//! verified, in whatever order somebody likes. What is written lies here from the start.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use crate::export::{File, Manifest};
use crate::store::{Medium, Store};
use crate::sync::lock;

/// Brought in one step.
const STEP: u64 = 1 << 20;

/// A file, once it was brought.
type Home = Arc<OnceLock<Arc<dyn Medium>>>;

/// Where files of a generation can be read, by range. Nothing that it answers is believed: slots are sealed, and whole files
/// compared with their digests.
pub trait Source: Send + Sync {
    /// Fills `buffer` from `offset` of a file that the manifest names.
    ///
    /// # Errors
    /// It cannot be reached, or lacks it; the same may be asked again.
    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// A store for [`crate::Vault::import`] and [`crate::Vault::open`] that needs no file of the generation to be here.
pub struct Afar {
    here: Arc<dyn Store>,
    there: Arc<dyn Source>,
    files: HashMap<String, (File, Home)>,
    /// Those that are being brought, so that nobody brings one twice at a time.
    under_way: Mutex<Vec<String>>,
}

struct FarFile {
    there: Arc<dyn Source>,
    name: String,
    length: u64,
    home: Home,
}

impl Afar {
    /// `here` for what is written and what was brought, `there` for the rest of what the manifest names.
    #[must_use]
    pub fn new(here: Arc<dyn Store>, there: Arc<dyn Source>, manifest: &Manifest) -> Self {
        let files = manifest.files.iter().map(|file| (file.name.clone(), (file.clone(), Arc::default()))).collect();
        Self { here, there, files, under_way: Mutex::default() }
    }

    /// The files that are not here yet, of those that the vault still has a use for: `needed` says by name.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn missing(&self, needed: impl Fn(&str) -> bool) -> io::Result<Vec<File>> {
        let here = self.here.list()?;
        let lacks = |file: &&File| needed(&file.name) && !here.contains(&file.name);
        Ok(self.files.values().map(|(file, _)| file).filter(lacks).cloned().collect())
    }

    /// Brings a file here, durably; it has its name once it is whole and is what the manifest names. False: it is here, or
    /// somebody else is about it. Who has it open reads it here from then on. `progress` hears of the bytes so far.
    ///
    /// # Errors
    /// `NotFound` for a file that the manifest does not name; `InvalidData` if it is not what that says: nothing was kept;
    /// whatever the source or the disk says.
    pub fn bring(&self, name: &str, progress: &mut dyn FnMut(u64)) -> io::Result<bool> {
        let Some((file, home)) = self.files.get(name) else { return Err(io::ErrorKind::NotFound.into()) };
        {
            let mut under_way = lock(&self.under_way);
            if under_way.iter().any(|other| other == name) || self.here.open(name).is_ok() {
                return Ok(false);
            }
            under_way.push(name.to_owned());
        }
        let result = self.fetch(file, progress);
        lock(&self.under_way).retain(|other| other != name);
        // Who had it open reads here from now on; if the vault has removed it already, from afar as before.
        result.map(|()| {
            if let Ok(file) = self.here.open(name) {
                let _ = home.set(file);
            }
            true
        })
    }

    fn fetch(&self, file: &File, progress: &mut dyn FnMut(u64)) -> io::Result<()> {
        let part = format!("{}.new", file.name);
        let _ = self.here.remove(&part);
        let made = self.here.create(&part)?;
        let mut work = || {
            let (mut hasher, mut buffer, mut at) = (blake3::Hasher::new(), vec![0; STEP as usize], 0);
            while at < file.length {
                let some = &mut buffer[..(file.length - at).min(STEP) as usize];
                self.there.read(&file.name, at, some)?;
                hasher.update(some);
                made.write_at(some, at)?;
                at += some.len() as u64;
                progress(at);
            }
            if *hasher.finalize().as_bytes() != file.digest {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is another file", file.name)));
            }
            made.sync()?;
            self.here.rename(&part, &file.name)?;
            self.here.sync()
        };
        let result = work();
        if result.is_err() {
            let _ = self.here.remove(&part);
        }
        result
    }
}

impl Store for Afar {
    fn create(&self, name: &str) -> io::Result<Arc<dyn Medium>> {
        self.here.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Medium>> {
        match (self.here.open(name), self.files.get(name)) {
            (Err(why), Some((file, home))) if why.kind() == io::ErrorKind::NotFound => Ok(Arc::new(FarFile {
                there: self.there.clone(),
                name: name.to_owned(),
                length: file.length,
                home: home.clone(),
            })),
            (other, _) => other,
        }
    }

    /// What is here: files elsewhere are found by the vault's root alone.
    fn list(&self) -> io::Result<Vec<String>> {
        self.here.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.here.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.here.rename(from, to)
    }

    fn sync(&self) -> io::Result<()> {
        self.here.sync()
    }

    fn free(&self) -> io::Result<Option<u64>> {
        self.here.free()
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.here.lock()
    }
}

impl Medium for FarFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let size = self.length.saturating_sub(offset).min(buffer.len() as u64) as usize;
        if let Some(file) = self.home.get() {
            return file.read_at(&mut buffer[..size], offset);
        }
        if size > 0 {
            self.there.read(&self.name, offset, &mut buffer[..size])?;
        }
        Ok(size)
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let size = self.length.saturating_sub(offset).min(buffer.len() as u64) as usize;
        match self.home.get() {
            Some(file) => file.try_read_at(&mut buffer[..size], offset),
            // It may take long: the caller has workers for that.
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Files of a generation never change.
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}
