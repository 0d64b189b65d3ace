//! The format once more, from docs/vault-format.md alone: to look into files, and to seal what no honest writer would.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

pub const SLOT: usize = 4128;
pub const START: usize = 256;

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The key of an epoch, and the vault that it is for.
#[derive(Clone)]
pub struct Keys {
    pub epoch: [u8; 32],
    pub vault: [u8; 16],
}

fn derive(context: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    *hasher.finalize().as_bytes()
}

fn cipher(key: [u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap())
}

fn nonce(index: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&index.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl Keys {
    fn mac(&self, bytes: &[u8]) -> [u8; 32] {
        let key = derive("twofold 2026-11 vault header key", &[&self.epoch, &self.vault]);
        *blake3::keyed_hash(&key, bytes).as_bytes()
    }

    /// The key of a segment, from its file's header.
    pub fn segment(&self, header: &[u8]) -> LessSafeKey {
        let context = "twofold 2026-11 vault segment key";
        cipher(derive(context, &[&self.epoch, &self.vault, &header[32..40], &header[48..80]]))
    }

    /// Puts the right MAC behind a segment's header.
    pub fn mac_segment(&self, file: &mut [u8]) {
        let mac = self.mac(&file[..224]);
        file[224..256].copy_from_slice(&mac);
    }

    /// Puts the right MAC behind a pack's records, if they are all there.
    pub fn mac_pack(&self, file: &mut [u8]) {
        let end = 64 + 2112 * u32_at(file, 40) as usize;
        if end + 32 <= file.len() {
            let mac = self.mac(&file[..end]);
            file[end..end + 32].copy_from_slice(&mac);
        }
    }

    /// Opens slot `index` of a segment's file: header and payload, 4112 bytes.
    pub fn open(&self, file: &[u8], index: u32) -> Option<Vec<u8>> {
        let at = START + index as usize * SLOT;
        let slot = file.get(at..at + SLOT)?;
        let mut body = [&slot[16..], &slot[..16]].concat();
        self.segment(file).open_in_place(nonce(index), Aad::from(&self.vault), &mut body).ok()?;
        body.truncate(SLOT - 16);
        Some(body)
    }

    /// Seals slot `index` of a segment's file anew.
    pub fn seal(&self, file: &mut [u8], index: u32, body: &[u8]) {
        let mut sealed = body.to_vec();
        let key = self.segment(file);
        let tag = key.seal_in_place_separate_tag(nonce(index), Aad::from(&self.vault), &mut sealed).unwrap();
        let at = START + index as usize * SLOT;
        file[at..at + 16].copy_from_slice(tag.as_ref());
        file[at + 16..at + SLOT].copy_from_slice(&sealed);
    }

    fn head(&self, file: &[u8]) -> LessSafeKey {
        cipher(derive("twofold 2026-11 vault head key", &[&self.epoch, &self.vault, &file[32..64]]))
    }

    /// Opens a head record: 112 bytes.
    pub fn open_head(&self, file: &[u8]) -> Option<Vec<u8>> {
        let mut body = [&file[80..192], &file[64..80]].concat();
        self.head(file).open_in_place(nonce(0), Aad::from(&file[..64]), &mut body).ok()?;
        body.truncate(112);
        Some(body)
    }

    /// Seals a head record anew.
    pub fn seal_head(&self, file: &mut [u8], body: &[u8]) {
        let mut sealed = body.to_vec();
        let aad = Aad::from(file[..64].to_vec());
        let tag = self.head(file).seal_in_place_separate_tag(nonce(0), aad, &mut sealed).unwrap();
        file[64..80].copy_from_slice(tag.as_ref());
        file[80..192].copy_from_slice(&sealed);
    }
}

/// Puts the right checksum into the file `vault`.
pub fn sum_vault(file: &mut [u8]) {
    if file.len() >= 128 {
        let sum = *blake3::hash(&file[..96]).as_bytes();
        file[96..128].copy_from_slice(&sum);
    }
}

/// Slots of a pack: segment's salt, index in the segment, and the sealed bytes.
pub fn pack_slots(file: &[u8]) -> Vec<([u8; 32], u32, &[u8])> {
    let mut slots = Vec::new();
    for record in file[64..64 + 2112 * u32_at(file, 40) as usize].chunks_exact(2112) {
        let salt: [u8; 32] = record[16..48].try_into().unwrap();
        let mut at = u64_at(record, 48) as usize;
        for index in 0..16384u32 {
            if record[64 + index as usize / 8] >> (index % 8) & 1 == 1 {
                slots.extend(file.get(at..at + SLOT).map(|slot| (salt, index, slot)));
                at += SLOT;
            }
        }
    }
    slots
}
