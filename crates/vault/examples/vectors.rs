//! Makes a vault with something of everything in it, and says what it must hold, for readers that are not this code:
//! `vectors make FOLDER` makes `FOLDER/vault`, `FOLDER/anchor` and `FOLDER/expected`; `vectors read FOLDER` opens it
//! read-only and prints what it finds, in the words of `expected`; `vectors write FOLDER` writes a little more and dies.
//!
//! Contents are the same each time, keys and salts of the vault are not. A content's digest is BLAKE3 over the blocks that
//! are not all zeroes, ascending: number (u64), bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use twofold_vault::{
    BLOCK, Cleaning, Device, DeviceSpec, Error, FileAnchor, Folder, Keyring, Options, RangeKind, Vault,
};

const EPOCHS: [[u8; 32]; 2] = [[0x11; 32], [0x22; 32]];
const DEVICES: [(&str, u64); 3] = [("disk", 8 << 20), ("vars", 128 << 10), ("big", 3 << 29)];
const PAGE: u64 = BLOCK as u64;

type Blocks = BTreeMap<u64, [u8; BLOCK]>;

fn digest(blocks: &Blocks) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for (number, block) in blocks.iter().filter(|(_, block)| block.iter().any(|byte| *byte != 0)) {
        hasher.update(&number.to_le_bytes()).update(block);
    }
    hasher.finalize()
}

/// What a device holds, as the vault says.
fn read(disk: &Device) -> Result<Blocks, Error> {
    let mut blocks = Blocks::new();
    let ranges = disk.status(0, disk.size(), usize::MAX)?;
    for range in ranges.iter().filter(|range| range.kind == RangeKind::Data) {
        for block in range.offset / PAGE..(range.offset + range.length) / PAGE {
            let mut data = [0; BLOCK];
            disk.read(block * PAGE, &mut data)?;
            blocks.insert(block, data);
        }
    }
    Ok(blocks)
}

/// The vault, beside what it should hold.
struct Pair {
    vault: Vault,
    model: BTreeMap<&'static str, Blocks>,
    rounds: u64,
    expected: String,
}

impl Pair {
    fn write(&mut self, name: &'static str, blocks: std::ops::Range<u64>) {
        self.rounds += 1;
        let mut data = Vec::new();
        for block in blocks.clone() {
            let mut content = [0; BLOCK];
            blake3::Hasher::new()
                .update(&[block, self.rounds].map(u64::to_le_bytes).concat())
                .finalize_xof()
                .fill(&mut content);
            data.extend_from_slice(&content);
            self.model.get_mut(name).unwrap().insert(block, content);
        }
        let disk = self.vault.device(name).unwrap();
        disk.write(blocks.start * PAGE, &data).unwrap();
        disk.push().unwrap();
    }

    fn empty(&mut self, name: &'static str, blocks: std::ops::Range<u64>, trim: bool) {
        let (disk, offset, length) =
            (self.vault.device(name).unwrap(), blocks.start * PAGE, (blocks.end - blocks.start) * PAGE);
        if trim {
            disk.trim(offset, length).unwrap()
        } else {
            disk.zero(offset, length).unwrap()
        }
        disk.push().unwrap();
        self.model.get_mut(name).unwrap().retain(|block, _| !blocks.contains(block));
    }

    fn say(&mut self, when: &str) {
        for (name, size) in DEVICES {
            let blocks = &self.model[name];
            assert_eq!(&read(&self.vault.device(name).unwrap()).unwrap(), blocks, "{name}");
            writeln!(self.expected, "content {when} {name} {size} {}", digest(blocks)).unwrap();
        }
    }

    fn commit(&mut self, note: &str) -> BTreeMap<&'static str, Blocks> {
        let made = self.vault.commit(note).unwrap();
        writeln!(self.expected, "generation {} {note}", made.number).unwrap();
        self.say(&made.number.to_string());
        self.model.clone()
    }

    fn stream(&mut self, name: &str, pages: &[(u64, u64)], size: u64) {
        let mut blocks = Blocks::new();
        let identity = format!("{name} at {}", self.vault.head());
        let mut writer = self.vault.stream_writer(name, identity.as_bytes()).unwrap();
        for (first, count) in pages {
            for page in *first..first + count {
                let content = [page as u8 + 1; BLOCK];
                writer.write(page * PAGE, &content).unwrap();
                blocks.insert(page, content);
            }
        }
        writer.finish(size).unwrap();
        writeln!(self.expected, "stream {name} {size} {} {identity}", digest(&blocks)).unwrap();
    }
}

fn options() -> Options {
    Options { background: false, reserve: 0, segment_slots: 16, replace_anchor: true, ..Options::default() }
}

fn make(folder: &Path) -> ! {
    let (place, anchor) = (folder.join("vault"), Arc::new(FileAnchor::new(folder.join("anchor"))));
    fs::create_dir_all(&place).unwrap();
    let store = Arc::new(Folder::new(&place));
    let specs = DEVICES.map(|(name, size)| DeviceSpec { name: name.into(), size });
    let ring = Keyring::new(1, EPOCHS[0]);
    Vault::create(store.clone(), ring.clone(), &specs).unwrap();
    let vault = Vault::open(store, ring, anchor, options()).unwrap();
    let model = DEVICES.map(|(name, _)| (name, Blocks::new())).into();
    let mut pair = Pair { vault, model, rounds: 0, expected: String::new() };
    for (nth, key) in EPOCHS.iter().enumerate() {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(pair.expected, "epoch {} {hex}", nth + 1).unwrap();
    }

    pair.write("disk", 0..6);
    pair.write("disk", 512..515);
    pair.write("vars", 30..32);
    pair.write("big", 300_000..300_002);
    pair.write("big", 3..4);
    // Odd bytes: read, changed, written.
    pair.vault.device("vars").unwrap().write(30 * PAGE + 100, b"odd").unwrap();
    pair.model.get_mut("vars").unwrap().get_mut(&30).unwrap()[100..103].copy_from_slice(b"odd");
    pair.empty("disk", 4..5, true);
    let first = pair.commit("first");
    // Most of the first segments dies; a leaf is one entry; a batch lies in two segments.
    pair.write("disk", 1..4);
    pair.write("disk", 1020..1030);
    pair.empty("disk", 512..1024, false);
    pair.vault.checkpoint().unwrap();
    pair.write("disk", 5..8);
    pair.stream("frame", &[(0, 1), (7, 2)], 9 * PAGE);
    let second = pair.vault.commit("dropped").unwrap();
    pair.vault.drop_generation(second.number).unwrap();

    pair.vault.set_keyring(Keyring::new(2, EPOCHS[1]).with(1, EPOCHS[0])).unwrap();
    pair.write("disk", 1..3);
    pair.write("vars", 0..1);
    pair.commit("third, in epoch two");
    pair.model = first;
    pair.vault.revert(1).unwrap();
    pair.write("big", 300_001..300_003);
    pair.write("disk", 1020..1024);
    let done = pair.vault.clean(Cleaning { least_dead: 0.125, most: u64::MAX }).unwrap();
    assert!(!done.recipes.is_empty());
    // As if the power went before the heads were written: the root of the last stream is found by replay.
    pair.vault.flush().unwrap();
    let heads = ["head.a", "head.b"].map(|name| (place.join(name), fs::read(place.join(name)).unwrap()));
    pair.write("disk", 2..4);
    pair.empty("vars", 31..32, true);
    pair.vault.flush().unwrap();
    pair.write("disk", 2000..2017);
    pair.vault.flush().unwrap();
    pair.stream("memory", &[(0, 3), (5, 1)], 7 * PAGE + 100);
    pair.say("now");
    writeln!(pair.expected, "head {}", pair.vault.head()).unwrap();
    fs::write(folder.join("expected"), &pair.expected).unwrap();
    for (path, bytes) in heads {
        fs::write(path, bytes).unwrap();
    }
    std::process::exit(0);
}

fn find(folder: &Path) -> Result<String, Error> {
    let (store, anchor) = (Folder::new(folder.join("vault")), FileAnchor::new(folder.join("anchor")));
    let ring = Keyring::new(2, EPOCHS[1]).with(1, EPOCHS[0]);
    let options = Options { read_only: true, replace_anchor: false, ..options() };
    let vault = Vault::open(Arc::new(store), ring, Arc::new(anchor), options)?;
    let mut said = format!("head {}\n", vault.head());
    for device in vault.devices() {
        let blocks = read(&*vault.device(&device.name)?)?;
        writeln!(said, "content now {} {} {}", device.name, device.size, digest(&blocks)).unwrap();
    }
    for kept in vault.generations() {
        writeln!(said, "generation {} {}", kept.number, kept.note).unwrap();
    }
    for info in vault.streams() {
        let identity = String::from_utf8_lossy(&info.identity);
        let mut blocks = Blocks::new();
        match vault.stream_reader(&info.name) {
            Err(Error::Outdated(_)) => continue,
            reader => reader?.read(|offset, data| {
                for (nth, page) in (offset / PAGE..).zip(data.chunks_exact(BLOCK)) {
                    blocks.insert(nth, page.try_into().unwrap());
                }
                Ok(())
            })?,
        }
        writeln!(said, "stream {} {} {} {identity}", info.name, info.size, digest(&blocks)).unwrap();
    }
    Ok(said)
}

fn write(folder: &Path) -> Result<String, Error> {
    let (store, anchor) = (Folder::new(folder.join("vault")), FileAnchor::new(folder.join("anchor")));
    let ring = Keyring::new(2, EPOCHS[1]).with(1, EPOCHS[0]);
    let vault = Vault::open(Arc::new(store), ring, Arc::new(anchor), options())?;
    let disk = vault.device("disk")?;
    let said = blake3::hash(vault.head().as_bytes());
    for block in 10..13 {
        disk.write(block * PAGE, &said.as_bytes().repeat(BLOCK / 32))?;
    }
    disk.flush()?;
    std::process::exit(0)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [verb, folder] = &arguments[..] else { panic!("vectors make|read|write FOLDER") };
    let folder = Path::new(folder);
    let done = match verb.as_str() {
        "make" => make(folder),
        "write" => write(folder),
        _ => find(folder),
    };
    match done {
        Ok(said) => print!("{said}"),
        Err(error) => {
            println!("refused {error}");
            std::process::exit(1);
        }
    }
}
