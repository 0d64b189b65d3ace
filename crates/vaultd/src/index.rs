//! The index of a vault's base: for each device, the chunks of one part of one image version, with their keys.
//!
//! Plain form (little-endian), which lies on the disk only as a sealed part (`part.rs`) named `base`: `twofold-base-1` and a
//! newline, number of devices (u16); for each its name's length (u8), its name, the part's size in bytes (u64), number of rows
//! (u32); each row is offset (u64), size (u32), id (32 bytes), key (32). Rows ascend and do not overlap; offsets are whole
//! blocks; what no row covers is zeroes. Nothing follows.

use twofold_chunks::folder::Row;
use twofold_chunks::{BLOCK, MAX_CHUNK};
use zeroize::Zeroize;

use crate::said::Said;

/// The name under which it is sealed.
pub const NAME: &str = "base";
const MAGIC: &[u8] = b"twofold-base-1\n";
const ROW: usize = 8 + 4 + 32 + 32;
const DEVICES: u16 = 16;

/// What one device is as long as it was never written.
pub struct Table {
    /// The device's name, which is the part's too.
    pub device: String,
    /// Bytes of the part; the device may be larger.
    pub size: u64,
    /// Its chunks.
    pub rows: Vec<Row>,
}

impl Drop for Table {
    fn drop(&mut self) {
        self.rows.iter_mut().for_each(|row| row.key.zeroize());
    }
}

/// Take a plain index apart.
///
/// # Errors
/// `BadInput`: it is not what the form above says.
pub fn parse(untrusted_index: &[u8]) -> Result<Vec<Table>, Said> {
    tables(untrusted_index).ok_or_else(|| Said::bad("The index of the workspace's image is malformed."))
}

fn tables(untrusted_index: &[u8]) -> Option<Vec<Table>> {
    let mut rest = Rest(untrusted_index.strip_prefix(MAGIC)?);
    let count = u16::from_le_bytes(rest.array()?);
    if count > DEVICES {
        return None;
    }
    let mut tables: Vec<Table> = Vec::new();
    for _ in 0..count {
        let length = u8::from_le_bytes(rest.array()?);
        let device = String::from_utf8(rest.take(length.into())?.to_vec()).ok()?;
        let size = u64::from_le_bytes(rest.array()?);
        let rows = usize::try_from(u32::from_le_bytes(rest.array()?)).ok()?;
        if device.is_empty() || tables.iter().any(|table| table.device == device) || rest.0.len() / ROW < rows {
            return None;
        }
        let mut table = Table { device, size, rows: Vec::with_capacity(rows) };
        let mut end = 0;
        for _ in 0..rows {
            let offset = u64::from_le_bytes(rest.array()?);
            let length = u32::from_le_bytes(rest.array()?);
            let row = Row { offset, size: length.try_into().ok()?, id: rest.array()?, key: rest.array()? };
            if offset < end || offset % BLOCK as u64 != 0 || row.size == 0 || row.size > MAX_CHUNK {
                return None;
            }
            end = offset.checked_add(length.into()).filter(|end| *end <= size)?;
            table.rows.push(row);
        }
        tables.push(table);
    }
    rest.0.is_empty().then_some(tables)
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// What the agent writes (`twofold.image.base`).
    pub fn encode(tables: &[Table]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend((tables.len() as u16).to_le_bytes());
        for table in tables {
            out.push(table.device.len() as u8);
            out.extend(table.device.as_bytes());
            out.extend(table.size.to_le_bytes());
            out.extend((table.rows.len() as u32).to_le_bytes());
            for row in &table.rows {
                out.extend(row.offset.to_le_bytes());
                out.extend((row.size as u32).to_le_bytes());
                out.extend(row.id);
                out.extend(row.key);
            }
        }
        out
    }

    fn row(offset: u64, size: usize) -> Row {
        Row { offset, size, id: [offset as u8; 32], key: [7; 32] }
    }

    fn one(rows: Vec<Row>) -> Vec<u8> {
        encode(&[Table { device: "system".into(), size: 1 << 20, rows }])
    }

    #[test]
    fn an_index_comes_back() {
        let rows = vec![row(0, 4096), row(8192, 100), row(12288, MAX_CHUNK)];
        let tables = parse(&one(rows)).unwrap();
        assert_eq!((tables.len(), tables[0].device.as_str(), tables[0].size), (1, "system", 1 << 20));
        let found: Vec<_> = tables[0].rows.iter().map(|row| (row.offset, row.size, row.id[0])).collect();
        assert_eq!(found, [(0, 4096, 0), (8192, 100, 0), (12288, MAX_CHUNK, 0)]);
        assert!(parse(&encode(&[])).unwrap().is_empty());
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        for rows in [
            vec![row(4096, 4096), row(0, 4096)],
            vec![row(0, 8192), row(4096, 4096)],
            vec![row(100, 4096)],
            vec![row(0, 0)],
            vec![row(0, MAX_CHUNK + 1)],
            vec![row((1 << 20) - 4096, 8192)],
            vec![row(u64::MAX - 4095, 4096)],
        ] {
            assert!(parse(&one(rows.clone())).is_err(), "{rows:?}");
        }
        let twice = || Table { device: "system".into(), size: 0, rows: Vec::new() };
        assert!(parse(&encode(&[twice(), twice()])).is_err());
        assert!(parse(&encode(&[Table { device: String::new(), size: 0, rows: Vec::new() }])).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic_or_take_memory() {
        let whole = one((0..40).map(|nth| row(nth * 8192, 4096)).collect());
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_err(), "cut at {end}");
        }
        assert!(parse(&[&whole[..], &[0]].concat()).is_err());
        let mut seed = 1u64;
        for round in 0..20_000 {
            let mut bad = whole.clone();
            for _ in 0..1 + round % 5 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (seed >> 33) as usize % bad.len().min(if round % 2 == 0 { 60 } else { usize::MAX });
                bad[at] = (seed >> 20) as u8;
            }
            // Whatever it takes it for is in order and inside.
            for table in parse(&bad).unwrap_or_default() {
                let mut end = 0;
                for row in &table.rows {
                    assert!(row.offset >= end && row.size <= MAX_CHUNK);
                    end = row.offset + row.size as u64;
                }
                assert!(end <= table.size);
            }
        }
    }
}
