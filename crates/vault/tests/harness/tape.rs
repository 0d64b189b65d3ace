//! A store in memory that remembers every change in order, and fails when told to.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use twofold_vault::{Anchor, Anchored, Medium, Store};

/// Files by name.
pub type Image = BTreeMap<String, Vec<u8>>;

/// A change, or what makes changes durable. Files are numbered in the order in which they were made.
#[derive(Clone)]
pub enum Event {
    Create(usize, String),
    Write(usize, u64, Vec<u8>),
    Length(usize, u64),
    /// All content of the file is durable.
    Sync(usize),
    /// A sync that failed: what was not durable may be gone for good, though it is read as if it were there.
    Lost(usize),
    Rename(String, String),
    Remove(String),
    /// All names are durable.
    Names,
    Anchor(Anchored),
}

/// What a call does, for those that choose which one fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Create,
    Open,
    List,
    Remove,
    Rename,
    Names,
    Read,
    Write,
    Sync,
    Length,
    Reserve,
}

/// Which call fails, and how.
#[derive(Clone, Copy)]
pub struct Fault {
    /// Calls that count.
    pub counts: fn(Call) -> bool,
    /// The first of them that fails, from 0, and how many do.
    pub at: u64,
    pub times: u64,
    pub error: fn() -> io::Error,
    /// The call has its effect (a write a part of it) and fails all the same.
    pub done: bool,
}

#[derive(Default)]
pub struct Reel {
    pub base: Image,
    pub files: Vec<Vec<u8>>,
    /// The name that each file was made under.
    pub made: Vec<String>,
    pub names: BTreeMap<String, usize>,
    pub events: Vec<Event>,
    pub anchor: Option<Anchored>,
    /// As it was before the first event.
    pub first_anchor: Option<Anchored>,
    pub fault: Option<Fault>,
    pub counted: u64,
    pub failed: u64,
}

/// The store. Clones are the same one.
#[derive(Clone, Default)]
pub struct Tape {
    reel: Arc<Mutex<Reel>>,
    locked: Arc<AtomicBool>,
}

impl Tape {
    /// Over files that are durable, with an anchor.
    pub fn new(base: Image, anchor: Option<Anchored>) -> Self {
        let names = base.keys().enumerate().map(|(number, name)| (name.clone(), number)).collect();
        let (files, made) = (base.values().cloned().collect(), base.keys().cloned().collect());
        let first_anchor = anchor.clone();
        let reel = Reel { base, files, made, names, anchor, first_anchor, ..Reel::default() };
        Self { reel: Arc::new(Mutex::new(reel)), ..Self::default() }
    }

    pub fn reel(&self) -> MutexGuard<'_, Reel> {
        self.reel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes so far.
    pub fn len(&self) -> usize {
        self.reel().events.len()
    }

    pub fn anchor(&self) -> Arc<dyn Anchor> {
        Arc::new(self.clone())
    }

    /// What the anchor says now.
    pub fn anchor_record(&self) -> Option<Anchored> {
        self.reel().anchor.clone()
    }

    /// What is read now.
    pub fn image(&self) -> Image {
        let reel = self.reel();
        reel.names.iter().map(|(name, file)| (name.clone(), reel.files[*file].clone())).collect()
    }

    pub fn fail(&self, fault: Option<Fault>) {
        let mut reel = self.reel();
        (reel.fault, reel.counted, reel.failed) = (fault, 0, 0);
    }
}

impl Reel {
    /// The error to give, and whether the call has its effect first.
    fn judge(&mut self, call: Call) -> Option<(io::Error, bool)> {
        let fault = self.fault.filter(|fault| (fault.counts)(call))?;
        self.counted += 1;
        let fails = (fault.at..fault.at.saturating_add(fault.times)).contains(&(self.counted - 1));
        self.failed += u64::from(fails);
        fails.then(|| ((fault.error)(), fault.done))
    }

    /// Runs `effect` unless the call is to fail before it.
    fn call<T>(&mut self, call: Call, effect: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        match self.judge(call) {
            None => effect(self),
            Some((error, true)) => {
                let _ = effect(self);
                Err(error)
            }
            Some((error, false)) => Err(error),
        }
    }
}

impl Store for Tape {
    fn create(&self, name: &str) -> io::Result<Arc<dyn Medium>> {
        let file = self.reel().call(Call::Create, |reel| {
            if reel.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let file = reel.files.len();
            reel.files.push(Vec::new());
            reel.made.push(name.to_owned());
            reel.names.insert(name.to_owned(), file);
            reel.events.push(Event::Create(file, name.to_owned()));
            Ok(file)
        })?;
        Ok(Arc::new(Strip { tape: self.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Medium>> {
        let find = |reel: &mut Reel| reel.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into());
        let file = self.reel().call(Call::Open, find)?;
        Ok(Arc::new(Strip { tape: self.clone(), file }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.reel().call(Call::List, |reel| Ok(reel.names.keys().cloned().collect()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.reel().call(Call::Remove, |reel| {
            reel.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
            reel.events.push(Event::Remove(name.to_owned()));
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.reel().call(Call::Rename, |reel| {
            let file = reel.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            reel.names.insert(to.to_owned(), file);
            reel.events.push(Event::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mut reel = self.reel();
        match reel.judge(Call::Names) {
            Some((error, _)) => Err(error),
            None => {
                reel.events.push(Event::Names);
                Ok(())
            }
        }
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        if self.locked.swap(true, Ordering::SeqCst) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Guard(self.locked.clone())))
    }
}

struct Guard(Arc<AtomicBool>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Anchor for Tape {
    fn load(&self) -> io::Result<Option<Anchored>> {
        Ok(self.reel().anchor.clone())
    }

    fn store(&self, record: &Anchored) -> io::Result<()> {
        let mut reel = self.reel();
        reel.anchor = Some(record.clone());
        reel.events.push(Event::Anchor(record.clone()));
        Ok(())
    }
}

struct Strip {
    tape: Tape,
    file: usize,
}

impl Medium for Strip {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.tape.reel().call(Call::Read, |reel| {
            let content = &reel.files[self.file];
            let from = (offset as usize).min(content.len());
            let size = buffer.len().min(content.len() - from);
            buffer[..size].copy_from_slice(&content[from..from + size]);
            Ok(size)
        })
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut reel = self.tape.reel();
        let (size, result) = match reel.judge(Call::Write) {
            None => (data.len(), Ok(())),
            // A part of it, and not a whole slot's.
            Some((error, true)) => (data.len() * 2 / 3, Err(error)),
            Some((error, false)) => (0, Err(error)),
        };
        if size > 0 {
            let (from, data) = (offset as usize, &data[..size]);
            let content = &mut reel.files[self.file];
            content.resize(content.len().max(from + size), 0);
            content[from..from + size].copy_from_slice(data);
            reel.events.push(Event::Write(self.file, offset, data.to_vec()));
        }
        result
    }

    fn sync(&self) -> io::Result<()> {
        let mut reel = self.tape.reel();
        match reel.judge(Call::Sync) {
            Some((error, lost)) => {
                if lost {
                    reel.events.push(Event::Lost(self.file));
                }
                Err(error)
            }
            None => {
                reel.events.push(Event::Sync(self.file));
                Ok(())
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.tape.reel().call(Call::Length, |reel| Ok(reel.files[self.file].len() as u64))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut reel = self.tape.reel();
        reel.files[self.file].resize(length as usize, 0);
        reel.events.push(Event::Length(self.file, length));
        Ok(())
    }

    fn reserve(&self, _length: u64) -> io::Result<()> {
        self.tape.reel().call(Call::Reserve, |_| Ok(()))
    }
}
