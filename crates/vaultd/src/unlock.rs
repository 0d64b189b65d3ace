//! The wrapped keys under a person's unlock code as well: Argon2id (RFC 9106) makes a key of it, which seals the document of
//! wrapped keys as it is. Source: `docs/keys.md`. Tries are counted by the agent, before each one.

use argon2::{Algorithm, Argon2, Params, Version};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::hex;
use crate::keys;
use crate::said::{Code, Said};
use crate::secret::{SIZE, Secret};

const SCHEMA: &str = "twofold-locked-keys-1";
/// What making a key costs: RFC 9106's second recommendation, one lane.
const MEMORY: u32 = 64 << 10;
const PASSES: u32 = 3;
/// What a file may ask for: it could have been changed to keep this machine busy.
const MOST_MEMORY: u32 = 1 << 20;
const MOST_PASSES: u32 = 16;
const SALT: usize = 16;
/// Bytes of a code.
const LENGTHS: std::ops::RangeInclusive<usize> = 4..=256;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Locked {
    schema: String,
    workspace: String,
    salt: String,
    memory_kib: u32,
    passes: u32,
    sealed: String,
}

/// A document of wrapped keys, sealed under `code`.
///
/// # Errors
/// `Usage`: the code is too short or too long.
pub fn lock(document: &str, workspace: &str, code: &str) -> Result<String, Said> {
    if !LENGTHS.contains(&code.len()) {
        return Err(Said::new(Code::Usage, "An unlock code has 4 to 256 characters.").safe("Nothing was changed."));
    }
    let salt = Secret::random()?; // a fresh key with each salt, so that its one nonce is used once
    let salt = &salt.bytes()[..SALT];
    let mut locked = Locked {
        schema: SCHEMA.into(),
        workspace: workspace.into(),
        salt: hex::encode(salt),
        memory_kib: MEMORY,
        passes: PASSES,
        sealed: String::new(),
    };
    let mut sealed = document.as_bytes().to_vec();
    locked
        .key(salt, code)?
        .seal_in_place_append_tag(zero(), Aad::from(locked.bound()), &mut sealed)
        .map_err(|_| Said::new(Code::Failed, "The cipher refused."))?;
    locked.sealed = hex::encode(&sealed);
    serde_json::to_string(&locked).map_err(|failed| Said::new(Code::Failed, failed.to_string()))
}

/// What `lock` sealed.
///
/// # Errors
/// `Refused`: another code; or the file was changed, which can't be told apart. `Damaged`: no such file.
pub fn unlock(untrusted_text: &str, workspace: &str, code: &str) -> Result<String, Said> {
    let damaged = || Said::new(Code::Damaged, "The locked keys cannot be read.").safe("They were left as they are.");
    if untrusted_text.len() > 4 * keys::LIMIT {
        return Err(damaged());
    }
    let locked: Locked = serde_json::from_str(untrusted_text).map_err(|_| damaged())?;
    let bearable = (8..=MOST_MEMORY).contains(&locked.memory_kib) && (1..=MOST_PASSES).contains(&locked.passes);
    if locked.schema != SCHEMA || locked.workspace != workspace || !bearable {
        return Err(damaged());
    }
    let salt = hex::decode(&locked.salt).ok().filter(|salt| salt.len() == SALT).ok_or_else(damaged)?;
    let mut sealed = hex::decode(&locked.sealed).map_err(|_| damaged())?;
    let wrong = || {
        Said::new(Code::Refused, "This is not the unlock code.").safe("Nothing was opened, and nothing was changed.")
    };
    let plain =
        locked.key(&salt, code)?.open_in_place(zero(), Aad::from(locked.bound()), &mut sealed).map_err(|_| wrong())?;
    String::from_utf8(plain.to_vec()).map_err(|_| damaged())
}

impl Locked {
    fn key(&self, salt: &[u8], code: &str) -> Result<LessSafeKey, Said> {
        let failed = |_| Said::new(Code::NoRoom, "There is not enough memory to make a key of the unlock code.");
        let params = Params::new(self.memory_kib, self.passes, 1, Some(SIZE))
            .map_err(|_| Said::new(Code::Damaged, "The locked keys cannot be read."))?;
        let mut key = Zeroizing::new([0; SIZE]);
        let maker = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        maker.hash_password_into(code.as_bytes(), salt, &mut *key).map_err(failed)?;
        let key = UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| Said::new(Code::Failed, "The cipher refused."))?;
        Ok(LessSafeKey::new(key))
    }

    fn bound(&self) -> Vec<u8> {
        format!("{SCHEMA}\0{}\0{}\0{}", self.workspace, self.memory_kib, self.passes).into_bytes()
    }
}

fn zero() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_opens_it_and_nothing_else_does() {
        let locked = lock("{\"keys\":1}", "work", "correct horse").unwrap();
        assert!(!locked.contains("keys\\\":1"));
        assert_eq!(unlock(&locked, "work", "correct horse").unwrap(), "{\"keys\":1}");
        for (code, workspace, want) in [
            ("correct horsf", "work", Code::Refused),
            ("", "work", Code::Refused),
            ("correct horse", "play", Code::Damaged),
        ] {
            assert_eq!(unlock(&locked, workspace, code).unwrap_err().code, want);
        }
        let other = lock("{\"keys\":1}", "work", "correct horse").unwrap();
        assert_ne!(locked, other, "a salt of its own");
    }

    #[test]
    fn a_changed_file_opens_nothing_and_costs_little() {
        let locked = lock("x", "work", "code").unwrap();
        for (from, to) in [
            ("\"passes\":3", "\"passes\":4"),
            ("\"passes\":3", "\"passes\":4000000000"),
            ("\"memory_kib\":65536", "\"memory_kib\":4000000000"),
            ("\"memory_kib\":65536", "\"memory_kib\":0"),
            ("\"work\"", "\"play\""),
            ("keys-1", "keys-2"),
            ("{\"schema\"", "{\"more\":1,\"schema\""),
        ] {
            assert!(locked.contains(from));
            assert!(unlock(&locked.replace(from, to), "work", "code").is_err(), "{to}");
        }
        for text in ["", "{}", "[]", &"x".repeat(1 << 20)] {
            assert_eq!(unlock(text, "work", "code").unwrap_err().code, Code::Damaged);
        }
        assert_eq!(lock("x", "work", "abc").unwrap_err().code, Code::Usage);
    }
}
