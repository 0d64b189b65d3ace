//! Repair: what is lost is given up on purpose, so that the rest is whole again.

use std::sync::atomic::Ordering;

use crate::check::Report;
use crate::error::Error;
use crate::sync::lock;
use crate::vault::Vault;

/// What a repair gave up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Bytes of devices that are zeroes from now on.
    pub zeroed: u64,
    /// Generations that were dropped.
    pub generations: Vec<u64>,
    /// Streams that were forgotten.
    pub streams: Vec<String>,
}

impl Vault {
    /// Gives up what a check has found lost: lost ranges of the present state become zeroes, generations that cannot be read
    /// or have lost something are dropped, streams forgotten, both heads written anew. The cleaner then removes what is
    /// damaged. Nothing that can still be read is changed. After [`crate::Options::give_up_tail`] it makes the end that was
    /// found the log's end.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] if the vault is; [`Error::NoSpace`], [`Error::Failed`]: it can be done again.
    pub fn repair(&self, report: &Report) -> Result<Repaired, Error> {
        let mut done = Repaired::default();
        for loss in &report.lost {
            match loss.generation {
                Some(number) => done.generations.push(number),
                None => {
                    let device = self.device(&loss.device)?;
                    // A device that nobody may write is mended all the same; what it is, is in the next root as before.
                    let closed = device.disk.read_only.swap(false, Ordering::AcqRel);
                    let result = device.zero(loss.offset, loss.length);
                    device.disk.read_only.store(closed, Ordering::Release);
                    result?;
                    done.zeroed += loss.length;
                }
            }
        }
        done.generations.extend(report.generations.iter().map(|(number, _)| number));
        done.generations.sort_unstable();
        done.generations.dedup();
        for number in &done.generations {
            self.drop_generation(*number)?;
        }
        for (name, _) in &report.streams {
            self.consume(name)?;
            done.streams.push(name.clone());
        }
        self.checkpoint()?;
        let _one = lock(&self.inner.upkeep);
        self.inner.write_head(true)?;
        self.inner.anchor_now()?;
        Ok(done)
    }
}
