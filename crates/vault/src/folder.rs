//! A store on a real folder.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, FlockOperation, fadvise, fallocate, flock};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::store::{Medium, Store};

const LOCK: &str = "lock";

/// A folder on a file system. Files are made with mode 0600.
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Over an existing folder.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn options() -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        options
    }
}

impl Store for Folder {
    fn create(&self, name: &str) -> io::Result<Arc<dyn Medium>> {
        Ok(Arc::new(Real(Self::options().create_new(true).open(self.path.join(name))?)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Medium>> {
        Ok(Arc::new(Real(Self::options().open(self.path.join(name))?)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is nobody's of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn free(&self) -> io::Result<Option<u64>> {
        let about = rustix::fs::statvfs(&self.path)?;
        Ok(Some(about.f_bavail.saturating_mul(about.f_frsize)))
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let file = Self::options().create(true).truncate(false).open(self.path.join(LOCK))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }
}

struct Real(File);

impl Medium for Real {
    fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<usize> {
        let wanted = buffer.len();
        while !buffer.is_empty() {
            match self.0.read_at(buffer, offset) {
                Ok(0) => break,
                Ok(size) => {
                    buffer = &mut buffer[size..];
                    offset += size as u64;
                }
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
        Ok(wanted - buffer.len())
    }

    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match preadv2(&self.0, &mut [io::IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
            // File systems that can't tell may have to wait; the caller has workers for that.
            Err(Errno::OPNOTSUPP) => Err(io::ErrorKind::WouldBlock.into()),
            other => Ok(other?),
        }
    }

    fn will_need(&self, offset: u64, length: u64) {
        let _ = fadvise(&self.0, offset, std::num::NonZeroU64::new(length), Advice::WillNeed);
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn prepare(&self, offset: u64, length: u64) -> io::Result<()> {
        // Blocks that were written once need no entry in the file system's journal when they are written again. In one
        // piece: the page cache keeps it in pieces as large as the writes, and scattered reads find their way the sooner.
        self.write_at(&vec![0; length as usize], offset)
    }

    fn reserve(&self, length: u64) -> io::Result<()> {
        match fallocate(&self.0, FallocateFlags::KEEP_SIZE, 0, length) {
            // exFAT and others can't; there the disk may turn out full at a later write.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            other => Ok(other?),
        }
    }
}
