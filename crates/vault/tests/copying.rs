//! While a generation is copied the cleaner leaves its files alone; what is begun from a copy that lacks something, or from a
//! record of something else, is refused before anything is written.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::sync::Arc;

use support::ring;
use twofold_vault::memory::Memory;
use twofold_vault::{BLOCK, Cleaning, Error, Keyring, Manifest, MemoryAnchor, Options, Store, Vault, verify};

const BLOCKS: u64 = 900;

fn options() -> Options {
    support::options(128)
}

fn made() -> (Arc<Memory>, Vault) {
    let (store, _, vault) = support::made(BLOCKS, options());
    (store, vault)
}

fn fill(vault: &Vault, round: u8) {
    let disk = vault.device("disk").unwrap();
    for block in 0..BLOCKS {
        disk.write(block * BLOCK as u64, &[round ^ block as u8 | 1; BLOCK]).unwrap();
    }
}

fn clean(vault: &Vault) {
    vault.clean(Cleaning { least_dead: 0.125, most: u64::MAX }).unwrap();
}

fn copied(store: &Memory, manifest: &Manifest) -> Arc<Memory> {
    let there = Memory::new();
    for file in &manifest.files {
        there.put(&file.name, store.bytes(&file.name).unwrap()[..file.length as usize].to_vec());
    }
    Arc::new(there)
}

fn import(there: &Arc<Memory>, manifest: &Manifest) -> Result<(), Error> {
    let there: Arc<dyn Store> = there.clone();
    Vault::import(&there, &Keyring::new(2, [8; 32]).with(1, [7; 32]), manifest)
}

#[test]
fn the_cleaner_leaves_alone_what_is_copied_and_has_it_afterwards() {
    let (store, vault) = made();
    fill(&vault, 1);
    let generation = vault.commit("to go").unwrap();
    let (mut told, mut total) = (0, 0);
    let mut progress = |done, all| (told, total) = (done, all);
    let export = vault.export(generation.number, |_, _| None, &mut progress).unwrap();
    let second = vault.export(generation.number, |_, _| Some([0; 32]), &mut |_, _| {}).unwrap();
    assert!(told == total && total == export.manifest().files.iter().map(|file| file.length).sum::<u64>());
    assert!(second.manifest().files.iter().all(|file| file.digest == [0; 32]), "known digests are not computed again");
    // Nothing of it is needed any more, but for the copying.
    vault.drop_generation(generation.number).unwrap();
    fill(&vault, 2);
    vault.checkpoint().unwrap();
    drop(second);
    clean(&vault);
    let manifest = export.manifest().clone();
    manifest.files.iter().for_each(|file| verify(&*store, file).unwrap());
    let there = copied(&store, &manifest);
    import(&there, &manifest).unwrap();
    drop(export);
    clean(&vault);
    let gone = manifest.files.iter().filter(|file| store.bytes(&file.name).is_none()).count();
    assert!(gone * 2 > manifest.files.len(), "{gone} of {} files were removed", manifest.files.len());
    let again = Options { replace_anchor: true, ..options() };
    let ring = Keyring::new(2, [8; 32]).with(1, [7; 32]);
    let other = Vault::open(there, ring, Arc::new(MemoryAnchor::default()), again).unwrap();
    assert!(other.check(&mut |_, _| {}).unwrap().is_sound());
    let mut first = [0; 2];
    other.device("disk").unwrap().read(0, &mut first).unwrap();
    assert_eq!(first, [1, 1]);
}

#[test]
fn a_copy_that_lacks_something_or_a_record_of_something_else_becomes_no_vault() {
    let (store, vault) = made();
    fill(&vault, 1);
    vault.commit("before").unwrap();
    fill(&vault, 2);
    let generation = vault.commit("to go").unwrap();
    let manifest = vault.manifest(generation.number, |_, _| None).unwrap();
    let whole = copied(&store, &manifest);
    let refused = |record: &Manifest, why: &str| {
        let there = Arc::new(whole.kill());
        let before = there.list().unwrap().len();
        assert!(import(&there, record).is_err(), "{why}");
        assert!(there.list().unwrap().len() == before, "{why}: something was written");
    };
    for nth in 0..manifest.files.len() {
        let mut record = manifest.clone();
        record.files.remove(nth);
        refused(&record, "a file is not named");
        let mut record = manifest.clone();
        record.files[nth].length -= 1;
        refused(&record, "a file is named too short");
        let there = copied(&store, &manifest);
        let mut bytes = there.bytes(&manifest.files[nth].name).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        there.put(&manifest.files[nth].name, bytes);
        assert!(matches!(verify(&*there, &manifest.files[nth]), Err(Error::Damaged(_))));
        there.put(&manifest.files[nth].name, vec![0; 9]);
        assert!(matches!(verify(&*there, &manifest.files[nth]), Err(Error::Damaged(_))));
    }
    let change = |change: fn(&mut Manifest)| {
        let mut record = manifest.clone();
        change(&mut record);
        record
    };
    refused(&change(|it| it.generation -= 1), "another generation");
    refused(&change(|it| it.vault[0] ^= 1), "another vault");
    refused(&change(|it| it.root += 1), "no root");
    refused(&change(|it| it.root -= 1), "no root");
    refused(&change(|it| it.root = u64::MAX), "no address");
    refused(&change(|it| it.root = 0), "no address");
    refused(&change(|it| it.pieces = 0), "no pieces");
    refused(&change(|it| it.pieces = u32::MAX), "too many pieces");
    import(&Arc::new(whole.kill()), &manifest).unwrap();
}

#[test]
fn the_first_holders_key_opens_nothing_that_the_second_wrote() {
    let (store, vault) = made();
    fill(&vault, 1);
    let generation = vault.commit("to go").unwrap();
    let manifest = vault.manifest(generation.number, |_, _| None).unwrap();
    assert_eq!(manifest.epoch, 1);
    let there = copied(&store, &manifest);
    import(&there, &manifest).unwrap();
    let both = Keyring::new(2, [8; 32]).with(1, [7; 32]);
    let again = Options { replace_anchor: true, ..options() };
    let other = Vault::open(there.clone(), both.clone(), Arc::new(MemoryAnchor::default()), again.clone()).unwrap();
    other.set_keyring(both.clone()).unwrap();
    fill(&other, 5);
    other.close().unwrap();
    let salvage = |ring: Keyring| {
        let options = Options { salvage: true, ..again.clone() };
        Vault::open(there.clone(), ring, Arc::new(MemoryAnchor::default()), options)
    };
    assert!(matches!(salvage(ring()), Err(Error::NoKey(2))));
    // Passed off as the newer key, it finds at most what it could read before.
    for key in [[7; 32], [9; 32]] {
        if let Ok(vault) = salvage(Keyring::new(2, key).with(1, [7; 32])) {
            let mut block = vec![0; BLOCK];
            for nth in 0..BLOCKS {
                vault.device("disk").unwrap().read(nth << 12, &mut block).unwrap();
                assert!(block == [1 ^ nth as u8 | 1; BLOCK]);
            }
        }
    }
    // Segment by segment: no header of a new one verifies under the old key, whatever epoch it is passed for.
    let new = there.list().unwrap().into_iter().filter(|name| name.starts_with("s-"));
    let new: Vec<_> = new.filter(|name| !manifest.files.iter().any(|file| file.name == *name)).collect();
    assert!(new.len() > 4);
    for name in new {
        let bytes = there.bytes(&name).unwrap();
        let epoch = u32::from_le_bytes(bytes[40..44].try_into().unwrap());
        assert_eq!(epoch, 2, "{name} was written under the old epoch");
        let context = "twofold 2026-11 vault header key";
        let key = |secret: [u8; 32]| blake3::derive_key(context, &[&secret[..], &manifest.vault].concat());
        let mac = |secret| *blake3::keyed_hash(&key(secret), &bytes[..224]).as_bytes() == bytes[224..256];
        assert!(mac([8; 32]) && !mac([7; 32]));
    }
    let vault = Vault::open(there, both, Arc::new(MemoryAnchor::default()), again).unwrap();
    assert!(vault.check(&mut |_, _| {}).unwrap().is_sound());
}
