//! A new key epoch in a vault that is open.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::args::Wrapped;
use crate::device;
use crate::keys::{Document, Ring};
use crate::opened::{Opened, keyring};
use crate::said::{Code, Said};
use crate::service::Answer;
use crate::verbs::{exactly, parse};

/// The keys of an open vault, which newer ones may join.
pub struct Held(Mutex<Arc<Ring>>);

impl Held {
    /// With what it was opened.
    pub fn new(ring: Ring) -> Self {
        Self(Mutex::new(Arc::new(ring)))
    }

    /// Those of now.
    pub fn now(&self) -> Arc<Ring> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Go on with these, once `done` has been done with them. Doing it twice is doing it once.
    fn renew(&self, ring: Ring, done: impl FnOnce(&Ring) -> Result<(), Said>) -> Result<u32, Said> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !ring.goes_on_from(&held) {
            let text = "These keys do not go on from those of the open store.";
            return Err(Said::new(Code::Refused, text).safe("Nothing was changed."));
        }
        let epoch = ring.current();
        if epoch > held.current() {
            done(&ring)?;
            *held = Arc::new(ring);
        }
        Ok(epoch)
    }
}

/// Seal what is written from now on under the newest of these keys, which older ones do not open.
pub fn begin(vault: &Opened, args: Value, fds: Vec<OwnedFd>) -> Result<Answer, Said> {
    let Wrapped { workspace, keys } = parse(args)?;
    let [key_file] = exactly(fds)?;
    if workspace != vault.workspace() {
        return Err(
            Said::new(Code::Refused, format!("These are the keys of {workspace}.")).safe("Nothing was changed.")
        );
    }
    let (_, ring) = Document::open(keys.as_bytes(), &workspace, &device::read(File::from(key_file))?)?;
    let epoch = vault.keys().renew(ring, |ring| Ok(vault.vault().set_keyring(keyring(ring)?)?))?;
    Ok(Answer::body(json!({"epoch": epoch})))
}
