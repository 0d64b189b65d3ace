//! The head records: where the newest root is (docs/vault-format.md, *Heads*).

use ring::aead::{Aad, Nonce, Tag};

use crate::Error;
use crate::bytes::{Reader, Writer};
use crate::keys::{Keyring, Salt, VaultId, random};
use crate::slot::Origin;
use crate::store::{Medium, Store, read_exact};
use crate::superblock::VERSION;

pub(crate) const NAMES: [&str; 2] = ["head.a", "head.b"];
const MAGIC: &[u8; 8] = b"TFHEAD01";
const SIZE: usize = 192;
const OPEN: usize = 64;
const SEALED: usize = 80;

/// Which root, and what is needed to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub counter: u64,
    pub root: Origin,
    pub pieces: u32,
    pub time: u64,
    pub salt: Salt,
    pub epoch: u32,
}

impl Head {
    fn encode(&self, ring: &Keyring, id: &VaultId) -> Result<Vec<u8>, Error> {
        let epoch = ring.current();
        let salt: Salt = random()?;
        let mut open = Writer::default();
        open.bytes(MAGIC).u32(VERSION).u32(epoch).bytes(id).bytes(&salt);
        let mut body = Writer::default();
        body.u64(self.counter).u64(self.root.0).u32(self.pieces).u32(0).u64(self.time);
        body.bytes(&self.salt).u32(self.epoch).pad(SIZE - SEALED);
        let tag = ring
            .head(epoch, id, &salt)?
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key([0; 12]), Aad::from(&open.0), &mut body.0)
            .map_err(|_| Error::Invalid("a head record could not be sealed".into()))?;
        Ok(open.bytes(tag.as_ref()).bytes(&body.0).0.clone())
    }

    fn decode(untrusted: &mut [u8], ring: &Keyring, id: &VaultId) -> Option<Self> {
        let (open, rest) = untrusted.split_at_mut(OPEN);
        let (tag, body) = rest.split_at_mut(SEALED - OPEN);
        let mut from = Reader(open);
        if from.array()? != *MAGIC || from.u32()? != VERSION {
            return None;
        }
        let (epoch, named, salt) = (from.u32()?, from.array()?, from.array()?);
        if named != *id {
            return None;
        }
        let tag = Tag::try_from(&*tag).ok()?;
        let key = ring.head(epoch, id, &salt).ok()?;
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let mut from = Reader(key.open_in_place_separate_tag(nonce, Aad::from(&*open), tag, body, 0..).ok()?);
        let (counter, root, pieces) = (from.u64()?, Origin::checked(from.u64()?)?, from.u32()?);
        from.u32()?;
        Some(Self { counter, root, pieces, time: from.u64()?, salt: from.array()?, epoch: from.u32()? })
    }

    /// Those of the two that open, the newest first.
    pub fn read_all(store: &dyn Store, ring: &Keyring, id: &VaultId) -> Result<Vec<(usize, Self)>, Error> {
        let mut found = Vec::new();
        for (which, name) in NAMES.iter().enumerate() {
            let Ok(file) = store.open(name) else { continue };
            let mut bytes = [0; SIZE];
            match read_exact(&*file, &mut bytes, 0) {
                Ok(()) => found.extend(Self::decode(&mut bytes, ring, id).map(|head| (which, head))),
                Err(why) if why.kind() == std::io::ErrorKind::UnexpectedEof => {}
                // A hint that can't be read is no hint.
                Err(_) => {}
            }
        }
        found.sort_by_key(|(_, head)| std::cmp::Reverse(head.counter));
        Ok(found)
    }

    /// Writes the record into one of the two files. Durable only after the medium was synced.
    pub fn write(&self, file: &dyn Medium, which: usize, ring: &Keyring, id: &VaultId) -> Result<(), Error> {
        file.write_at(&self.encode(ring, id)?, 0).map_err(|why| Error::io(NAMES[which], why))
    }
}
