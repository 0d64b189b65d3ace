//! Packs: live slots of many segments in one file, sealed as they were (docs/vault-format.md, *The cleaner and packs*).

use crate::Error;
use crate::bytes::{Reader, Writer};
use crate::keys::{Keyring, Salt, VaultId};
use crate::slot::{SLOT, SLOTS};
use crate::store::{Medium, read_exact};
use crate::superblock::VERSION;

const MAGIC: &[u8; 8] = b"TFPACK01";
const HEADER: usize = 64;
const BITMAP: usize = SLOTS as usize / 8;
const RECORD: usize = 64 + BITMAP;
const MAC: usize = 32;
/// The most segments in one pack.
pub(crate) const MOST: usize = 1024;

pub(crate) fn name(number: u64) -> String {
    format!("p-{number:016x}")
}

/// Which slots are kept, and how many lie before each.
#[derive(Clone)]
pub(crate) struct Kept {
    bits: Vec<u64>,
    before: Vec<u16>,
}

impl Kept {
    pub fn new(bits: Vec<u64>) -> Self {
        let mut count = 0;
        let before = bits
            .iter()
            .map(|word| {
                let here = count;
                count += word.count_ones() as u16;
                here
            })
            .collect();
        Self { bits, before }
    }

    pub fn none() -> Vec<u64> {
        vec![0; BITMAP / 8]
    }

    /// The slot's place among those kept.
    pub fn rank(&self, index: u32) -> Option<u32> {
        let (word, bit) = (index as usize / 64, index % 64);
        let bits = *self.bits.get(word)?;
        let below = (bits & ((1 << bit) - 1)).count_ones();
        (bits >> bit & 1 == 1).then(|| u32::from(self.before[word]) + below)
    }

    pub fn count(&self) -> u32 {
        self.bits.iter().map(|word| word.count_ones()).sum()
    }

    pub fn indexes(&self) -> impl Iterator<Item = u32> + '_ {
        (0..SLOTS).filter(|index| self.bits[*index as usize / 64] >> (index % 64) & 1 == 1)
    }
}

#[derive(Clone)]
pub(crate) struct PackRow {
    pub segment: u64,
    pub epoch: u32,
    pub salt: Salt,
    pub offset: u64,
    pub kept: Kept,
}

/// Where the first slot of a pack of `segments` lies.
pub(crate) fn start(segments: usize) -> u64 {
    (HEADER + segments * RECORD + MAC) as u64
}

/// Header, records and MAC. The rows' offsets must be set.
pub(crate) fn encode(
    number: u64,
    rows: &[PackRow],
    length: u64,
    ring: &Keyring,
    id: &VaultId,
) -> Result<Vec<u8>, Error> {
    let mut out = Writer(Vec::with_capacity(start(rows.len()) as usize));
    out.bytes(MAGIC).u32(VERSION).u32(ring.current()).bytes(id).u64(number).u32(rows.len() as u32).u32(0);
    out.u64(length).pad(HEADER);
    for row in rows {
        out.u64(row.segment).u32(row.epoch).u32(row.kept.count()).bytes(&row.salt).u64(row.offset).u64(0);
        row.kept.bits.iter().for_each(|word| {
            out.u64(*word);
        });
    }
    let mac = blake3::keyed_hash(&*ring.header(ring.current(), id)?, &out.0);
    Ok(out.bytes(mac.as_bytes()).0.clone())
}

/// The rows of pack `number`, verified; where the table at the pack's beginning is damaged, from the copy at its end.
pub(crate) fn read(file: &dyn Medium, number: u64, ring: &Keyring, id: &VaultId) -> Result<Vec<PackRow>, Error> {
    let first = read_at(file, 0, number, ring, id);
    // A flipped bit in the epoch asks for a key that nobody has.
    let Err(Error::Damaged(_) | Error::NoKey(_)) = first else { return first };
    match copy_at(file) {
        Some(at) => read_at(file, at, number, ring, id).or(first),
        None => first,
    }
}

/// Whether the table at the pack's beginning is as it was written.
pub(crate) fn begins_well(file: &dyn Medium, number: u64, ring: &Keyring, id: &VaultId) -> Result<bool, Error> {
    match read_at(file, 0, number, ring, id) {
        Err(Error::Damaged(_) | Error::NoKey(_)) => Ok(false),
        other => other.map(|_| true),
    }
}

/// Where the copy of the table lies. How long it is can't be asked of the table itself.
fn copy_at(file: &dyn Medium) -> Option<u64> {
    let length = file.len().ok()?;
    let (least, most) = (start(1), start(MOST).min(length));
    let mut end = vec![0; most as usize];
    read_exact(file, &mut end, length - most).ok()?;
    let begins = |size: &u64| {
        let copy = &end[(most - size) as usize..];
        let counts =
            copy.get(40..44).map(|count| start(u32::from_le_bytes([count[0], count[1], count[2], count[3]]) as usize));
        copy.starts_with(MAGIC) && counts == Some(*size)
    };
    (least..=most).step_by(RECORD).find(begins).map(|size| length - size)
}

fn read_at(file: &dyn Medium, at: u64, number: u64, ring: &Keyring, id: &VaultId) -> Result<Vec<PackRow>, Error> {
    let wrong = |why: &str| Error::damaged(name(number), why);
    let failed = |why: std::io::Error| match why.kind() {
        std::io::ErrorKind::UnexpectedEof => wrong("the pack is cut short"),
        _ => Error::io(name(number), why),
    };
    let mut bytes = vec![0; HEADER];
    read_exact(file, &mut bytes, at).map_err(failed)?;
    let parse = |bytes: &[u8]| {
        let mut from = Reader(bytes);
        let sound = from.array()? == *MAGIC && from.u32()? == VERSION;
        let epoch = from.u32()?;
        let sound = sound && from.array()? == *id && from.u64()? == number;
        let count = from.u32()? as usize;
        (sound && (1..=MOST).contains(&count)).then_some((epoch, count))
    };
    let (epoch, count) = parse(&bytes).ok_or_else(|| wrong("it does not begin as this pack does"))?;
    let start = start(count) as usize;
    bytes.resize(start, 0);
    read_exact(file, &mut bytes[HEADER..], at + HEADER as u64).map_err(failed)?;
    let mac = blake3::keyed_hash(&*ring.header(epoch, id)?, &bytes[..start - MAC]);
    let stated: [u8; MAC] = bytes[start - MAC..].try_into().unwrap_or_default();
    if mac != stated {
        return Err(wrong("the pack's header is not as it was written"));
    }
    bytes[HEADER..start - MAC]
        .chunks_exact(RECORD)
        .map(|record| {
            let mut from = Reader(record);
            let (segment, epoch, _, salt) = (from.u64()?, from.u32()?, from.u32()?, from.array()?);
            let offset = from.u64()?;
            from.u64()?;
            let bits = from.0.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
            Some(PackRow { segment, epoch, salt, offset, kept: Kept::new(bits.collect()) })
        })
        .collect::<Option<_>>()
        .ok_or_else(|| wrong("a record is malformed"))
}

impl PackRow {
    /// Where a slot lies in the pack's file; None if it was not kept.
    pub fn place(&self, index: u32) -> Option<u64> {
        self.offset.checked_add(u64::from(self.kept.rank(index)?) * SLOT as u64)
    }
}
