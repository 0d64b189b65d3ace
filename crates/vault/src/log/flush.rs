//! Making the log durable.

use std::io;
use std::sync::Arc;

use super::{Current, End, Log};
use crate::error::Error;
use crate::segment;
use crate::slot::SLOT;
use crate::store::Medium;
use crate::table::Table;

/// A flush of so many slots is small.
const SMALL: u32 = 16;
/// Bytes that are prepared for small flushes at a time.
const AHEAD: u64 = 1 << 20;

/// What a flush has to make durable, in order.
pub(crate) struct Plan {
    files: Vec<Arc<dyn Medium>>,
    earlier: usize,
    names: u64,
    /// Files were made that the folder may not know durably yet.
    folder: bool,
    upto: End,
}

impl Log {
    /// What a flush must do after a push; None if everything is durable.
    pub fn plan(&mut self) -> Option<Plan> {
        if self.is_durable() {
            return None;
        }
        if let Some(current) = &mut self.current {
            current.expect_small_flushes();
        }
        let mut files = self.earlier.clone();
        files.extend(self.current.as_ref().map(|current| current.file.clone()));
        let folder = self.names != self.durable_names;
        Some(Plan { files, earlier: self.earlier.len(), names: self.names, folder, upto: self.end() })
    }

    /// The plan was carried out.
    pub fn planned(&mut self, plan: &Plan, result: io::Result<()>) -> Result<(), Error> {
        if let Err(why) = result {
            // The system may have dropped what it could not write: nothing after this can be trusted to be durable.
            self.fail(Arc::new(why));
            return self.usable();
        }
        self.durable_names = self.durable_names.max(plan.names);
        let done = &plan.files[..plan.earlier];
        self.earlier.retain(|file| !done.iter().any(|done| Arc::ptr_eq(done, file)));
        match &mut self.current {
            Some(current) if current.segment.number == plan.upto.number => current.durable = plan.upto.slots,
            _ => {}
        }
        Ok(())
    }
}

impl Current {
    /// Who flushes a few slots again and again should not pay for the file's growth each time.
    fn expect_small_flushes(&mut self) {
        self.small = if self.next - self.durable <= SMALL { self.small + 1 } else { 0 };
        if self.small < 4 || self.at + u64::from(SMALL) * SLOT as u64 <= self.prepared {
            return;
        }
        let from = self.at.max(self.prepared);
        let to = (self.at + AHEAD).min(segment::offset(self.capacity)).max(from);
        // It only makes things faster: an error will show where it matters.
        if to > from && self.file.prepare(from, to - from).is_ok() {
            self.prepared = to;
        }
    }
}

impl Plan {
    /// Waits for the disk.
    pub fn run(&self, table: &Table) -> io::Result<()> {
        for file in &self.files {
            file.sync()?;
        }
        if self.folder { table.store().sync() } else { Ok(()) }
    }
}
