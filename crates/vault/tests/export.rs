//! A generation goes on elsewhere: from its manifest, with files fetched when they are first read.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use support::{check, content, ring};
use twofold_vault::memory::Memory;
use twofold_vault::{BLOCK, Cleaning, Error, Keyring, Medium, MemoryAnchor, Options, SLOT, Store, Vault, verify};

const BLOCKS: u64 = 900;

fn options() -> Options {
    support::options(256)
}

/// What is not here is read from afar, by range; nothing is written there.
struct Far {
    here: Memory,
    there: Memory,
    fetched: Arc<Mutex<HashMap<String, usize>>>,
}

struct FarMedium(Arc<dyn Medium>, String, Arc<Mutex<HashMap<String, usize>>>);

impl Medium for FarMedium {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        *self.2.lock().unwrap().entry(self.1.clone()).or_default() += buffer.len();
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

impl Store for Far {
    fn create(&self, name: &str) -> io::Result<Arc<dyn Medium>> {
        self.here.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Medium>> {
        match self.here.open(name) {
            Err(why) if why.kind() == io::ErrorKind::NotFound && name.contains('-') => {
                Ok(Arc::new(FarMedium(self.there.open(name)?, name.to_owned(), self.fetched.clone())))
            }
            other => other,
        }
    }

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

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.here.lock()
    }
}

fn fill(vault: &Vault, round: u8, step: usize) {
    let disk = vault.device("disk").unwrap();
    for block in (0..BLOCKS).step_by(step) {
        disk.write(block * BLOCK as u64, &[round ^ block as u8 | 1; BLOCK]).unwrap();
    }
}

#[test]
fn another_machine_goes_on_from_a_generation_under_a_new_epoch() {
    let (store, _, vault) = support::made(BLOCKS, options());
    fill(&vault, 1, 1);
    fill(&vault, 2, 3);
    vault.clean(Cleaning::default()).unwrap();
    let generation = vault.commit("to go").unwrap();
    let then = content(&vault);
    let manifest = vault.manifest(generation.number, |_, _| None).unwrap();
    // The first machine goes on; what the manifest names does not change.
    fill(&vault, 3, 2);
    vault.flush().unwrap();
    let there = Memory::new();
    for file in &manifest.files {
        verify(&*store, file).unwrap();
        there.put(&file.name, store.bytes(&file.name).unwrap()[..file.length as usize].to_vec());
    }
    let fetched = Arc::new(Mutex::new(HashMap::new()));
    let far: Arc<dyn Store> = Arc::new(Far { here: Memory::new(), there, fetched: fetched.clone() });
    Vault::import(&far, &ring(), &manifest).unwrap();
    assert!(matches!(Vault::import(&far, &ring(), &manifest), Err(Error::Exists)));
    let both = Keyring::new(2, [8; 32]).with(1, [7; 32]);
    let anchor = Arc::new(MemoryAnchor::default());
    let again = Options { replace_anchor: true, ..options() };
    let other = Vault::open(far.clone(), both.clone(), anchor.clone(), again).unwrap();
    let opened: usize = fetched.lock().unwrap().values().sum();
    assert!(opened < 60 * SLOT, "opening fetched {opened} bytes");
    assert!(content(&other) == then);
    fill(&other, 4, 5);
    let now = content(&other);
    other.close().unwrap();
    let other = Vault::open(far, both, anchor, options()).unwrap();
    assert!(content(&other) == now);
    assert!(check(&other).is_sound());
    // From there an older generation is still to be had.
    other.revert(generation.number).unwrap();
    assert!(content(&other) == then);
}

#[test]
fn the_next_manifest_names_little_that_is_new() {
    let (_, _, vault) = support::made(BLOCKS, options());
    fill(&vault, 1, 1);
    let first = vault.commit("one").unwrap();
    let one = vault.manifest(first.number, |_, _| None).unwrap();
    let disk = vault.device("disk").unwrap();
    (0..20).for_each(|block| disk.write(block * 9 * BLOCK as u64, &[9; BLOCK]).unwrap());
    let second = vault.commit("two").unwrap();
    let mut old = 0;
    let known = |name: &str, length: u64| {
        let file = one.files.iter().find(|file| file.name == name && file.length == length)?;
        old += 1;
        Some(file.digest)
    };
    let two = vault.manifest(second.number, known).unwrap();
    let new: u64 = two.files.iter().filter(|file| !one.files.contains(file)).map(|file| file.length).sum();
    assert_eq!(old, one.files.len());
    assert!(new <= 23 * SLOT as u64, "{new} bytes for 20 blocks");
}
