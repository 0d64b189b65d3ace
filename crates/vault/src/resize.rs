//! Devices that get another size.

use std::sync::atomic::Ordering;

use crate::device::Device;
use crate::error::Error;
use crate::inner::{Inner, State};
use crate::open::check_size;
use crate::slot::{BLOCK, Header, Kind, Origin, Record};
use crate::sync::{lock, read, write};
use crate::vault::Vault;

/// Blocks that one record names here.
const RUN: u64 = 1 << 30;

impl Vault {
    /// Gives a device another size, durably. What it grows by is zeroes, over a base too, and counts as changed. What is to be
    /// cut off can't be written from the beginning on, and is zeroes before it is gone.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Invalid`] for a size that cannot be, [`Error::ReadOnly`]: nothing was changed.
    /// [`Error::NoSpace`]: a device that was to grow is as it was, or has grown and the next flush makes it durable; one that
    /// was to shrink may have lost what was to be cut off. It can be done again.
    pub fn resize(&self, name: &str, size: u64) -> Result<(), Error> {
        let inner = &self.inner;
        inner.writable()?;
        let device = self.device(name)?;
        let _one = lock(&inner.upkeep);
        check_size(name, size)?;
        let before = device.size();
        if before == size {
            return Ok(());
        }
        if device.read_only() {
            return Err(Error::ReadOnly);
        }
        let result = if size < before { device.give_up(size) } else { Ok(()) };
        let result = result.and_then(|()| device.change_size(size));
        device.disk.limit.store(device.size(), Ordering::Release);
        result?;
        inner.flush()?;
        inner.write_head(true)?;
        inner.anchor_now()
    }
}

impl Device {
    /// What lies from `size` on becomes zeroes in the stored map, and nothing is written there any more.
    fn give_up(&self, size: u64) -> Result<(), Error> {
        {
            let mut state = lock(&self.inner.state);
            self.disk.limit.store(size, Ordering::Release);
            for (block, count) in runs(size, self.size()) {
                self.zero_run(&mut state, block, count)?;
            }
        }
        // No delta may reach beyond the end.
        self.inner.checkpoint_in_full()
    }

    /// The size, and with it the zeroes that it grows by, in one root.
    fn change_size(&self, size: u64) -> Result<(), Error> {
        let inner: &Inner = &self.inner;
        let mut state = lock(&inner.state);
        let state: &mut State = &mut state;
        inner.write_deltas(state)?;
        let mut row = self.disk.row();
        row.pages = vec![0; (size.div_ceil(1 << 30) as usize).max(row.pages.len())];
        let mut rows: Vec<_> = read(&inner.disks).iter().map(|disk| disk.row()).collect();
        rows.push(row);
        // Nothing may fail from here on. All records of growth fit one DELTA.
        state.log.prepare_upkeep(2 + inner.root_room(&state.books, &rows), true)?;
        let mut mark = Origin::NONE;
        state.log.append(Header::new(Kind::Mark, 0, 0), &[0; BLOCK], true, |_, origin, _| mark = origin);
        state.moved();
        write(&self.disk.map).resize(size);
        for (block, count) in runs(self.size(), size) {
            self.enter(state, Record { device: self.disk.id, zero: true, count, block, origin: mark });
        }
        self.disk.size.store(size, Ordering::Release);
        inner.write_deltas(state)?;
        inner.write_root(state)?;
        state.log.push()
    }
}

/// The blocks between two offsets, cut into runs.
fn runs(from: u64, to: u64) -> impl Iterator<Item = (u64, u32)> {
    let (first, behind) = (from / BLOCK as u64, to / BLOCK as u64);
    (first..behind).step_by(RUN as usize).map(move |block| (block, (behind - block).min(RUN) as u32))
}
