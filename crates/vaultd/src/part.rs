//! Boot parts at rest: a kernel or an initrd in one sealed file.
//!
//! File: `twofold-part-2` and a newline, key epoch (u32, little-endian), nonce (12 bytes, random), ciphertext, tag (16).
//! AES-256-GCM; the key is the part's of that epoch (`docs/keys.md`), the associated data the file's first 19 bytes and the
//! digest that the image's manifest names, so that a part of another version is not taken.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest::SHA256;

use crate::keys::{self, Ring};
use crate::said::{Code, Said};

/// Bytes of a plain part; a kernel or an initrd is far below.
pub const LARGEST: usize = 256 << 20;
/// Bytes that sealing adds.
pub const OVERHEAD: usize = HEAD + NONCE + TAG;
const MAGIC: &[u8; 15] = b"twofold-part-2\n";
const HEAD: usize = MAGIC.len() + 4;
const NONCE: usize = 12;
const TAG: usize = 16;

/// Seal a part under the newest epoch.
pub fn seal(ring: &Ring, name: &str, digest: &str, plain: &[u8]) -> Result<Vec<u8>, Said> {
    let epoch = ring.current();
    let mut nonce = [0; NONCE];
    if rustix::rand::getrandom(&mut nonce[..], rustix::rand::GetRandomFlags::empty())? != NONCE {
        return Err(Said::new(Code::Failed, "The system gave no random bytes."));
    }
    let mut out = Vec::with_capacity(OVERHEAD + plain.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&epoch.to_le_bytes());
    let bound = Aad::from([&out[..], digest.as_bytes()].concat());
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plain);
    let tag = cipher(ring, epoch, name)?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), bound, &mut out[HEAD + NONCE..])
        .map_err(|_| Said::new(Code::Failed, "The cipher refused."))?;
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

/// Open a sealed part in place; answers the plain bytes.
///
/// # Errors
/// `Damaged`: torn, forged, of another name or image version, or of another vault. The digest is that of the plain bytes, and
/// is checked: an older epoch's key, which a lost device may have, seals nothing here that the manifest does not name.
pub fn open<'a>(ring: &Ring, name: &str, digest: &str, untrusted_sealed: &'a mut [u8]) -> Result<&'a [u8], Said> {
    let damaged = || Said::new(Code::Damaged, format!("The workspace's {name} is damaged on this disk."));
    if untrusted_sealed.len() < OVERHEAD || !untrusted_sealed.starts_with(MAGIC) {
        return Err(damaged());
    }
    let (head, body) = untrusted_sealed.split_at_mut(HEAD);
    let (nonce, body) = body.split_at_mut(NONCE);
    let epoch = u32::from_le_bytes(head[MAGIC.len()..].try_into().map_err(|_| damaged())?);
    let bound = Aad::from([&*head, digest.as_bytes()].concat());
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
    let opened = cipher(ring, epoch, name)?.open_in_place(nonce, bound, body).map_err(|_| damaged())?;
    let hex: String = ring::digest::digest(&SHA256, opened).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    if hex == digest { Ok(opened) } else { Err(damaged()) }
}

/// All bytes of a file that came as a descriptor, at most `limit`.
pub fn whole(file: OwnedFd, limit: usize) -> Result<Vec<u8>, Said> {
    let mut bytes = Vec::new();
    File::from(file).take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(Said::bad("The part is larger than any we know."));
    }
    Ok(bytes)
}

fn cipher(ring: &Ring, epoch: u32, name: &str) -> Result<LessSafeKey, Said> {
    let key = ring.key(epoch).ok_or_else(|| Said::new(Code::Damaged, format!("The key of {name} is not here.")))?;
    let key = keys::part(key, name)?;
    let key = UnboundKey::new(&AES_256_GCM, key.bytes()).map_err(|_| Said::new(Code::Failed, "The cipher refused."))?;
    Ok(LessSafeKey::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Document;
    use crate::secret::Secret;

    #[test]
    fn a_part_opens_under_its_name_and_digest_alone_and_after_a_new_epoch() {
        let device = Secret::random().unwrap();
        let (document, ring) = Document::make("work", &device).unwrap();
        let sha = "42f083196bf0997a4f9c37295e311eb5012aa59e383c15b8ba466070af14cd8f";
        let sealed = seal(&ring, "kernel", sha, b"vmlinuz").unwrap();
        let other = sha.replace('a', "b");
        let forged = seal(&ring, "kernel", sha, b"vmlinux").unwrap();
        let (_, ring) = document.next(ring, &device).unwrap();
        let open = |name, digest, bytes: &[u8]| open(&ring, name, digest, &mut bytes.to_vec()).map(<[u8]>::to_vec);
        assert_eq!(open("kernel", sha, &sealed).unwrap(), b"vmlinuz");
        assert!(open("initrd", sha, &sealed).is_err());
        assert!(open("kernel", &other, &sealed).is_err());
        assert!(open("kernel", sha, &sealed[..sealed.len() - 1]).is_err());
        assert!(open("kernel", sha, b"").is_err());
        assert!(open("kernel", sha, &forged).is_err(), "rightly sealed, and not what the digest says");
        for at in 0..sealed.len() {
            let mut torn = sealed.clone();
            torn[at] ^= 1;
            assert!(open("kernel", sha, &torn).is_err(), "byte {at}");
        }
    }
}
