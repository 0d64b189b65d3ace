//! A store in memory, for tests: it knows what is durable, so that a power cut can be played.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::{Medium, Store};

/// Files in memory.
#[derive(Default)]
pub struct Memory {
    names: Mutex<Names>,
    locked: Arc<AtomicBool>,
    room: Mutex<Option<u64>>,
}

#[derive(Default)]
struct Names {
    now: HashMap<String, Arc<Ram>>,
    durable: HashMap<String, Arc<Ram>>,
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the store is after a power cut: of each file all that was synced; of what was not, `keep` says how many of
    /// the bytes written behind the durable length have made it (it gets the name and how many there are).
    #[must_use]
    pub fn cut(&self, mut keep: impl FnMut(&str, usize) -> usize) -> Self {
        let names = held(&self.names);
        let mut after = HashMap::new();
        for (name, file) in &names.durable {
            let content = held(&file.0);
            let mut bytes = content.durable.clone();
            let more = content.now.len().saturating_sub(bytes.len());
            let kept = keep(name, more).min(more);
            bytes.extend_from_slice(&content.now[bytes.len()..bytes.len() + kept]);
            after.insert(name.clone(), Arc::new(Ram(Mutex::new(Content { durable: bytes.clone(), now: bytes }))));
        }
        Self { names: Mutex::new(Names { durable: after.clone(), now: after }), ..Self::default() }
    }

    /// What the store is after its process was killed: everything that was written.
    #[must_use]
    pub fn kill(&self) -> Self {
        let names = held(&self.names);
        let copy = |from: &HashMap<String, Arc<Ram>>| -> HashMap<String, Arc<Ram>> {
            from.iter().map(|(name, file)| (name.clone(), Arc::new(Ram(Mutex::new(held(&file.0).clone()))))).collect()
        };
        let now = copy(&names.now);
        let durable = names.durable.keys().filter_map(|name| Some((name.clone(), now.get(name)?.clone()))).collect();
        Self { names: Mutex::new(Names { now, durable }), ..Self::default() }
    }

    /// How many bytes may be taken in all; None for no limit.
    pub fn limit(&self, bytes: Option<u64>) {
        *held(&self.room) = bytes;
    }

    /// The content of a file, to look at or to damage.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        held(&self.names).now.get(name).map(|file| held(&file.0).now.clone())
    }

    /// Replaces the content of a file, durably.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let file = Arc::new(Ram(Mutex::new(Content { durable: bytes.clone(), now: bytes })));
        let mut names = held(&self.names);
        names.now.insert(name.to_owned(), file.clone());
        names.durable.insert(name.to_owned(), file);
    }

    fn taken(&self) -> u64 {
        held(&self.names).now.values().map(|file| held(&file.0).now.len() as u64).sum()
    }
}

impl Store for Memory {
    fn create(&self, name: &str) -> io::Result<Arc<dyn Medium>> {
        let mut names = held(&self.names);
        if names.now.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = Arc::new(Ram(Mutex::new(Content::default())));
        names.now.insert(name.to_owned(), file.clone());
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Medium>> {
        match held(&self.names).now.get(name) {
            Some(file) => Ok(file.clone()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(held(&self.names).now.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        held(&self.names).now.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut names = held(&self.names);
        let file = names.now.remove(from).ok_or(io::ErrorKind::NotFound)?;
        names.now.insert(to.to_owned(), file);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut names = held(&self.names);
        names.durable = names.now.clone();
        Ok(())
    }

    fn free(&self) -> io::Result<Option<u64>> {
        Ok(held(&self.room).map(|room| room.saturating_sub(self.taken())))
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

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
}

struct Ram(Mutex<Content>);

impl Medium for Ram {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = held(&self.0);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.now.len());
        let size = buffer.len().min(content.now.len() - from);
        buffer[..size].copy_from_slice(&content.now[from..from + size]);
        Ok(size)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut content = held(&self.0);
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = from + data.len();
        if content.now.len() < end {
            content.now.resize(end, 0);
        }
        content.now[from..end].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut content = held(&self.0);
        content.durable = content.now.clone();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(held(&self.0).now.len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        held(&self.0).now.resize(length, 0);
        Ok(())
    }
}
