//! Devices that are filled once and only read ever after.

use std::sync::atomic::Ordering;

use crate::error::Error;
use crate::sync::{lock, read};
use crate::vault::Vault;

impl Vault {
    /// Refuses every write to a device from now on, durably: a base that has been filled. Idempotent.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::ReadOnly`], [`Error::NoSpace`]: then it can be written as before.
    pub fn freeze(&self, name: &str) -> Result<(), Error> {
        self.inner.writable()?;
        let _one = lock(&self.inner.upkeep);
        let disk = read(&self.inner.disks).iter().find(|disk| disk.name == name).cloned();
        let disk = disk.ok_or_else(|| Error::Unknown(format!("device {name}")))?;
        if disk.read_only.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let result = self.inner.checkpoint();
        if result.is_err() {
            disk.read_only.store(false, Ordering::Release);
        }
        result
    }
}
