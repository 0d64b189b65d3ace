//! The device's wrapping key as a file: `twofold-wrapping-key-1 <64 hex digits>` and a newline, mode 0600.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, OFlags, fsync, openat, renameat, unlinkat};
use zeroize::Zeroizing;

use crate::hex;
use crate::said::{Code, Said};
use crate::secret::{SIZE, Secret};

/// The file's name in the folder `device`.
pub const NAME: &str = "wrapping.key";
const FRESH: &str = ".wrapping.key.new";
const HEAD: &[u8] = b"twofold-wrapping-key-1 ";
const LENGTH: usize = HEAD.len() + 2 * SIZE + 1;

/// Read the key from its opened file.
///
/// # Errors
/// `Damaged`: it is not what was written. It is never replaced: it may be all that opens a workspace.
pub fn read(mut file: File) -> Result<Secret, Said> {
    let mut untrusted_text = Zeroizing::new([0; LENGTH + 1]);
    let mut length = 0;
    while length < untrusted_text.len() {
        match file.read(&mut untrusted_text[length..])? {
            0 => break,
            more => length += more,
        }
    }
    let digits = untrusted_text[..length].strip_prefix(HEAD).and_then(|rest| rest.strip_suffix(b"\n"));
    let digits = digits.filter(|digits| digits.len() == 2 * SIZE).and_then(|digits| std::str::from_utf8(digits).ok());
    let unreadable = || {
        Said::new(Code::Damaged, format!("This device's key file {NAME} cannot be read."))
            .safe("It was left as it is.")
            .next("Restore it from a copy. To give this device a new identity instead, move the folder away and enrol again.")
    };
    let digits = digits.ok_or_else(unreadable)?;
    Secret::with(|key| hex::decode_into(digits, key).map_err(|_| unreadable()))
}

/// The key in the folder `device`; made, durably, where there is none.
pub fn read_or_make(folder: BorrowedFd<'_>) -> Result<Secret, Said> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match openat(folder, NAME, flags, Mode::empty()) {
        Ok(file) => read(File::from(file)),
        Err(rustix::io::Errno::NOENT) => make(folder),
        Err(failed) => Err(failed.into()),
    }
}

fn make(folder: BorrowedFd<'_>) -> Result<Secret, Said> {
    let key = Secret::random()?;
    let mut text = Zeroizing::new(Vec::with_capacity(LENGTH));
    text.extend_from_slice(HEAD);
    text.extend_from_slice(Zeroizing::new(hex::encode(key.bytes())).as_bytes());
    text.push(b'\n');
    // Two first calls at once would each make a key: the second fails here, and finds the first one's the next time.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let _ = unlinkat(folder, FRESH, AtFlags::empty());
    let mut file = File::from(openat(folder, FRESH, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(&text)?;
    fsync(file.as_fd())?;
    renameat(folder, FRESH, folder, NAME)?;
    fsync(folder)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_a_spoilt_one_is_left_alone() {
        let folder = std::env::temp_dir().join(format!("twofold-device-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let handle = File::open(&folder).unwrap();
        let first = read_or_make(handle.as_fd()).unwrap();
        assert_eq!(first.bytes(), read_or_make(handle.as_fd()).unwrap().bytes());
        let path = folder.join(NAME);
        let text = std::fs::read_to_string(&path).unwrap();
        for spoilt in [&text[1..], &text[..text.len() - 1], "", &text.to_uppercase(), &format!("{text}\n")] {
            std::fs::write(&path, spoilt).unwrap();
            assert_eq!(read_or_make(handle.as_fd()).unwrap_err().code, Code::Damaged);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), spoilt);
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
