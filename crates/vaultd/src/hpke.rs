//! HPKE in base mode, one shot: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM (RFC 9180).

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, Zeroizing};

use crate::said::{Code, Said};
use crate::secret::{SIZE, Secret};

const KEM: &[u8] = b"KEM\x00\x20";
const SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x02";
const TAG: usize = 16;

type Digest = Zeroizing<[u8; 32]>;

/// Seal `key` for the holder of `public`'s private half.
///
/// # Errors
/// `public` is of low order, or the system has no random bytes.
pub fn seal(key: &Secret, public: &[u8; 32], info: &[u8]) -> Result<Vec<u8>, Said> {
    let ephemeral = Secret::random()?;
    seal_with(key, public, info, &ephemeral)
}

fn seal_with(key: &Secret, public: &[u8; 32], info: &[u8], ephemeral: &Secret) -> Result<Vec<u8>, Said> {
    let private = StaticSecret::from(*ephemeral.bytes());
    let enc = PublicKey::from(&private).to_bytes();
    let shared = private.diffie_hellman(&PublicKey::from(*public));
    if !shared.was_contributory() {
        return Err(Said::bad("The public key is no good one."));
    }
    let (cipher, nonce) = schedule(&encapsulated(shared.as_bytes(), &enc, public), info)?;
    let mut out = enc.to_vec();
    out.extend_from_slice(key.bytes());
    let tag = cipher
        .seal_in_place_separate_tag(nonce, Aad::empty(), &mut out[32..])
        .map_err(|_| Said::new(Code::Failed, "The cipher refused."))?;
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

/// Open what [`seal`] made.
///
/// # Errors
/// It was sealed for another key or with other `info`, or changed since.
pub fn open(untrusted_sealed: &[u8], private: &Secret, info: &[u8]) -> Result<Secret, Said> {
    let shut = || Said::new(Code::Damaged, "The key was sealed for another device or workspace, or changed since.");
    let Some((enc, body)) = untrusted_sealed.split_first_chunk::<32>().filter(|(_, body)| body.len() == SIZE + TAG)
    else {
        return Err(shut());
    };
    let private = StaticSecret::from(*private.bytes());
    let public = PublicKey::from(&private).to_bytes();
    let shared = private.diffie_hellman(&PublicKey::from(*enc));
    if !shared.was_contributory() {
        return Err(shut());
    }
    let (cipher, nonce) = schedule(&encapsulated(shared.as_bytes(), enc, &public), info)?;
    let mut plain = Zeroizing::new(body.to_vec());
    let opened = cipher.open_in_place(nonce, Aad::empty(), &mut plain).map_err(|_| shut())?;
    Secret::with(|key| {
        key.copy_from_slice(opened);
        Ok(())
    })
}

/// The public half of a private key.
pub fn public(private: &Secret) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*private.bytes())).to_bytes()
}

/// RFC 9180, 4.1: ExtractAndExpand over the two public keys.
fn encapsulated(dh: &[u8; 32], enc: &[u8; 32], public: &[u8; 32]) -> Digest {
    let prk = extract(b"", KEM, b"eae_prk", dh);
    let mut context = enc.to_vec();
    context.extend_from_slice(public);
    expand(&prk, KEM, b"shared_secret", &context, 32)
}

/// RFC 9180, 5.1: the key schedule with an empty pre-shared key; the first message's nonce is the base nonce.
fn schedule(shared: &Digest, info: &[u8]) -> Result<(LessSafeKey, Nonce), Said> {
    let mut context = vec![0];
    context.extend_from_slice(&*extract(b"", SUITE, b"psk_id_hash", b""));
    context.extend_from_slice(&*extract(b"", SUITE, b"info_hash", info));
    let secret = extract(&**shared, SUITE, b"secret", b"");
    let key = expand(&secret, SUITE, b"key", &context, 32);
    let base = expand(&secret, SUITE, b"base_nonce", &context, 12);
    let refused = |_| Said::new(Code::Failed, "The cipher refused its key.");
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key).map_err(refused)?);
    Ok((cipher, Nonce::try_assume_unique_for_key(&base[..12]).map_err(refused)?))
}

fn extract(salt: &[u8], suite: &[u8], label: &[u8], input: &[u8]) -> Digest {
    // HKDF's empty salt is a string of zeroes, and HMAC pads its key with zeroes: the same.
    mac(salt, &[b"HPKE-v1", suite, label, input])
}

/// The first `length` (at most 32) bytes of LabeledExpand; the rest of the digest is zeroes.
fn expand(prk: &Digest, suite: &[u8], label: &[u8], info: &[u8], length: u16) -> Digest {
    let mut out = mac(&**prk, &[&length.to_be_bytes(), b"HPKE-v1", suite, label, info, &[1]]);
    out[usize::from(length)..].zeroize();
    out
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Digest {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    let mut out = Digest::default();
    out.copy_from_slice(context.sign().as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEALED: usize = 32 + SIZE + TAG;

    fn fixed(byte: u8) -> Secret {
        Secret::with(|key| {
            key.fill(byte);
            Ok(())
        })
        .unwrap()
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let (device, other) = (fixed(7), fixed(8));
        let sealed = seal(&fixed(42), &public(&device), b"work 1").unwrap();
        assert_eq!(sealed.len(), SEALED);
        assert_eq!(open(&sealed, &device, b"work 1").unwrap().bytes(), &[42; SIZE]);
        assert!(open(&sealed, &other, b"work 1").is_err());
        assert!(open(&sealed, &device, b"work 2").is_err());
        assert!(open(&sealed[1..], &device, b"work 1").is_err());
        for at in 0..sealed.len() {
            let mut torn = sealed.clone();
            torn[at] ^= 1;
            assert!(open(&torn, &device, b"work 1").is_err(), "byte {at}");
        }
        assert!(open(&[0; SEALED], &device, b"work 1").is_err(), "a key of low order");
    }

    /// Sealed by an independent implementation: Python's `cryptography` 50, `hpke.Suite(X25519, HKDF_SHA256, AES_256_GCM)`.
    #[test]
    fn opens_what_another_implementation_sealed() {
        let sealed = hex(concat!(
            "80b96cc05d4263d9bdc3d7ac876ae24cc8ee0ddf189e7371e0e1ba15e04ad048a34b1b5b9742e62f",
            "129f49083a20b44bd5588cba8854c81342353bb2440a94970864af4d35d8955ef7634771137ae7d2"
        ));
        assert_eq!(open(&sealed, &fixed(7), b"twofold-epoch-key-1\0\x01\0\0\0work").unwrap().bytes(), &[42; SIZE]);
    }
}
