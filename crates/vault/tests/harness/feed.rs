//! What reads a vault's files is fed with bytes that nobody should have written: also such as are sealed and summed rightly, so
//! that they get past the seals. Nothing may panic, hang or take all memory; what comes back does not matter here.

use std::sync::{Arc, OnceLock};

use twofold_vault::{BLOCK, Cleaning, MemoryAnchor, Options, Vault};

use super::model::{BLOCKS, NAMES, Op, key, made, open, options, ring};
use super::paper::{self, Keys, SLOT, START};
use super::tape::{Image, Tape};

struct Sound {
    image: Image,
    keys: Keys,
    /// Slots that hold more than data: file and index.
    slots: Vec<(String, u32)>,
}

const WORK: [Op; 17] = [
    Op::Write { device: 0, block: 0, count: 30, seed: 1 },
    Op::Write { device: 1, block: 2, count: 9, seed: 2 },
    Op::Commit,
    Op::Write { device: 0, block: 10, count: 12, seed: 3 },
    Op::Write { device: 0, block: 510, count: 8, seed: 4 },
    Op::Checkpoint,
    Op::Write { device: 0, block: 10, count: 16, seed: 5 },
    Op::Zero { device: 1, block: 4, count: 2 },
    Op::Checkpoint,
    Op::Commit,
    Op::Drop(0),
    Op::Clean,
    Op::Write { device: 1, block: 4, count: 2, seed: 8 },
    Op::Commit,
    Op::Checkpoint,
    Op::Stream(6),
    Op::Zero { device: 0, block: 40, count: 2 },
];

fn sound() -> &'static Sound {
    static SOUND: OnceLock<Sound> = OnceLock::new();
    SOUND.get_or_init(|| {
        let (tape, mut history) = made();
        let mut vault = open(&tape, &history).unwrap();
        WORK.into_iter().for_each(|op| history.run(&tape, &mut vault, op).unwrap());
        vault.flush().unwrap();
        drop(vault);
        let image = tape.image();
        let keys = Keys { epoch: key(1), vault: image["vault"][40..56].try_into().unwrap() };
        let mut slots = Vec::new();
        for (name, file) in image.iter().filter(|(name, _)| name.starts_with("s-")) {
            for index in 0..((file.len() - START) / SLOT) as u32 {
                let kind = keys.open(file, index).map(|body| body[0]);
                if kind.is_some_and(|kind| kind != 1 && kind != 7) {
                    slots.push((name.clone(), index));
                }
            }
        }
        // LIST, MAP, DIR, ROOT, DELTA, INDEX.
        assert!(slots.len() > 10 && image.keys().any(|name| name.starts_with("p-")), "{}", slots.len());
        Sound { image, keys, slots }
    })
}

const ODD: [u64; 12] =
    [0, 1, 170, 171, 16384, 1 << 31, u32::MAX as u64, 1 << 52, (1 << 62) - 1, 1 << 62, 1 << 63, u64::MAX];

/// Four bytes make an edit: where, and a byte or an odd number of 2, 4 or 8 bytes.
fn edit(bytes: &mut [u8], how: &[u8]) {
    for one in how.chunks_exact(4) {
        let (at, value) = (usize::from(u16::from_le_bytes([one[0], one[1]])), one[3]);
        let odd = ODD[usize::from(value) % ODD.len()].to_le_bytes();
        let size = [1, 2, 4, 8][usize::from(one[2]) % 4];
        // Most of what matters lies in front.
        let at = if one[2] & 128 == 0 { at % 256 } else { at } / size * size % bytes.len();
        let size = size.min(bytes.len() - at);
        let odd = if size == 1 { [value; 8] } else { odd };
        bytes[at..at + size].copy_from_slice(&odd[..size]);
    }
}

/// Edits a file as `how` says, and opens the vault. Answers what was edited.
pub fn feed(how: &[u8]) -> &'static str {
    let (sound, [which, nth, how @ ..]) = (sound(), how) else { return "nothing" };
    let (keys, mut image) = (&sound.keys, sound.image.clone());
    let pick = |image: &Image, letter: &str| -> String {
        let names: Vec<&String> = image.keys().filter(|name| name.starts_with(letter)).collect();
        names[usize::from(*nth) % names.len()].clone()
    };
    let what = match which % 8 {
        0 => {
            let file = image.get_mut("vault").unwrap();
            edit(file, how);
            paper::sum_vault(file);
            "vault"
        }
        1 => {
            let file = image.get_mut(["head.a", "head.b"][usize::from(nth % 2)]).unwrap();
            if let Some(mut body) = keys.open_head(file) {
                edit(&mut body, how);
                keys.seal_head(file, &body);
            }
            "head"
        }
        2 => {
            let name = pick(&image, "s-");
            let file = image.get_mut(&name).unwrap();
            edit(&mut file[..START], how);
            keys.mac_segment(file);
            "segment"
        }
        3 => {
            let name = pick(&image, "p-");
            let file = image.get_mut(&name).unwrap();
            edit(file, how);
            keys.mac_pack(file);
            "pack"
        }
        // Anything, anywhere, unsealed.
        4 => {
            let name = image.keys().nth(usize::from(*nth) % image.len()).cloned().unwrap();
            edit(image.get_mut(&name).unwrap(), how);
            "raw"
        }
        _ => {
            let (name, index) = &sound.slots[usize::from(*nth) % sound.slots.len()];
            let file = image.get_mut(name).unwrap();
            let mut body = keys.open(file, *index).unwrap();
            edit(&mut body, how);
            keys.seal(file, *index, &body);
            "slot"
        }
    };
    use_all(&image);
    what
}

/// Calls everything that reads, and some of what writes.
fn use_all(image: &Image) {
    for salvage in [false, true] {
        let tape = Tape::new(image.clone(), None);
        let how = Options { replace_anchor: true, salvage, ..options() };
        let Ok(vault) = Vault::open(Arc::new(tape.clone()), ring(1), Arc::new(MemoryAnchor::default()), how) else {
            continue;
        };
        let _ = vault.check(&mut |_, _| {});
        let generations = vault.generations();
        for info in vault.devices() {
            let Ok(device) = vault.device(&info.name) else { continue };
            let size = info.size.min((BLOCKS[0] * BLOCK) as u64);
            let mut all = vec![0; size as usize];
            let _ = device.read(0, &mut all);
            let _ = device.status(0, size, usize::MAX);
            for generation in &generations {
                let _ = device.changed(generation.number, 0, size, usize::MAX);
            }
        }
        if let Ok(reader) = vault.stream_reader("memory") {
            let _ = reader.read(|_, _| Ok(()));
        }
        if let Ok(device) = vault.device(NAMES[0]) {
            let _ = device.write(0, &[1; BLOCK]);
        }
        let _ = vault.clean(Cleaning { least_dead: 0.2, most: u64::MAX });
        if let Some(generation) = generations.last() {
            let _ = vault.revert(generation.number);
        }
        let _ = vault.consume("memory");
        let _ = vault.close();
    }
}
