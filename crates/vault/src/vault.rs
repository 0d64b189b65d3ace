//! The vault as its users see it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::bytes::hex;
use crate::device::Device;
use crate::disk::Disk;
use crate::error::Error;
use crate::inner::{Books, Inner};
use crate::keys::Keyring;
use crate::open::new_row;
use crate::options::{DeviceInfo, DeviceSpec, Info};
use crate::slot::{BLOCK, Header, Kind};
use crate::superblock::VERSION;
use crate::sync::{lock, read, write};

/// An open vault. Clones are handles of the same one.
#[derive(Clone)]
pub struct Vault {
    pub(crate) inner: Arc<Inner>,
}

impl Vault {
    /// A device by its name.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn device(&self, name: &str) -> Result<Arc<Device>, Error> {
        let disks = read(&self.inner.disks);
        let disk =
            disks.iter().find(|disk| disk.name == name).ok_or_else(|| Error::Unknown(format!("device {name}")))?;
        Ok(Arc::new(Device::new(self.inner.clone(), disk.clone())))
    }

    /// All devices.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceInfo> {
        let info = |disk: &Arc<Disk>| DeviceInfo {
            name: disk.name.clone(),
            size: disk.size(),
            read_only: disk.read_only.load(Ordering::Acquire),
        };
        read(&self.inner.disks).iter().map(info).collect()
    }

    /// Adds a device, durably.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a device that cannot be, [`Error::NoSpace`], [`Error::ReadOnly`].
    pub fn add_device(&self, spec: &DeviceSpec) -> Result<(), Error> {
        self.inner.writable()?;
        let _one = lock(&self.inner.upkeep);
        let rows: Vec<_> = read(&self.inner.disks).iter().map(|disk| disk.row()).collect();
        let id = rows.iter().map(|row| row.id).max().unwrap_or(0) + 1;
        let base = self.inner.options.bases.get(&spec.name).cloned();
        let disk = Arc::new(Disk::new(&new_row(spec, id, &rows)?, base));
        write(&self.inner.disks).push(disk);
        let result = self.mark().and_then(|()| self.inner.checkpoint());
        if result.is_err() {
            write(&self.inner.disks).retain(|disk| disk.id != id);
        }
        result
    }

    /// Refuses, or allows again, to write a device; durably. For devices that are filled once.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::NoSpace`], [`Error::ReadOnly`] if the vault itself is.
    pub fn set_read_only(&self, name: &str, read_only: bool) -> Result<(), Error> {
        self.inner.writable()?;
        let device = self.device(name)?;
        let _one = lock(&self.inner.upkeep);
        let before = device.disk.read_only.swap(read_only, Ordering::AcqRel);
        let result = self.mark().and_then(|()| self.inner.checkpoint());
        if result.is_err() {
            device.disk.read_only.store(before, Ordering::Release);
        }
        result
    }

    /// The state changes by other means than writing: memory that was suspended before does not fit it any more.
    fn mark(&self) -> Result<(), Error> {
        let mut state = lock(&self.inner.state);
        state.log.prepare_upkeep(1, true)?;
        state.log.append(Header::new(Kind::Mark, 0, 0), &[0; BLOCK], true, |_, _, _| {});
        state.moved();
        state.log.push()
    }

    /// Makes everything written to any device durable.
    ///
    /// # Errors
    /// [`Error::Failed`] if the disk failed; [`Error::NoSpace`].
    pub fn flush(&self) -> Result<(), Error> {
        self.inner.usable()?;
        self.inner.flush()
    }

    /// The exact state of all devices together, as text; another one after each write. See docs/vault-format.md.
    #[must_use]
    pub fn head(&self) -> String {
        let state = lock(&self.inner.state);
        let Books { data_head, digest, .. } = &state.books;
        format!("{}:{:016x}:{}", hex(self.inner.table.id()), data_head.0, hex(digest))
    }

    /// From now on new segments are sealed under the ring's current epoch.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::NoSpace`].
    pub fn set_keyring(&self, ring: Keyring) -> Result<(), Error> {
        self.inner.writable()?;
        let _one = lock(&self.inner.upkeep);
        self.inner.table.set_ring(ring);
        lock(&self.inner.state).log.close_segment();
        self.inner.checkpoint()?;
        self.inner.write_head(true)?;
        self.inner.anchor_now()
    }

    /// Bounds what an opening would replay, and the anchor's age, where due. Called by the background thread, or by the
    /// caller, every few seconds.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Failed`].
    pub fn tend(&self) -> Result<(), Error> {
        self.inner.writable()?;
        let _one = lock(&self.inner.upkeep);
        self.inner.tend()?;
        self.inner.anchor_now()
    }

    /// Makes everything durable and bounds what an opening replays to nothing.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Failed`], [`Error::ReadOnly`].
    pub fn checkpoint(&self) -> Result<(), Error> {
        self.inner.writable()?;
        let _one = lock(&self.inner.upkeep);
        self.inner.checkpoint_in_full()
    }

    /// What it takes and where it stands.
    #[must_use]
    pub fn info(&self) -> Info {
        let inner = &self.inner;
        let segments = inner.table.all();
        let state = lock(&inner.state);
        let slots = |segment: &Arc<crate::table::Segment>| u64::from(segment.slots.load(Ordering::Relaxed));
        let live: i64 = segments.iter().map(|segment| segment.live.load(Ordering::Relaxed).max(0)).sum();
        Info {
            id: *inner.table.id(),
            made: inner.made,
            counter: state.books.counter,
            format: (VERSION, state.books.features),
            epoch: inner.table.ring().current(),
            stored: segments.iter().map(slots).sum::<u64>() * BLOCK as u64,
            segments: segments.len(),
            live: live.unsigned_abs() * BLOCK as u64,
            tail: state.books.tail * BLOCK as u64,
            map_memory: read(&inner.disks).iter().map(|disk| read(&disk.map).memory()).sum(),
            anchored: lock(&inner.anchored).clone(),
            read_only: inner.read_only,
        }
    }

    /// Makes everything durable, anchors it and gives the lock back. Devices answer [`Error::Closed`] from then on. Idempotent.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::NoSpace`]: then it is closed all the same, and all that was flushed is safe.
    pub fn close(&self) -> Result<(), Error> {
        self.inner.close()
    }
}

impl Inner {
    /// The lock on upkeep is held.
    pub(crate) fn tend(&self) -> Result<(), Error> {
        self.writable()?;
        let (tail, deltas) = {
            let state = lock(&self.state);
            (state.books.tail * BLOCK as u64, state.books.deltas.len())
        };
        let over = |disk: &Arc<Disk>| read(&disk.map).memory() > self.options.map_memory;
        if tail > self.options.tail_limit {
            if deltas > self.options.delta_limit { self.checkpoint_in_full()? } else { self.checkpoint()? }
        }
        for disk in read(&self.disks).clone().iter().filter(|disk| over(disk)) {
            write(&disk.map).shrink(self.options.map_memory * 7 / 8);
            if over(disk) {
                self.checkpoint_in_full()?;
            }
        }
        Ok(())
    }

    pub(crate) fn close(&self) -> Result<(), Error> {
        let _one = lock(&self.upkeep);
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.bell.ring();
        let finish = || {
            if self.read_only {
                return Ok(());
            }
            if lock(&self.state).books.tail > 0 {
                self.checkpoint()?;
            }
            self.anchor_now()
        };
        let result = finish();
        // The keys go with the segments and the ring.
        lock(&self.state).log.let_go();
        self.table.clear();
        self.table.set_ring(Keyring::empty());
        *lock(&self.guard) = None;
        result
    }
}
