//! A root's content: everything that the vault is at one place of its log (docs/vault-format.md, *A root's content*).

use crate::bytes::{Reader, Writer};
use crate::keys::Salt;
use crate::slot::{BLOCK, Origin};
use crate::superblock::{Features, VERSION};

const MAGIC: &[u8; 8] = b"TFROOT01";
/// The end of the segment that a root lies in is not known to it.
pub(crate) const STILL_OPEN: u32 = u32::MAX;
const MUST: u16 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceRow {
    pub id: u16,
    pub read_only: bool,
    pub name: String,
    pub size: u64,
    pub pages: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentRow {
    pub number: u64,
    pub pack: u64,
    pub epoch: u32,
    pub slots: u32,
    pub live: u32,
    pub salt: Salt,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GenerationRow {
    pub number: u64,
    pub time: u64,
    pub root: Origin,
    pub pieces: u32,
    pub data_head: Origin,
    pub note: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamRow {
    pub name: String,
    pub identity: Vec<u8>,
    pub size: u64,
    pub pages: u64,
    pub data_head: Origin,
    pub digest: [u8; 16],
    pub index: Vec<Origin>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Root {
    pub counter: u64,
    pub time: u64,
    pub version: u32,
    pub features: Features,
    pub data_head: Origin,
    pub digest: [u8; 16],
    pub next_generation: u64,
    pub next_pack: u64,
    pub last_revert: Origin,
    pub before: Origin,
    pub devices: Vec<DeviceRow>,
    pub segments: Vec<SegmentRow>,
    pub deltas: Vec<Origin>,
    pub generations: Vec<GenerationRow>,
    pub streams: Vec<StreamRow>,
}

/// Slots that a root of `length` bytes takes.
pub(crate) fn pieces(length: usize) -> u32 {
    length.div_ceil(BLOCK) as u32
}

impl Root {
    pub fn encode(&self) -> Vec<u8> {
        let sections =
            [self.core(), self.devices(), self.segments(), self.deltas(), self.generations(), self.streams()];
        let length: usize = 16 + sections.iter().map(|section| 8 + section.0.len()).sum::<usize>();
        let mut out = Writer(Vec::with_capacity(length));
        out.bytes(MAGIC).u32(length as u32).u32(sections.len() as u32);
        for (nth, section) in sections.iter().enumerate() {
            out.u16(nth as u16 + 1).u16(MUST).u32(section.0.len() as u32).bytes(&section.0);
        }
        out.0
    }

    fn core(&self) -> Writer {
        let mut out = Writer::default();
        out.u64(self.counter).u64(self.time).u32(VERSION.max(self.version)).u32(0);
        out.u64(self.features.incompatible).u64(self.features.read_compatible).u64(self.features.compatible);
        out.u64(self.data_head.0).bytes(&self.digest).u64(self.next_generation).u64(self.next_pack);
        out.u64(self.last_revert.0).u64(self.before.0);
        out
    }

    fn devices(&self) -> Writer {
        let mut out = Writer::default();
        out.u32(self.devices.len() as u32);
        for row in &self.devices {
            out.u16(row.id).u16(u16::from(row.read_only)).u16(row.name.len() as u16).u16(0);
            out.u64(row.size).u32(row.pages.len() as u32).bytes(row.name.as_bytes());
            row.pages.iter().for_each(|page| {
                out.u64(*page);
            });
        }
        out
    }

    fn segments(&self) -> Writer {
        let mut out = Writer::default();
        out.u32(self.segments.len() as u32);
        for row in &self.segments {
            out.u64(row.number).u64(row.pack).u32(row.epoch).u32(row.slots).u32(row.live).u32(0).bytes(&row.salt);
        }
        out
    }

    fn deltas(&self) -> Writer {
        let mut out = Writer::default();
        out.u32(self.deltas.len() as u32);
        self.deltas.iter().for_each(|origin| {
            out.u64(origin.0);
        });
        out
    }

    fn generations(&self) -> Writer {
        let mut out = Writer::default();
        out.u32(self.generations.len() as u32);
        for row in &self.generations {
            out.u64(row.number).u64(row.time).u64(row.root.0).u32(row.pieces).u32(row.note.len() as u32);
            out.u64(row.data_head.0).bytes(row.note.as_bytes());
        }
        out
    }

    fn streams(&self) -> Writer {
        let mut out = Writer::default();
        out.u32(self.streams.len() as u32);
        for row in &self.streams {
            out.u16(row.name.len() as u16).u16(0).u32(row.identity.len() as u32).u64(row.size).u64(row.pages);
            out.u64(row.data_head.0).bytes(&row.digest).u32(row.index.len() as u32);
            out.bytes(row.name.as_bytes()).bytes(&row.identity);
            row.index.iter().for_each(|origin| {
                out.u64(origin.0);
            });
        }
        out
    }

    /// How many bytes the root has, from its first piece. None if it is none.
    pub fn length(first: &[u8]) -> Option<usize> {
        let mut from = Reader(first);
        (from.array()? == *MAGIC).then_some(from.u32()? as usize)
    }

    /// None if malformed, or if it has a section that a reader must know and this one does not.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let length = Self::length(bytes)?;
        let mut from = Reader(bytes.get(12..length)?);
        let mut root = Self::default();
        for _ in 0..from.u32()? {
            let (tag, flags, size) = (from.u16()?, from.u16()?, from.u32()?);
            let mut section = Reader(from.bytes(size as usize)?);
            match tag {
                1 => root.read_core(&mut section)?,
                2 => root.devices = rows(&mut section, 20, read_device)?,
                3 => root.segments = rows(&mut section, 64, read_segment)?,
                4 => root.deltas = rows(&mut section, 8, address)?,
                5 => root.generations = rows(&mut section, 40, read_generation)?,
                6 => root.streams = rows(&mut section, 52, read_stream)?,
                _ if flags & MUST != 0 => return None,
                _ => {}
            }
        }
        // Numbers that are counted up never come near their end.
        let counted = [root.counter, root.next_generation, root.next_pack];
        (root.counter > 0 && counted.iter().all(|number| number >> 62 == 0)).then_some(root)
    }

    fn read_core(&mut self, from: &mut Reader) -> Option<()> {
        (self.counter, self.time, self.version) = (from.u64()?, from.u64()?, from.u32()?);
        from.u32()?;
        self.features = Features { incompatible: from.u64()?, read_compatible: from.u64()?, compatible: from.u64()? };
        (self.data_head, self.digest) = (address(from)?, from.array()?);
        (self.next_generation, self.next_pack) = (from.u64()?, from.u64()?);
        (self.last_revert, self.before) = (address(from)?, address(from)?);
        Some(())
    }
}

fn rows<T>(from: &mut Reader, least: usize, read: fn(&mut Reader) -> Option<T>) -> Option<Vec<T>> {
    let count = from.u32()? as usize;
    (0..from.fits(count, least)?).map(|_| read(from)).collect()
}

fn address(from: &mut Reader) -> Option<Origin> {
    Origin::checked(from.u64()?)
}

fn read_device(from: &mut Reader) -> Option<DeviceRow> {
    let (id, flags, length) = (from.u16()?, from.u16()?, from.u16()?);
    from.u16()?;
    let (size, pages) = (from.u64()?, from.u32()? as usize);
    let name = from.text(length.into())?;
    let pages = (0..from.fits(pages, 8)?).map(|_| from.u64()).collect::<Option<Vec<_>>>()?;
    let sound = size % BLOCK as u64 == 0 && pages.len() as u64 == size.div_ceil(1 << 30);
    sound.then_some(DeviceRow { id, read_only: flags & 1 != 0, name, size, pages })
}

fn read_segment(from: &mut Reader) -> Option<SegmentRow> {
    let (number, pack, epoch, slots, live) = (from.u64()?, from.u64()?, from.u32()?, from.u32()?, from.u32()?);
    from.u32()?;
    let salt = from.array()?;
    (number <= Origin::MAX_SEGMENT).then_some(SegmentRow { number, pack, epoch, slots, live, salt })
}

fn read_generation(from: &mut Reader) -> Option<GenerationRow> {
    let (number, time, root) = (from.u64()?, from.u64()?, address(from)?);
    let (pieces, length, data_head) = (from.u32()?, from.u32()?, address(from)?);
    Some(GenerationRow { number, time, root, pieces, data_head, note: from.text(length as usize)? })
}

fn read_stream(from: &mut Reader) -> Option<StreamRow> {
    let name = from.u16()?;
    from.u16()?;
    let (identity, size, pages) = (from.u32()?, from.u64()?, from.u64()?);
    let (data_head, digest, count) = (address(from)?, from.array()?, from.u32()? as usize);
    let (name, identity) = (from.text(name.into())?, from.bytes(identity as usize)?.to_vec());
    let index = (0..from.fits(count, 8)?).map(|_| address(from)).collect::<Option<_>>()?;
    Some(StreamRow { name, identity, size, pages, data_head, digest, index })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Root {
        Root {
            counter: 7,
            time: 1,
            version: VERSION,
            data_head: Origin::new(3, 9),
            digest: [4; 16],
            next_generation: 2,
            next_pack: 1,
            devices: vec![DeviceRow { id: 1, read_only: true, name: "disk".into(), size: 2 << 30, pages: vec![0, 5] }],
            segments: vec![SegmentRow { number: 3, pack: 0, epoch: 1, slots: STILL_OPEN, live: 3, salt: [9; 32] }],
            deltas: vec![Origin::new(3, 1)],
            generations: vec![GenerationRow {
                number: 1,
                time: 2,
                root: Origin::new(2, 2),
                pieces: 1,
                data_head: Origin::new(2, 1),
                note: "a note".into(),
            }],
            streams: vec![StreamRow {
                name: "memory".into(),
                identity: b"who".to_vec(),
                size: 4096,
                pages: 1,
                data_head: Origin::new(3, 9),
                digest: [4; 16],
                index: vec![Origin::new(3, 4)],
            }],
            ..Root::default()
        }
    }

    #[test]
    fn a_root_comes_back_and_a_cut_one_does_not() {
        let bytes = example().encode();
        assert_eq!(Root::decode(&bytes), Some(example()));
        for end in 0..bytes.len() {
            assert_eq!(Root::decode(&bytes[..end]), None);
        }
    }
}
