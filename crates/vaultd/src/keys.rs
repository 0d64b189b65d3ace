//! The document of a workspace's wrapped keys, and the keys that it opens to. Source: `docs/keys.md`.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::hex;
use crate::hpke;
use crate::said::{Code, Said};
use crate::secret::{SIZE, Secret};

/// Bytes that a document may have: some 600 epochs. Under an unlock code it has twice as many, which still fit a line.
pub const LIMIT: usize = 96 << 10;
/// Bytes of it that are left for wraps for others.
const SPARE: usize = 16 << 10;
const SCHEMA: &str = "twofold-keys-1";
const DEVICE: &str = "device";

/// `key.wrapped`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    schema: String,
    workspace: String,
    epochs: Vec<Epoch>,
    wraps: Vec<Wrap>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Epoch {
    epoch: u32,
    older: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Wrap {
    epoch: u32,
    #[serde(rename = "for")]
    kind: String,
    id: String,
    sealed: String,
}

/// All epoch keys of one workspace; key *n* is that of epoch *n + 1*.
#[derive(Debug)]
pub struct Ring(Vec<Secret>);

impl Ring {
    /// The epoch that new segments belong to.
    pub fn current(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// The keys with their epochs, the oldest first.
    pub fn keys(&self) -> impl Iterator<Item = (u32, &Secret)> {
        (1..).zip(&self.0)
    }

    /// Whether these are the other's keys, with newer ones or none.
    pub fn goes_on_from(&self, other: &Self) -> bool {
        self.0.len() >= other.0.len()
            && self.0.iter().zip(&other.0).all(|(ours, theirs)| ours.bytes() == theirs.bytes())
    }

    /// The key of one epoch.
    pub fn key(&self, epoch: u32) -> Option<&Secret> {
        self.0.get(usize::try_from(epoch).ok()?.checked_sub(1)?)
    }
}

impl Document {
    /// A workspace's first epoch, its key fresh, wrapped for the device with this wrapping key.
    pub fn make(workspace: &str, device: &Secret) -> Result<(Self, Ring), Said> {
        check_name(workspace)?;
        let ring = Ring(vec![Secret::random()?]);
        let mut made =
            Self { schema: SCHEMA.into(), workspace: workspace.into(), epochs: Vec::new(), wraps: Vec::new() };
        made.epochs.push(Epoch { epoch: 1, older: String::new() });
        made.wrap(&ring, &hpke::public(device))?;
        Ok((made, ring))
    }

    /// The next epoch: its key is wrapped for this device alone and opens all older ones; older keys do not open it.
    pub fn next(&self, mut ring: Ring, device: &Secret) -> Result<(Self, Ring), Said> {
        let mut made = self.clone();
        let fresh = Secret::random()?;
        let epoch = ring.current() + 1;
        let Some(newest) = ring.0.last() else { return Err(Said::bad("There is no key yet.")) };
        let mut older = Zeroizing::new(newest.bytes().to_vec());
        chain(&fresh)?
            .seal_in_place_append_tag(zero(), Aad::from(bound(epoch, &self.workspace)), &mut *older)
            .map_err(|_| Said::new(Code::Failed, "The cipher refused."))?;
        made.epochs.push(Epoch { epoch, older: hex::encode(&older) });
        ring.0.push(fresh);
        made.wrap(&ring, &hpke::public(device))?;
        made.prune();
        if made.to_text()?.len() > LIMIT - SPARE {
            return Err(Said::new(Code::Refused, format!("{} has had too many keys.", self.workspace))
                .safe("Nothing was changed; it opens with the keys that it has."));
        }
        Ok((made, ring))
    }

    /// The same keys for another device and for no other: with the newest epoch's key wrapped for its public key.
    pub fn rewrap(&self, ring: &Ring, public: &[u8; 32]) -> Result<Self, Said> {
        let mut made = Self { wraps: Vec::new(), ..self.clone() };
        made.wrap(ring, public)?;
        Ok(made)
    }

    /// Read a document and open its keys with a device's wrapping key.
    ///
    /// # Errors
    /// `BadInput`: no document. `Damaged`: not for this device or workspace, or changed. `Refused`: its newest epoch is
    /// another device's.
    pub fn open(untrusted_document: &[u8], workspace: &str, device: &Secret) -> Result<(Self, Ring), Said> {
        let document = Self::parse(untrusted_document)?;
        if document.workspace != workspace {
            return Err(Said::new(Code::Damaged, format!("The key belongs to another workspace than {workspace}.")));
        }
        let id = hex::encode(digest(&SHA256, &hpke::public(device)).as_ref());
        let ours =
            document.wraps.iter().filter(|wrap| wrap.kind == DEVICE && wrap.id == id).max_by_key(|wrap| wrap.epoch);
        let Some(ours) = ours else {
            return Err(Said::new(Code::Damaged, format!("The key of {workspace} was not sealed for this device."))
                .safe("Its sealed data was not touched.")
                .next("Restore the device's key file, or check the workspace out again."));
        };
        if ours.epoch != document.newest() {
            return Err(Said::new(Code::Refused, format!("{workspace} has been taken over by another device."))
                .safe("What is on this disk was not touched."));
        }
        let mut key = hpke::open(&hex::decode(&ours.sealed)?, device, &info(ours.epoch, workspace))?;
        let mut keys = Vec::new();
        for epoch in document.epochs.iter().rev() {
            let older = (epoch.epoch > 1).then(|| unchain(&key, epoch, workspace)).transpose()?;
            keys.push(key);
            match older {
                Some(older) => key = older,
                None => break,
            }
        }
        keys.reverse();
        Ok((document, Ring(keys)))
    }

    /// The document as it lies in its file.
    pub fn to_text(&self) -> Result<String, Said> {
        serde_json::to_string(self).map_err(|failed| Said::new(Code::Failed, failed.to_string()))
    }

    fn parse(untrusted_document: &[u8]) -> Result<Self, Said> {
        if untrusted_document.len() > LIMIT {
            return Err(Said::bad("The file of wrapped keys is too large."));
        }
        let document: Self = serde_json::from_slice(untrusted_document).map_err(|_| {
            Said::new(Code::Damaged, "The file of wrapped keys cannot be read.").safe("It was left as it is.")
        })?;
        if document.schema != SCHEMA {
            return Err(Said::new(Code::Damaged, "The wrapped keys are of a form that this version cannot read.")
                .next("Update Twofold."));
        }
        check_name(&document.workspace)?;
        let in_order = document.epochs.iter().zip(1..).all(|(epoch, number)| epoch.epoch == number);
        if document.epochs.is_empty() || !in_order {
            return Err(Said::new(Code::Damaged, "The file of wrapped keys lacks an epoch."));
        }
        Ok(document)
    }

    /// Of the wraps for one recipient the newest is enough: it opens all older epochs.
    fn prune(&mut self) {
        let newer =
            |one: &Wrap, other: &Wrap| (&one.kind, &one.id) == (&other.kind, &other.id) && one.epoch < other.epoch;
        let all = self.wraps.clone();
        self.wraps.retain(|wrap| !all.iter().any(|other| newer(wrap, other)));
    }

    fn newest(&self) -> u32 {
        self.epochs.last().map_or(0, |epoch| epoch.epoch)
    }

    fn wrap(&mut self, ring: &Ring, public: &[u8; 32]) -> Result<(), Said> {
        let epoch = ring.current();
        let Some(key) = ring.key(epoch) else { return Err(Said::bad("There is no key yet.")) };
        let sealed = hpke::seal(key, public, &info(epoch, &self.workspace))?;
        let id = hex::encode(digest(&SHA256, public).as_ref());
        self.wraps.push(Wrap { epoch, kind: DEVICE.into(), id, sealed: hex::encode(&sealed) });
        Ok(())
    }
}

/// The key for one boot part, of one epoch.
pub fn part(key: &Secret, name: &str) -> Result<Secret, Said> {
    let mut input = Zeroizing::new(key.bytes().to_vec());
    input.extend_from_slice(name.as_bytes());
    derive("twofold 2026 boot part 1", &input)
}

fn derive(context: &str, input: &[u8]) -> Result<Secret, Said> {
    Secret::with(|key| {
        *key = blake3::derive_key(context, input);
        Ok(())
    })
}

fn check_name(workspace: &str) -> Result<(), Said> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if workspace.is_empty() || workspace.len() > 64 || !workspace.bytes().all(good) {
        return Err(Said::bad("This is no name of a workspace."));
    }
    Ok(())
}

fn info(epoch: u32, workspace: &str) -> Vec<u8> {
    [&b"twofold-epoch-key-1\0"[..], &epoch.to_le_bytes()[..], workspace.as_bytes()].concat()
}

fn bound(epoch: u32, workspace: &str) -> Vec<u8> {
    [&epoch.to_le_bytes()[..], workspace.as_bytes()].concat()
}

fn chain(newer: &Secret) -> Result<LessSafeKey, Said> {
    let key = derive("twofold 2026 older epoch 1", newer.bytes())?;
    let key = UnboundKey::new(&AES_256_GCM, key.bytes()).map_err(|_| Said::new(Code::Failed, "The cipher refused."))?;
    Ok(LessSafeKey::new(key))
}

/// Each chain key seals one thing, once.
fn zero() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn unchain(newer: &Secret, epoch: &Epoch, workspace: &str) -> Result<Secret, Said> {
    let torn = || Said::new(Code::Damaged, format!("The key of epoch {} is damaged.", epoch.epoch - 1));
    let mut sealed = Zeroizing::new(hex::decode(&epoch.older)?);
    let plain = chain(newer)?
        .open_in_place(zero(), Aad::from(bound(epoch.epoch, workspace)), &mut sealed)
        .map_err(|_| torn())?;
    if plain.len() != SIZE {
        return Err(torn());
    }
    Secret::with(|key| {
        key.copy_from_slice(plain);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(ring: &Ring) -> Vec<[u8; SIZE]> {
        ring.keys().map(|(_, key)| *key.bytes()).collect()
    }

    #[test]
    fn the_newest_key_opens_all_older_ones_and_no_older_key_a_newer() {
        let device = Secret::random().unwrap();
        let (first, ring) = Document::make("work", &device).unwrap();
        let (second, ring) = first.next(ring, &device).unwrap();
        let (third, ring) = second.next(ring, &device).unwrap();
        let text = third.to_text().unwrap();
        let (_, opened) = Document::open(text.as_bytes(), "work", &device).unwrap();
        assert_eq!((opened.current(), all(&opened)), (3, all(&ring)));
        let (_, old) = Document::open(first.to_text().unwrap().as_bytes(), "work", &device).unwrap();
        assert_eq!(all(&old), all(&ring)[..1]);
        assert!(unchain(old.key(1).unwrap(), &third.epochs[2], "work").is_err());
        for (_, key) in ring.keys() {
            assert!(!text.contains(&hex::encode(key.bytes())));
        }
    }

    #[test]
    fn so_many_epochs_as_a_document_holds_and_then_none_is_begun_that_could_not_be_read() {
        let (device, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        let (mut made, mut ring) = Document::make("work", &device).unwrap();
        made.wrap(&ring, &hpke::public(&other)).unwrap();
        let refused = loop {
            match made.next(ring, &device) {
                Ok((next, newer)) => (made, ring) = (next, newer),
                Err(refused) => break refused,
            }
            assert_eq!(made.wraps.len(), 2, "one for each");
        };
        assert_eq!(refused.code, Code::Refused);
        let text = made.to_text().unwrap();
        let (_, opened) = Document::open(text.as_bytes(), "work", &device).unwrap();
        assert!(opened.current() > 600);
    }

    #[test]
    fn another_device_or_workspace_or_a_changed_file_opens_nothing() {
        let (device, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        let (made, ring) = Document::make("work", &device).unwrap();
        let text = made.next(ring, &device).unwrap().0.to_text().unwrap();
        assert_eq!(Document::open(text.as_bytes(), "work", &other).unwrap_err().code, Code::Damaged);
        assert_eq!(Document::open(text.as_bytes(), "play", &device).unwrap_err().code, Code::Damaged);
        assert!(Document::open(text.replace("\"work\"", "\"play\"").as_bytes(), "play", &device).is_err());
        for at in 0..text.len() {
            let mut torn = text.clone().into_bytes();
            torn[at] ^= 1;
            // A digit of the older wrap may change unnoticed: it is not read. The keys must never be others.
            if let Ok((_, opened)) = Document::open(&torn, "work", &device) {
                assert_eq!(
                    all(&opened),
                    all(&Document::open(text.as_bytes(), "work", &device).unwrap().1),
                    "byte {at}"
                );
            }
        }
    }

    #[test]
    fn a_device_that_was_left_out_of_the_newest_epoch_is_told() {
        let (device, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        let (made, ring) = Document::make("work", &device).unwrap();
        let (taken, _) = made.next(ring, &other).unwrap();
        let refused = Document::open(taken.to_text().unwrap().as_bytes(), "work", &device).unwrap_err();
        assert_eq!(refused.code, Code::Refused);
    }

    #[test]
    fn keys_wrapped_for_another_device_open_there_alone() {
        let (device, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        let (made, ring) = Document::make("work", &device).unwrap();
        let (made, ring) = made.next(ring, &device).unwrap();
        let text = made.rewrap(&ring, &hpke::public(&other)).unwrap().to_text().unwrap();
        let (moved, opened) = Document::open(text.as_bytes(), "work", &other).unwrap();
        assert_eq!(all(&opened), all(&ring));
        assert_eq!(Document::open(text.as_bytes(), "work", &device).unwrap_err().code, Code::Damaged);
        // There a new epoch begins, which what this device has does not open.
        let (next, newer) = moved.next(opened, &other).unwrap();
        assert!(Document::open(next.to_text().unwrap().as_bytes(), "work", &device).is_err());
        assert!(unchain(ring.key(2).unwrap(), &next.epochs[2], "work").is_err());
        assert_eq!(all(&newer)[..2], all(&ring));
        assert!(made.rewrap(&ring, &[0; 32]).is_err(), "a point of low order");
    }

    #[test]
    fn nonsense_is_refused() {
        let device = Secret::random().unwrap();
        for text in ["", "{}", "null", "[]", r#"{"schema":"twofold-keys-1","workspace":"work","epochs":[],"wraps":[]}"#]
        {
            assert!(Document::open(text.as_bytes(), "work", &device).is_err());
        }
        assert!(Document::make("../x", &device).is_err());
    }
}
