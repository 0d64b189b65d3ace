//! A generation goes on elsewhere: from its manifest, with files fetched when they are first read.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use support::{check, content};
use twofold_vault::memory::Memory;
use twofold_vault::{
    Afar, BLOCK, Cleaning, Error, Keyring, Manifest, MemoryAnchor, Options, SLOT, Source, Store, Vault, verify,
};

const BLOCKS: u64 = 900;

fn options() -> Options {
    support::options(256)
}

/// Files elsewhere. Counts what is read of them; may be away, or lie.
struct There {
    files: Memory,
    read: AtomicUsize,
    away: AtomicBool,
    lies: AtomicBool,
}

impl There {
    fn of(store: &Memory, manifest: &Manifest) -> Arc<Self> {
        let files = Memory::new();
        for file in &manifest.files {
            verify(store, file).unwrap();
            files.put(&file.name, store.bytes(&file.name).unwrap()[..file.length as usize].to_vec());
        }
        Arc::new(Self { files, read: AtomicUsize::new(0), away: AtomicBool::new(false), lies: AtomicBool::new(false) })
    }
}

impl Source for There {
    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.away.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        self.read.fetch_add(buffer.len(), Ordering::SeqCst);
        assert_eq!(self.files.open(name)?.read_at(buffer, offset)?, buffer.len());
        if self.lies.load(Ordering::SeqCst) {
            buffer.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
        }
        Ok(())
    }
}

fn both() -> Keyring {
    Keyring::new(2, [8; 32]).with(1, [7; 32])
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
    let there = There::of(&store, &manifest);
    let far: Arc<dyn Store> = Arc::new(Afar::new(Arc::new(Memory::new()), there.clone(), &manifest));
    Vault::import(&far, &both(), &manifest).unwrap();
    assert!(matches!(Vault::import(&far, &both(), &manifest), Err(Error::Exists)));
    let anchor = Arc::new(MemoryAnchor::default());
    let again = Options { replace_anchor: true, ..options() };
    let other = Vault::open(far.clone(), both(), anchor.clone(), again).unwrap();
    let opened = there.read.load(Ordering::SeqCst);
    assert!(opened < 60 * SLOT, "opening fetched {opened} bytes");
    assert!(content(&other) == then);
    fill(&other, 4, 5);
    let now = content(&other);
    other.close().unwrap();
    let other = Vault::open(far, both(), anchor, options()).unwrap();
    assert!(content(&other) == now);
    assert!(check(&other).is_sound());
    // From there an older generation is still to be had.
    other.revert(generation.number).unwrap();
    assert!(content(&other) == then);
}

#[test]
fn files_are_brought_in_any_order_while_the_vault_is_used_and_then_nobody_is_needed() {
    let (store, _, vault) = support::made(BLOCKS, options());
    fill(&vault, 1, 1);
    fill(&vault, 2, 3);
    let generation = vault.commit("to go").unwrap();
    let then = content(&vault);
    let manifest = vault.manifest(generation.number, |_, _| None).unwrap();
    let (there, here) = (There::of(&store, &manifest), Arc::new(Memory::new()));
    let afar = Arc::new(Afar::new(here.clone(), there.clone(), &manifest));
    let far: Arc<dyn Store> = afar.clone();
    Vault::import(&far, &both(), &manifest).unwrap();
    assert!(!here.list().unwrap().iter().any(|name| name.contains('-')), "a segment was needed to begin");
    let anchor = Arc::new(MemoryAnchor::default());
    let again = Options { replace_anchor: true, ..options() };
    let other = Vault::open(far.clone(), both(), anchor.clone(), again.clone()).unwrap();
    let disk = other.device("disk").unwrap();
    let mut block = vec![0; BLOCK];
    assert!(matches!(disk.try_read(0, &mut block), Err(Error::WouldBlock)), "what is far may not hold anybody up");
    // The source is away: an error for now, and for what is there alone.
    there.away.store(true, Ordering::SeqCst);
    assert!(matches!(disk.read(0, &mut block), Err(Error::Io(..))));
    disk.write(0, &[9; BLOCK]).unwrap();
    disk.read(0, &mut block).unwrap();
    assert!(block == [9; BLOCK]);
    assert!(afar.bring(&manifest.files[0].name, &mut |_| {}).is_err());
    there.away.store(false, Ordering::SeqCst);
    // It lies: nothing of it is believed, and nothing of it is kept.
    there.lies.store(true, Ordering::SeqCst);
    assert!(matches!(disk.read(BLOCK as u64, &mut block), Err(Error::Damaged(_))));
    for file in &manifest.files {
        assert_eq!(afar.bring(&file.name, &mut |_| {}).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
    assert!(
        !here
            .list()
            .unwrap()
            .iter()
            .any(|name| name.ends_with(".new") || manifest.files.iter().any(|file| file.name == **name))
    );
    there.lies.store(false, Ordering::SeqCst);
    disk.read(BLOCK as u64, &mut block).unwrap();
    // The last first, and used meanwhile.
    for (nth, file) in manifest.files.iter().enumerate().rev() {
        assert!(afar.bring(&file.name, &mut |_| {}).unwrap());
        assert!(!afar.bring(&file.name, &mut |_| {}).unwrap(), "it is here already");
        disk.write((1 + nth * 7) as u64 * BLOCK as u64, &[9; BLOCK]).unwrap();
        verify(&*here, file).unwrap();
    }
    assert!(afar.bring("vault", &mut |_| {}).is_err());
    let needed = other.files();
    assert!(afar.missing(|name| needed.contains(name)).unwrap().is_empty());
    there.away.store(true, Ordering::SeqCst);
    let now = content(&other);
    disk.try_read(BLOCK as u64 * 2, &mut block).unwrap();
    other.close().unwrap();
    let other = Vault::open(here, both(), anchor, options()).unwrap();
    assert!(content(&other) == now && now != then);
    assert!(check(&other).is_sound());
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
