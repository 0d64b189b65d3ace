//! A vault of every released version of the format stays in the tree, and always opens: to be read, to be turned back to
//! each of its generations, and to be written on. tests/unit/test_vault_reader.py reads the same ones without this code.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use twofold_vault::memory::Memory;
use twofold_vault::{BLOCK, Cleaning, Device, FileAnchor, Keyring, Options, RangeKind, Vault};

/// The lines of `expected` that begin with a word, their other words.
fn lines(folder: &Path, word: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(folder.join("expected")).unwrap();
    let split = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    text.lines().map(split).filter(|words| words[0] == word).map(|words| words[1..].to_vec()).collect()
}

fn ring(folder: &Path) -> Keyring {
    let keys = lines(folder, "epoch").into_iter().map(|words| {
        let byte = |nth: usize| u8::from_str_radix(&words[1][2 * nth..2 * nth + 2], 16).unwrap();
        (words[0].parse::<u32>().unwrap(), std::array::from_fn(byte))
    });
    let mut keys: Vec<(u32, [u8; 32])> = keys.collect();
    let (newest, key) = keys.pop().unwrap();
    keys.into_iter().fold(Keyring::new(newest, key), |ring, (epoch, key)| ring.with(epoch, key))
}

fn digest<'a>(blocks: impl Iterator<Item = (u64, &'a [u8])>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (number, block) in blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0)) {
        hasher.update(&number.to_le_bytes()).update(block);
    }
    hasher.finalize().to_hex().to_string()
}

fn content(disk: &Device) -> String {
    let mut hold = Vec::new();
    for range in disk.status(0, disk.size(), usize::MAX).unwrap() {
        if range.kind == RangeKind::Data {
            let mut data = vec![0; range.length as usize];
            disk.read(range.offset, &mut data).unwrap();
            hold.push((range.offset / BLOCK as u64, data));
        }
    }
    digest(hold.iter().flat_map(|(first, data)| (*first..).zip(data.chunks_exact(BLOCK))))
}

fn holds(vault: &Vault, folder: &Path, when: &str) {
    for words in lines(folder, "content").iter().filter(|words| words[0] == when) {
        let disk = vault.device(&words[1]).unwrap();
        assert_eq!((disk.size().to_string(), content(&disk)), (words[2].clone(), words[3].clone()), "{words:?}");
    }
}

fn open(folder: &Path) -> (Arc<Memory>, Arc<FileAnchor>, Vault) {
    let store = Arc::new(Memory::new());
    for file in fs::read_dir(folder.join("vault")).unwrap().map(Result::unwrap) {
        store.put(file.file_name().to_str().unwrap(), fs::read(file.path()).unwrap());
    }
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(folder.file_name().unwrap());
    fs::copy(folder.join("anchor"), &place).unwrap();
    let anchor = Arc::new(FileAnchor::new(place));
    let vault = Vault::open(store.clone(), ring(folder), anchor.clone(), options()).unwrap();
    (store, anchor, vault)
}

fn options() -> Options {
    Options { background: false, reserve: 0, segment_slots: 16, ..Options::default() }
}

#[test]
fn a_vault_of_every_released_version_opens() {
    let versions = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/vaults");
    let folders: Vec<PathBuf> = fs::read_dir(versions).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(folders.iter().any(|folder| folder.ends_with("v1")));
    for folder in folders {
        let (store, anchor, vault) = open(&folder);
        assert_eq!(vault.head(), lines(&folder, "head")[0][0]);
        assert!(vault.check(&mut |_, _| {}).unwrap().is_sound());
        holds(&vault, &folder, "now");
        for words in lines(&folder, "stream").iter().filter(|words| words.concat().contains(&vault.head())) {
            let reader = vault.stream_reader(&words[0]).unwrap();
            assert_eq!(reader.info().size.to_string(), words[1]);
            assert_eq!(String::from_utf8_lossy(&reader.info().identity), words[3..].join(" "));
            let mut pages = Vec::new();
            let keep = |offset: u64, data: &[u8]| {
                pages.extend((offset / BLOCK as u64..).zip(data.chunks_exact(BLOCK).map(<[u8]>::to_vec)));
                Ok(())
            };
            reader.read(keep).unwrap();
            assert_eq!(digest(pages.iter().map(|(page, data)| (*page, &data[..]))), words[2]);
            vault.consume(&words[0]).unwrap();
        }
        let kept: Vec<String> =
            vault.generations().iter().map(|kept| format!("{} {}", kept.number, kept.note)).collect();
        assert_eq!(kept, lines(&folder, "generation").iter().map(|words| words.join(" ")).collect::<Vec<_>>());
        for kept in vault.generations() {
            vault.revert(kept.number).unwrap();
            holds(&vault, &folder, &kept.number.to_string());
            let disk = vault.device("disk").unwrap();
            disk.write(0, &[9; BLOCK]).unwrap();
            vault.clean(Cleaning { least_dead: 0.125, most: u64::MAX }).unwrap();
            vault.revert(kept.number).unwrap();
            holds(&vault, &folder, &kept.number.to_string());
        }
        let head = vault.head();
        vault.close().unwrap();
        assert_eq!(Vault::open(store, ring(&folder), anchor, options()).unwrap().head(), head);
    }
}
