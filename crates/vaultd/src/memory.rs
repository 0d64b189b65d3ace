//! A machine's memory: the data ranges of a sparse memory file, and nothing of its holes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SeekFrom, fcntl_get_seals, fstat, ftruncate, memfd_create, seek};
use rustix::io::Errno;

use crate::said::{Code, Said};

/// The largest memory that is taken.
const LARGEST: u64 = 1 << 46;
/// Bytes handed on in one step.
const STEP: usize = 8 << 20;
const PAGE: usize = 4096;

/// Told how many of how many bytes are done.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Takes bytes at an offset.
pub type Each<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), Said>;

/// Hand the data ranges of `memory` to `each`, in order, as (offset, bytes), whole pages; what lies beyond the file's
/// end is zeroes. Answers the file's size.
pub fn save(memory: BorrowedFd<'_>, each: Each<'_>, progress: Progress<'_>) -> Result<u64, Said> {
    let ranges = ranges(memory)?;
    let total = ranges.iter().map(|(_, length)| length).sum();
    let (mut room, mut done) = (vec![0; STEP], 0);
    for (mut at, mut left) in ranges {
        while left > 0 {
            let length = left.min(STEP as u64) as usize;
            fill(memory, &mut room[..length], at)?;
            let whole = length.next_multiple_of(PAGE); // only the file's end is no whole page
            room[length..whole].fill(0);
            each(at, &room[..whole])?;
            let length = length as u64;
            (at, left, done) = (at + length, left - length, done + length);
            progress(done, total);
        }
    }
    size(memory)
}

/// Make a memory file as long as suspended memory was. Anything else than a memory file is refused: what is plain goes nowhere
/// else.
pub fn lengthen(memory: BorrowedFd<'_>, size: u64) -> Result<(), Said> {
    fcntl_get_seals(memory).map_err(|_| Said::new(Code::Usage, "Memory is opened into a memory file only."))?;
    if size == 0 || size > LARGEST || size < self::size(memory)? {
        return Err(Said::new(Code::Damaged, "The suspended memory's size is impossible."));
    }
    Ok(ftruncate(memory, size)?)
}

/// Write a range of a memory file; what lies beyond its end (the rest of its last page) is left out.
pub fn place(memory: BorrowedFd<'_>, at: u64, bytes: &[u8]) -> Result<(), Said> {
    let room = size(memory)?.saturating_sub(at).min(bytes.len() as u64) as usize;
    write_all(memory, &bytes[..room], at)
}

/// A new memory file with these bytes.
pub fn holding(name: &str, bytes: &[u8]) -> Result<OwnedFd, Said> {
    let memory = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&memory, bytes.len() as u64)?;
    write_all(memory.as_fd(), bytes, 0)?;
    Ok(memory)
}

fn size(memory: BorrowedFd<'_>) -> Result<u64, Said> {
    Ok(u64::try_from(fstat(memory)?.st_size).unwrap_or(0))
}

fn fill(from: BorrowedFd<'_>, mut room: &mut [u8], mut at: u64) -> Result<(), Said> {
    while !room.is_empty() {
        let got = rustix::io::pread(from, &mut *room, at)?;
        if got == 0 {
            return Err(Said::new(Code::Failed, "The memory file became shorter."));
        }
        (room, at) = (&mut room[got..], at + got as u64);
    }
    Ok(())
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8], mut at: u64) -> Result<(), Said> {
    while !bytes.is_empty() {
        let wrote = rustix::io::pwrite(to, bytes, at)?;
        (bytes, at) = (&bytes[wrote..], at + wrote as u64);
    }
    Ok(())
}

fn ranges(memory: BorrowedFd<'_>) -> Result<Vec<(u64, u64)>, Said> {
    let (size, mut found, mut at) = (size(memory)?, Vec::new(), 0);
    while at < size {
        let start = match seek(memory, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            other => other?,
        };
        at = seek(memory, SeekFrom::Hole(start))?;
        found.push((start, at - start));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(memory: &OwnedFd) -> Vec<u8> {
        let mut all = vec![0; size(memory.as_fd()).unwrap() as usize];
        fill(memory.as_fd(), &mut all, 0).unwrap();
        all
    }

    #[test]
    fn a_sparse_file_comes_back_as_it_was_and_its_holes_cost_nothing() {
        let memory = memfd_create("t", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, (64 << 20) - 100).unwrap();
        write_all(memory.as_fd(), &[1; 5000], 8192).unwrap();
        write_all(memory.as_fd(), &[2; 13 << 20], 33 << 20).unwrap();
        write_all(memory.as_fd(), &[3; 10], (64 << 20) - 110).unwrap();
        let (mut pages, mut told) = (Vec::new(), Vec::new());
        let mut take = |at, data: &[u8]| {
            pages.push((at, data.to_vec()));
            Ok(())
        };
        let size = save(memory.as_fd(), &mut take, &mut |done, total| told.push((done, total))).unwrap();
        assert!(pages.iter().map(|(_, data)| data.len()).sum::<usize>() < 14 << 20);
        assert!(told.last().is_some_and(|(done, total)| done == total));
        let back = memfd_create("back", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&back, 32 << 20).unwrap();
        lengthen(back.as_fd(), size).unwrap();
        for (at, data) in pages {
            assert_eq!(data.len() % PAGE, 0);
            place(back.as_fd(), at, &data).unwrap();
        }
        assert!(content(&back) == content(&memory));
        assert_eq!(ranges(back.as_fd()).unwrap(), ranges(memory.as_fd()).unwrap());
        assert!(lengthen(back.as_fd(), size - 1).is_err());
        assert!(lengthen(back.as_fd(), 1 << 50).is_err());
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(lengthen(file.as_fd(), 1 << 40).is_err());
    }
}
