//! The keyring and the key schedule (docs/vault-format.md, *Keys and nonces*).

use std::collections::BTreeMap;
use std::fmt;

use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::{Zeroize, Zeroizing};

use crate::Error;

/// 32 random bytes that make each segment's key its own.
pub type Salt = [u8; 32];
/// A vault's identity.
pub type VaultId = [u8; 16];

/// The epoch keys that the caller unwrapped. Overwritten when dropped.
#[derive(Clone)]
pub struct Keyring {
    current: u32,
    keys: BTreeMap<u32, Zeroizing<[u8; 32]>>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Keyring(current {}, {} keys)", self.current, self.keys.len())
    }
}

impl Keyring {
    /// New segments get the key of epoch `current`.
    #[must_use]
    pub fn new(current: u32, key: [u8; 32]) -> Self {
        Self { current, keys: BTreeMap::from([(current, Zeroizing::new(key))]) }
    }

    /// Opens nothing.
    pub(crate) fn empty() -> Self {
        Self { current: 0, keys: BTreeMap::new() }
    }

    /// With the key of an older epoch too.
    #[must_use]
    pub fn with(mut self, epoch: u32, key: [u8; 32]) -> Self {
        self.keys.insert(epoch, Zeroizing::new(key));
        self
    }

    /// The epoch of what is written from now on.
    #[must_use]
    pub fn current(&self) -> u32 {
        self.current
    }

    fn derive(&self, epoch: u32, context: &str, id: &VaultId, rest: &[&[u8]]) -> Result<Zeroizing<[u8; 32]>, Error> {
        let key = self.keys.get(&epoch).ok_or(Error::NoKey(epoch))?;
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(key.as_slice()).update(id);
        for part in rest {
            hasher.update(part);
        }
        let derived = Zeroizing::new(*hasher.finalize().as_bytes());
        hasher.zeroize();
        Ok(derived)
    }

    pub(crate) fn header(&self, epoch: u32, id: &VaultId) -> Result<Zeroizing<[u8; 32]>, Error> {
        self.derive(epoch, "twofold 2026-11 vault header key", id, &[])
    }

    pub(crate) fn segment(&self, epoch: u32, id: &VaultId, number: u64, salt: &Salt) -> Result<LessSafeKey, Error> {
        cipher(&*self.derive(epoch, "twofold 2026-11 vault segment key", id, &[&number.to_le_bytes(), salt])?)
    }

    pub(crate) fn head(&self, epoch: u32, id: &VaultId, salt: &Salt) -> Result<LessSafeKey, Error> {
        cipher(&*self.derive(epoch, "twofold 2026-11 vault head key", id, &[salt])?)
    }
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, Error> {
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| Error::Invalid("a key of 32 bytes was refused".into()))?;
    Ok(LessSafeKey::new(key))
}

/// Fresh random bytes from the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Invalid("the operating system gave no random bytes".into()))?;
    Ok(bytes)
}

/// The first 16 bytes of BLAKE3 of a salt: names a making of a segment without giving its salt.
pub(crate) fn digest(salt: &Salt) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(salt).as_bytes()[..16]);
    short
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::bytes::hex;
    use crate::slot::{self, EARLIER, Header, Kind, LAST, SLOT};

    /// The values of docs/vault-format.md, *Test vectors*.
    #[test]
    fn the_key_schedule_and_a_slot_are_the_published_ones() {
        let ring = Keyring::new(1, std::array::from_fn(|i| i as u8));
        let id: VaultId = std::array::from_fn(|i| 0xa0 + i as u8);
        let salt: Salt = std::array::from_fn(|i| 0x40 + i as u8);
        let mut slot: Vec<u8> = (0..SLOT).map(|i| (i.saturating_sub(32) * 7) as u8).collect();
        let header = Header { flags: LAST | EARLIER, durable: 3, ..Header::new(Kind::Data, 1, 9) };
        slot::seal(&ring.segment(1, &id, 7, &salt).unwrap(), &id, 5, &header, &mut slot);
        let values = [
            hex(&*ring.header(1, &id).unwrap()),
            hex(&*ring.derive(1, "twofold 2026-11 vault segment key", &id, &[&7u64.to_le_bytes(), &salt]).unwrap()),
            hex(&*ring.derive(1, "twofold 2026-11 vault head key", &id, &[&salt]).unwrap()),
            hex(&digest(&salt)),
            hex(&slot[..48]),
            hex(blake3::hash(&slot).as_bytes()),
        ];
        let paper = include_str!("../../../docs/vault-format.md");
        for value in values {
            assert!(paper.contains(&value), "{value} is not in the paper");
        }
    }
}
