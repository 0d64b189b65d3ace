//! Upgrade in place (docs/vault-format.md, *Compatibility*): the newest root says first what the vault uses from now on, the
//! file `vault` last. Cut short anywhere, an older implementation opens it as it was or heeds the root, and the next opening
//! by a newer one carries on.

use crate::error::Error;
use crate::inner::Inner;
use crate::superblock::{Features, Superblock, VERSION};
use crate::sync::lock;
use crate::vault::Vault;

impl Vault {
    /// Gives the vault features, durably, beside those that it has; no second copy of anything is made. False: it has them
    /// all already. Others read and write meanwhile. What fails or is cut short can be done again.
    ///
    /// # Errors
    /// [`Error::Invalid`] for features that [`crate::Options::known`] lacks, [`Error::ReadOnly`], [`Error::NoSpace`],
    /// [`Error::Io`], [`Error::Failed`].
    pub fn upgrade(&self, to: &Features) -> Result<bool, Error> {
        let inner = &self.inner;
        inner.writable()?;
        let _one = lock(&inner.upkeep);
        if !inner.options.known.covers(to) {
            return Err(Error::Invalid("a vault gets no features that its writer does not know".into()));
        }
        let has = lock(&inner.state).books.features;
        if has.covers(to) {
            let stated = Superblock::read(&**inner.table.store())?.features;
            inner.finish_upgrade(&stated)?;
            return Ok(false);
        }
        inner.root_with(|books| {
            books.features = has.with(to);
            Ok(())
        })?;
        inner.anchor_now()?;
        inner.finish_upgrade(&has)?;
        Ok(true)
    }
}

impl Inner {
    /// Where the newest root has features that the file `vault`, with `stated`, does not name: says so there too. Both heads
    /// come first, so that whoever opens by them knows.
    pub(crate) fn finish_upgrade(&self, stated: &Features) -> Result<(), Error> {
        let features = lock(&self.state).books.features;
        if stated.covers(&features) {
            return Ok(());
        }
        self.write_head(true)?;
        Superblock { version: VERSION, features, id: *self.table.id(), made: self.made }.write(&**self.table.store())
    }
}
