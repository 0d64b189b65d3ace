//! Devices that begin again.

use std::sync::atomic::Ordering;

use crate::device::Device;
use crate::error::Error;
use crate::inner::{Inner, State};
use crate::map::Map;
use crate::open::check_size;
use crate::slot::{BLOCK, Header, Kind, Record, SLOT};
use crate::sync::{lock, read, write};
use crate::vault::Vault;

impl Vault {
    /// Gives up all that was written to a device, durably and anchored: it is its base again (or zeroes), of this size, and may be
    /// written or not. One root: there is the old state or the new one. Generations keep theirs; streams are outdated by it.
    /// Nobody may be writing to the device.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Invalid`] for a size that cannot be, [`Error::ReadOnly`] if the vault is,
    /// [`Error::Damaged`]: nothing was changed. [`Error::NoSpace`]: nothing was, or it is done and the next flush makes it
    /// durable; it can be done again.
    pub fn renew(&self, name: &str, size: u64, read_only: bool) -> Result<(), Error> {
        let inner = &self.inner;
        inner.writable()?;
        let device = self.device(name)?;
        let _one = lock(&inner.upkeep);
        check_size(name, size)?;
        device.begin_again(size, read_only)?;
        inner.pace.look_again();
        inner.flush()?;
        inner.write_head(true)?;
        inner.anchor_now()
    }
}

impl Device {
    fn begin_again(&self, size: u64, read_only: bool) -> Result<(), Error> {
        let (inner, disk): (&Inner, _) = (&self.inner, &self.disk);
        let mut state = lock(&inner.state);
        let state: &mut State = &mut state;
        let before = state.books.clone();
        let stale = before.deltas.clone();
        let result = inner.forget_deltas(state, disk.id).and_then(|()| {
            let mut rows: Vec<_> = read(&inner.disks).iter().map(|disk| disk.row()).collect();
            let mut row = disk.row();
            row.pages = vec![0; size.div_ceil(1 << 30) as usize];
            rows.push(row);
            state.log.prepare_upkeep(1 + inner.root_room(&state.books, &rows), true)
        });
        if result.is_err() {
            state.books = before;
        }
        result?;
        // Nothing may fail from here on.
        state.log.append(Header::new(Kind::Mark, 0, 0), &[0; BLOCK], true, |_, _, _| {});
        state.moved();
        // Addresses are no dates any more: what was written before is gone without a newer one in its place.
        state.books.last_revert = state.books.data_head;
        *write(&disk.map) = Map::new(size);
        disk.size.store(size, Ordering::Release);
        disk.limit.store(size, Ordering::Release);
        disk.read_only.store(read_only, Ordering::Release);
        stale.iter().for_each(|old| inner.table.live(*old, -1));
        inner.write_root(state)?;
        state.log.push()
    }
}

impl Inner {
    /// New deltas, which say what the old ones do of all other devices.
    fn forget_deltas(&self, state: &mut State, device: u16) -> Result<(), Error> {
        self.write_deltas(state)?;
        state.log.push()?;
        let mut buffer = [0; SLOT];
        let mut others: Vec<Record> = Vec::new();
        for origin in std::mem::take(&mut state.books.deltas) {
            let (_, payload) = self.table.read_slot(origin, Kind::Delta, &mut buffer)?;
            let records = Record::decode(payload, origin).unwrap_or_default();
            others.extend(records.into_iter().filter(|record| record.device != device));
        }
        state.books.recent = others;
        self.write_deltas(state)
    }
}
