//! Slots: the unit of sealing, and the addresses that name them (docs/vault-format.md, *Slots*).

use ring::aead::{Aad, LessSafeKey, Nonce, Tag};

use crate::bytes::{Reader, Writer};
use crate::keys::VaultId;

/// Bytes of a device in one slot.
pub const BLOCK: usize = 4096;
/// A slot as it lies in a file.
pub const SLOT: usize = TAG + HEADER + BLOCK;
/// Slots of a full segment.
pub const SLOTS: u32 = 1 << SLOT_BITS;
pub(crate) const TAG: usize = 16;
pub(crate) const HEADER: usize = 16;
const SLOT_BITS: u32 = 14;

/// Where a slot was first written: segment number and index. 0 is nowhere. Grows along the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Origin(pub u64);

impl Origin {
    pub const NONE: Self = Self(0);
    /// The highest segment number there may be.
    pub const MAX_SEGMENT: u64 = (1 << 48) - 1;

    pub fn new(segment: u64, index: u32) -> Self {
        Self(segment << SLOT_BITS | u64::from(index))
    }

    pub fn segment(self) -> u64 {
        self.0 >> SLOT_BITS
    }

    pub fn index(self) -> u32 {
        (self.0 & u64::from(SLOTS - 1)) as u32
    }

    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// From bytes of a sealed slot; None if it has bits that no address has.
    pub fn checked(value: u64) -> Option<Self> {
        (value >> 62 == 0).then_some(Self(value))
    }
}

/// What a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Data = 1,
    List = 2,
    Map = 3,
    Dir = 4,
    Root = 5,
    Delta = 6,
    Stream = 7,
    Index = 8,
    Mark = 9,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        use Kind::{Data, Delta, Dir, Index, List, Map, Mark, Root, Stream};
        [Data, List, Map, Dir, Root, Delta, Stream, Index, Mark].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The device number of streams' slots.
pub(crate) const NO_DEVICE: u16 = 0xffff;
/// The slot ends its batch.
pub(crate) const LAST: u8 = 1;
/// All earlier segments were durable when the slot was sealed.
pub(crate) const EARLIER: u8 = 2;

/// The sealed header of a slot. `kind` is None for one that this version does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: Option<Kind>,
    pub flags: u8,
    pub device: u16,
    pub durable: u32,
    pub block: u64,
}

impl Header {
    pub fn new(kind: Kind, device: u16, block: u64) -> Self {
        Self { kind: Some(kind), flags: 0, device, durable: 0, block }
    }

    pub fn is(&self, kind: Kind, device: u16, block: u64) -> bool {
        self.kind == Some(kind) && self.device == device && self.block == block
    }

    fn encode(&self, out: &mut [u8]) {
        out[0] = self.kind.map_or(0, |kind| kind as u8);
        out[1] = self.flags;
        out[2..4].copy_from_slice(&self.device.to_le_bytes());
        out[4..8].copy_from_slice(&self.durable.to_le_bytes());
        out[8..16].copy_from_slice(&self.block.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let [kind, flags] = from.array()?;
        Some(Self { kind: Kind::of(kind), flags, device: from.u16()?, durable: from.u32()?, block: from.u64()? })
    }
}

fn nonce(index: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&index.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Seals a slot in place: `slot` is [`SLOT`] bytes with the payload at its end. The caller gives each index of a segment's key
/// out once.
pub(crate) fn seal(key: &LessSafeKey, id: &VaultId, index: u32, header: &Header, slot: &mut [u8]) {
    let (tag, body) = slot.split_at_mut(TAG);
    header.encode(&mut body[..HEADER]);
    match key.seal_in_place_separate_tag(nonce(index), Aad::from(id), body) {
        Ok(made) => tag.copy_from_slice(made.as_ref()),
        // Only an input of many gigabytes is refused. Nothing may leave unsealed.
        Err(_) => slot.fill(0),
    }
}

/// Opens a slot in place; its payload is then the last [`BLOCK`] bytes. None if it is not the slot of this key and index.
pub(crate) fn open(key: &LessSafeKey, id: &VaultId, index: u32, untrusted_slot: &mut [u8]) -> Option<Header> {
    let (tag, body) = untrusted_slot.split_at_mut(TAG);
    let tag = Tag::try_from(&*tag).ok()?;
    let body = key.open_in_place_separate_tag(nonce(index), Aad::from(id), tag, body, 0..).ok()?;
    Header::decode(&body[..HEADER])
}

/// The payload of an opened slot.
pub(crate) fn payload(slot: &[u8]) -> &[u8] {
    &slot[TAG + HEADER..]
}

/// A run of blocks in LIST, DELTA and INDEX slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub device: u16,
    pub zero: bool,
    pub count: u32,
    pub block: u64,
    pub origin: Origin,
}

/// How many records a slot holds.
pub(crate) const RECORDS: usize = (BLOCK - 16) / 24;

impl Record {
    /// The map entry of the run's block number `nth`.
    pub fn entry(&self, nth: u64) -> u64 {
        if self.zero { self.origin.0 | ZERO } else { self.origin.0 + nth }
    }

    /// Takes the record that follows in, if both are one run.
    pub fn join(&mut self, next: &Self) -> bool {
        let follows = self.device == next.device
            && self.zero == next.zero
            && self.block + u64::from(self.count) == next.block
            && self.count.checked_add(next.count).is_some()
            && if self.zero {
                self.origin == next.origin
            } else {
                self.origin.segment() == next.origin.segment() && self.origin.0 + u64::from(self.count) == next.origin.0
            };
        if follows {
            self.count += next.count;
        }
        follows
    }

    /// At most [`RECORDS`] into a payload.
    pub fn encode(records: &[Self]) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(BLOCK));
        out.u32(records.len() as u32).pad(16);
        for record in records {
            out.u16(record.device).u16(u16::from(record.zero)).u32(record.count).u64(record.block).u64(record.origin.0);
        }
        out.pad(BLOCK);
        out.0
    }

    /// From a payload. None if it is malformed. `place` is the address of the slot itself.
    pub fn decode(payload: &[u8], place: Origin) -> Option<Vec<Self>> {
        let mut from = Reader(payload);
        let count = from.u32()? as usize;
        from.bytes(12)?;
        let mut records = Vec::with_capacity(from.fits(count, 24)?);
        for _ in 0..count {
            let (device, zero, count) = (from.u16()?, from.u16()?, from.u32()?);
            let (block, origin) = (from.u64()?, Origin::checked(from.u64()?)?);
            let origin = if origin.is_none() { place } else { origin };
            let sound = zero <= 1 && count > 0 && block.checked_add(count.into())? < 1 << 52;
            // A run's slots lie in one segment.
            if !sound || zero == 0 && origin.index() + (count - 1).min(SLOTS) >= SLOTS {
                return None;
            }
            records.push(Self { device, zero: zero == 1, count, block, origin });
        }
        Some(records)
    }
}

/// In a map entry: the block is zeroes since the address.
pub(crate) const ZERO: u64 = 1 << 63;
/// In a directory entry: all blocks of the leaf have the entry that remains without it.
pub(crate) const UNIFORM: u64 = 1 << 62;
