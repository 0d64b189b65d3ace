//! A vault's device as the NBD server wants it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use twofold_nbd::{Export, Extents, Failure, Kind, Readiness, State, Wake};
use twofold_vault as vault;

use crate::base::ChunkBase;
use crate::feed::{self, Feed};
use crate::opened::Alarm;

const BLOCK: u64 = 4096;
/// Ranges looked up for one question.
const RANGES: usize = 4096;

/// One device of an open vault.
pub struct Disk {
    vault: vault::Vault,
    device: Arc<vault::Device>,
    base: Option<Arc<ChunkBase>>,
    far: Option<Arc<Feed>>,
    closing: Arc<AtomicBool>,
    alarm: Alarm,
}

impl Disk {
    /// `closing`, once set, refuses every request; `alarm` is told of a full disk and of damage.
    pub fn new(
        vault: vault::Vault,
        device: Arc<vault::Device>,
        base: Option<Arc<ChunkBase>>,
        far: Option<Arc<Feed>>,
        closing: Arc<AtomicBool>,
        alarm: Alarm,
    ) -> Self {
        Self { vault, device, base, far, closing, alarm }
    }

    /// Have at hand what a change of a part of a block needs of the rest: the change itself must not wait for a network.
    fn edges(&self, offset: u64, length: u64) -> Result<(), Failure> {
        let end = offset + length;
        if self.base.is_some() || self.far.is_some() {
            let mut block = [0; BLOCK as usize];
            for edge in [offset, end].into_iter().filter(|edge| edge % BLOCK != 0) {
                self.device.read(edge - edge % BLOCK, &mut block).map_err(|error| self.failure(error))?;
            }
        }
        Ok(())
    }

    fn open(&self) -> Result<(), Failure> {
        if self.closing.load(Ordering::Acquire) {
            return Err(Failure::new(Kind::Closing, "the vault is being closed"));
        }
        Ok(())
    }

    fn failure(&self, error: vault::Error) -> Failure {
        let text = error.to_string();
        match error {
            missing if feed::is_missing(&missing) => Failure::new(Kind::Later, text),
            // From afar, and not what it should be: asked for again, before anybody hears of it.
            vault::Error::Damaged(damage) if self.far.as_ref().is_some_and(|far| far.distrust(&damage.file)) => {
                Failure::new(Kind::Later, text)
            }
            vault::Error::NoSpace => {
                self.alarm.no_space();
                Failure::new(Kind::NoSpace, text)
            }
            vault::Error::Damaged(damage) => {
                self.alarm.damaged(&text);
                if damage.length > 0 {
                    Failure::at(Kind::Io, damage.offset, damage.length, text)
                } else {
                    Failure::new(Kind::Io, text)
                }
            }
            vault::Error::Away { offset, length } => Failure::at(Kind::Later, offset, length, text),
            vault::Error::ReadOnly => Failure::new(Kind::ReadOnly, text),
            vault::Error::OutOfRange | vault::Error::Invalid(_) => Failure::new(Kind::Invalid, text),
            vault::Error::Closed => Failure::new(Kind::Closing, text),
            _ => Failure::new(Kind::Io, text),
        }
    }
}

impl Export for Disk {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_only(&self) -> bool {
        self.device.read_only()
    }

    fn multi_conn(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        self.open()?;
        self.device.read(offset, buffer).map_err(|error| self.failure(error))
    }

    fn try_read(&self, offset: u64, buffer: &mut [u8]) -> Result<Readiness, Failure> {
        self.open()?;
        match self.device.try_read(offset, buffer) {
            Ok(()) => Ok(Readiness::Done),
            Err(vault::Error::WouldBlock) => Ok(Readiness::WouldBlock),
            Err(error) => Err(self.failure(error)),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        self.open()?;
        self.edges(offset, data.len() as u64)?;
        self.device.write(offset, data).map_err(|error| self.failure(error))
    }

    fn write_may_block(&self, offset: u64, length: u64) -> bool {
        // A part of a block needs the rest of it, which may have to be read.
        offset % BLOCK != 0 || length % BLOCK != 0
    }

    fn zero(&self, offset: u64, length: u64, _no_hole: bool) -> Result<(), Failure> {
        self.open()?;
        self.edges(offset, length)?;
        self.device.zero(offset, length).map_err(|error| self.failure(error))
    }

    fn trim(&self, offset: u64, length: u64) -> Result<(), Failure> {
        self.open()?;
        self.device.trim(offset, length).map_err(|error| self.failure(error))
    }

    fn later(&self, offset: u64, length: u64, wake: Wake) {
        let rest = match &self.far {
            Some(far) => far.later(wake),
            None => Err(wake),
        };
        match (rest, &self.base) {
            (Err(wake), Some(base)) => base.later(offset, length, wake),
            (Err(wake), None) => wake(None),
            (Ok(()), _) => {}
        }
    }

    fn push(&self) -> Result<(), Failure> {
        self.device.push().map_err(|error| self.failure(error))
    }

    fn flush(&self) -> Result<(), Failure> {
        self.device.flush().map_err(|error| self.failure(error))
    }

    fn status(&self, offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        self.open()?;
        let end = offset + length;
        let ranges = match self.device.status(offset, length, RANGES) {
            // Nobody can tell yet: what is always safe to say.
            Err(missing) if feed::is_missing(&missing) => {
                extents.push(length, State::Data);
                return Ok(());
            }
            other => other.map_err(|error| self.failure(error))?,
        };
        for range in ranges {
            let state = match range.kind {
                vault::RangeKind::Data | vault::RangeKind::Base => State::Data,
                vault::RangeKind::Zero | vault::RangeKind::Hole => State::Hole,
            };
            // They reach to block borders, the request need not.
            let (from, to) = (range.offset.max(offset), (range.offset + range.length).min(end));
            if !extents.push(to - from, state) {
                break;
            }
        }
        Ok(())
    }

    fn generations(&self) -> Vec<u64> {
        self.vault.generations().iter().rev().map(|generation| generation.number).collect()
    }

    fn changed(&self, since: u64, offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        self.open()?;
        let end = offset + length;
        let ranges = match self.device.changed(since, offset, length, RANGES) {
            Err(missing) if feed::is_missing(&missing) => {
                extents.push_changed(length, true);
                return Ok(());
            }
            other => other.map_err(|error| self.failure(error))?,
        };
        for range in ranges {
            let (from, to) = (range.offset.max(offset), (range.offset + range.length).min(end));
            if !extents.push_changed(to - from, range.changed) {
                break;
            }
        }
        Ok(())
    }
}
