//! What a vault stands on: a folder of files. Tests put layers that record, reorder and fail under the real code here.

use std::io;
use std::sync::Arc;

/// A folder of files, known by plain names.
pub trait Store: Send + Sync {
    /// A new, empty file.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one of that name; whatever the disk says.
    fn create(&self, name: &str) -> io::Result<Arc<dyn Medium>>;

    /// An existing file, to read and write. It stays usable after [`Store::remove`].
    ///
    /// # Errors
    /// `NotFound`; whatever the disk says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn Medium>>;

    /// The names of all files, in any order.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Takes a name away.
    ///
    /// # Errors
    /// `NotFound`; whatever the disk says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Puts a file under another name, in place of what has it, in one step.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes names durable: those created, removed and renamed so far. Says nothing of content.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn sync(&self) -> io::Result<()>;

    /// Bytes that may still be taken, None if not known.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn free(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Takes the one lock of the store; it is given back when the guard is dropped or the process ends.
    ///
    /// # Errors
    /// `WouldBlock` if somebody else has it.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;
}

/// One file. Reads and writes may come from several threads at once, but never two writes to one byte.
pub trait Medium: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// As [`Medium::read_at`], but fails with `WouldBlock` rather than wait for the disk. May read fewer bytes.
    ///
    /// # Errors
    /// `WouldBlock`; whatever the disk says.
    fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buffer, offset)
    }

    /// These bytes will be read soon: a disk may begin to fetch them. May do nothing.
    fn will_need(&self, _offset: u64, _length: u64) {}

    /// Writes all of `data` at `offset`. After it the death of this process does not undo it; a power cut may, in part.
    ///
    /// # Errors
    /// `StorageFull`, or whatever the disk says; a part may have been written.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes all content written so far durable, and the length.
    ///
    /// # Errors
    /// Whatever the disk says. What was written since the last success may be lost then.
    fn sync(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn len(&self) -> io::Result<u64>;

    /// Whether it holds nothing.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or lengthens (with zeroes).
    ///
    /// # Errors
    /// Whatever the disk says.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Makes it cheap to make later writes to `length` bytes at `offset` durable; nothing was written there. They may read as
    /// zeroes afterwards. May do nothing.
    ///
    /// # Errors
    /// `StorageFull`, or whatever the disk says.
    fn prepare(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    /// Takes space for the first `length` bytes in advance without changing what is read. May do nothing.
    ///
    /// # Errors
    /// `StorageFull`.
    fn reserve(&self, _length: u64) -> io::Result<()> {
        Ok(())
    }
}

/// Reads exactly `buffer.len()` bytes; a file that ends before is `UnexpectedEof`.
pub(crate) fn read_exact(medium: &dyn Medium, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    match medium.read_at(buffer, offset)? {
        all if all == buffer.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
