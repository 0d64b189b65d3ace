//! Keys in memory: each on a page of its own that is locked, kept out of dumps, gone in a forked child and overwritten when it
//! is dropped.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use zeroize::Zeroize;

use crate::said::{Code, Said};

/// Bytes of a key.
pub const SIZE: usize = 32;
const PAGE: usize = 4096;

static UNLOCKED: AtomicBool = AtomicBool::new(false);

/// Whether every page of keys so far could be locked (`RLIMIT_MEMLOCK` may forbid it).
pub fn all_locked() -> bool {
    !UNLOCKED.load(Ordering::Relaxed)
}

/// 32 secret bytes.
pub struct Secret {
    page: NonNull<[u8; SIZE]>,
}

// SAFETY: the page belongs to this value alone; shared references only ever read it.
unsafe impl Send for Secret {}
// SAFETY: as above; there is no interior mutability.
unsafe impl Sync for Secret {}

impl Secret {
    /// A key of zeroes on a fresh page, to be written in place by `fill`: no copy is left on the way.
    pub fn with(fill: impl FnOnce(&mut [u8; SIZE]) -> Result<(), Said>) -> Result<Self, Said> {
        // SAFETY: a new private mapping that nothing else refers to; no rustix function maps anonymous memory safely.
        let page = unsafe {
            mmap_anonymous(std::ptr::null_mut(), PAGE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        }
        .map_err(|_| Said::new(Code::NoRoom, "There is no memory for a key."))?;
        // SAFETY: the three calls name exactly the page just mapped and change no content that anybody relies on.
        unsafe {
            if mlock(page, PAGE).is_err() {
                UNLOCKED.store(true, Ordering::Relaxed);
            }
            // Where the kernel lacks one of these, the process is undumpable and never forks all the same.
            let _ = madvise(page, PAGE, Advice::LinuxDontDump);
            let _ = madvise(page, PAGE, Advice::LinuxDontFork);
        }
        let Some(page) = NonNull::new(page.cast()) else {
            return Err(Said::new(Code::NoRoom, "There is no memory for a key."));
        };
        let mut made = Self { page };
        fill(made.bytes_mut())?;
        Ok(made)
    }

    /// A fresh key from the kernel's random source.
    pub fn random() -> Result<Self, Said> {
        Self::with(random)
    }

    /// The key. Borrow it for as short a time as possible, and copy it only into something that overwrites itself.
    pub fn bytes(&self) -> &[u8; SIZE] {
        // SAFETY: the page is mapped, aligned and initialised (zeroes or more) as long as `self` lives.
        unsafe { self.page.as_ref() }
    }

    fn bytes_mut(&mut self) -> &mut [u8; SIZE] {
        // SAFETY: as in `bytes`, and `&mut self` makes this the only reference.
        unsafe { self.page.as_mut() }
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        // SAFETY: the page was mapped by `with` with this length and nothing refers to it any more.
        let _ = unsafe { munmap(self.page.as_ptr().cast(), PAGE) };
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

fn random(into: &mut [u8; SIZE]) -> Result<(), Said> {
    let mut done = 0;
    while done < SIZE {
        // getrandom(2): blocks until the kernel's source is ready, never gives weak bytes.
        done += rustix::rand::getrandom(&mut into[done..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_fresh_keys_differ_and_show_nothing() {
        let (a, b) = (Secret::random().unwrap(), Secret::random().unwrap());
        assert_ne!(a.bytes(), b.bytes());
        assert_ne!(a.bytes(), &[0; SIZE]);
        assert_eq!(format!("{a:?}"), "Secret(..)");
    }

    #[test]
    fn a_key_that_cannot_be_filled_is_none() {
        assert!(Secret::with(|_| Err(Said::bad("no"))).is_err());
    }
}
