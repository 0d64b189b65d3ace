//! The header of a segment's file (docs/vault-format.md, *Segments*).

use crate::Error;
use crate::bytes::{Reader, Writer};
use crate::keys::{Keyring, Salt, VaultId};
use crate::slot::{Origin, SLOT, SLOTS};
use crate::store::{Medium, read_exact};
use crate::superblock::VERSION;

/// Bytes before the first slot.
pub(crate) const START: usize = 256;
const MAGIC: &[u8; 8] = b"TFSEGMT1";
const MACED: usize = 224;
/// The predecessor was durable up to its end when the header was written.
pub(crate) const AFTER_DURABLE: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub number: u64,
    pub epoch: u32,
    pub flags: u32,
    pub salt: Salt,
    pub before: u64,
    pub before_end: u32,
    pub before_digest: [u8; 16],
}

pub(crate) fn name(number: u64) -> String {
    format!("s-{number:016x}")
}

/// The number in a segment's name, or a pack's with `p`.
pub(crate) fn number(name: &str, letter: char) -> Option<u64> {
    let digits = name.strip_prefix(letter)?.strip_prefix('-')?;
    let sound = digits.len() == 16 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    u64::from_str_radix(digits, 16).ok().filter(|number| sound && (1..=Origin::MAX_SEGMENT).contains(number))
}

/// Where a slot begins in a file of its own.
pub(crate) fn offset(index: u32) -> u64 {
    START as u64 + u64::from(index) * SLOT as u64
}

impl SegmentHeader {
    pub fn encode(&self, ring: &Keyring, id: &VaultId) -> Result<Vec<u8>, Error> {
        let mut out = Writer::default();
        out.bytes(MAGIC).u32(VERSION).u32(START as u32).bytes(id).u64(self.number).u32(self.epoch).u32(self.flags);
        out.bytes(&self.salt).u64(self.before).u32(self.before_end).u32(0).bytes(&self.before_digest).u64(0).pad(MACED);
        let mac = blake3::keyed_hash(&*ring.header(self.epoch, id)?, &out.0);
        Ok(out.bytes(mac.as_bytes()).0.clone())
    }

    /// None if it is not the header of a segment of this vault. [`Error::NoKey`] if its epoch is unknown.
    fn decode(untrusted: &[u8], ring: &Keyring, id: &VaultId) -> Result<Option<Self>, Error> {
        let parse = || {
            let mut from = Reader(untrusted);
            if from.array()? != *MAGIC || from.u32()? != VERSION || from.u32()? != START as u32 || from.array()? != *id
            {
                return None;
            }
            let (number, epoch, flags, salt) = (from.u64()?, from.u32()?, from.u32()?, from.array()?);
            let (before, before_end) = (from.u64()?, from.u32()?);
            from.u32()?;
            let (before_digest, features) = (from.array()?, from.u64()?);
            let sound = number > 0 && number <= Origin::MAX_SEGMENT && before < number && before_end <= SLOTS;
            (sound && features == 0).then_some(Self { number, epoch, flags, salt, before, before_end, before_digest })
        };
        let Some(header) = parse() else { return Ok(None) };
        let mac = blake3::keyed_hash(&*ring.header(header.epoch, id)?, &untrusted[..MACED]);
        // blake3::Hash compares in constant time.
        let stated: [u8; 32] = untrusted[MACED..START].try_into().unwrap_or_default();
        Ok((mac == stated).then_some(header))
    }

    /// As [`SegmentHeader::decode`], from the file of segment `number`.
    pub fn read(file: &dyn Medium, number: u64, ring: &Keyring, id: &VaultId) -> Result<Option<Self>, Error> {
        let mut bytes = [0; START];
        match read_exact(file, &mut bytes, 0) {
            Err(why) if why.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other.map_err(|why| Error::io(name(number), why))?,
        }
        Ok(Self::decode(&bytes, ring, id)?.filter(|header| header.number == number))
    }
}
