//! Serves one device of a vault over NBD until its input ends: what `bench/vault.py` measures. The key is a fixed one.
//!
//! usage: vault SOCKET FOLDER [BYTES]      with BYTES the vault is made first
//!
//! Lines on its input act while it runs, and are answered with one line: `commit` (the generation's number), `info`
//! (bytes stored and live), `settle` (the cleaner and the checkpoints have nothing left to do; bytes that were moved).

use std::error::Error;
use std::io::BufRead;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::{env, io, thread};

use twofold_nbd::{Export, Extents, Failure, Kind, Readiness, Server, State};
use twofold_vault::{Device, DeviceSpec, FileAnchor, Folder, Keyring, Options, RangeKind, Store, Vault};

struct Disk(Vault, Arc<Device>);

fn failure(error: twofold_vault::Error) -> Failure {
    let text = error.to_string();
    match error {
        twofold_vault::Error::Damaged(what) if what.length > 0 => Failure::at(Kind::Io, what.offset, what.length, text),
        twofold_vault::Error::NoSpace => Failure::new(Kind::NoSpace, text),
        twofold_vault::Error::ReadOnly => Failure::new(Kind::ReadOnly, text),
        _ => Failure::new(Kind::Io, text),
    }
}

impl Export for Disk {
    fn size(&self) -> u64 {
        self.1.size()
    }

    fn multi_conn(&self) -> bool {
        true // one log for all: a flush covers what any connection wrote
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        self.1.read(offset, buffer).map_err(failure)
    }

    fn try_read(&self, offset: u64, buffer: &mut [u8]) -> Result<Readiness, Failure> {
        match self.1.try_read(offset, buffer) {
            Ok(()) => Ok(Readiness::Done),
            Err(twofold_vault::Error::WouldBlock) => Ok(Readiness::WouldBlock),
            Err(error) => Err(failure(error)),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        self.1.write(offset, data).map_err(failure)
    }

    fn zero(&self, offset: u64, length: u64, _no_hole: bool) -> Result<(), Failure> {
        self.1.zero(offset, length).map_err(failure)
    }

    fn trim(&self, offset: u64, length: u64) -> Result<(), Failure> {
        self.1.trim(offset, length).map_err(failure)
    }

    fn push(&self) -> Result<(), Failure> {
        self.1.push().map_err(failure)
    }

    fn flush(&self) -> Result<(), Failure> {
        self.1.flush().map_err(failure)
    }

    fn status(&self, offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        for range in self.1.status(offset, length, 4096).map_err(failure)? {
            let state = if range.kind == RangeKind::Data { State::Data } else { State::Hole };
            extents.push(inside(range.offset, range.length, offset, length), state);
        }
        Ok(())
    }

    fn generations(&self) -> Vec<u64> {
        self.0.generations().iter().rev().map(|generation| generation.number).collect()
    }

    fn changed(&self, since: u64, offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        for range in self.1.changed(since, offset, length, 4096).map_err(failure)? {
            extents.push_changed(inside(range.offset, range.length, offset, length), range.changed);
        }
        Ok(())
    }
}

/// How much of a range, which reaches to block borders, lies inside what was asked.
fn inside(from: u64, length: u64, asked: u64, asked_length: u64) -> u64 {
    (from + length).min(asked + asked_length).saturating_sub(from.max(asked))
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [socket, folder, size @ ..] = &words[..] else { return Err("usage: vault SOCKET FOLDER [BYTES]".into()) };
    let store: Arc<dyn Store> = Arc::new(Folder::new(folder));
    let ring = Keyring::new(1, [7; 32]);
    if let [size] = size {
        std::fs::create_dir(folder)?;
        Vault::create(store.clone(), ring.clone(), &[DeviceSpec { name: "disk".to_owned(), size: size.parse()? }])?;
    }
    let anchor = Arc::new(FileAnchor::new(format!("{folder}.anchor")));
    let vault = Vault::open(store, ring, anchor, Options::default())?;
    let server = Server::new(32);
    server.insert("disk", Arc::new(Disk(vault.clone(), vault.device("disk")?)));
    let listener = UnixListener::bind(socket)?;
    let accepting = server.clone();
    thread::spawn(move || accepting.listen(&listener, |_| true, |text| eprintln!("vault: {text}")));
    for line in io::stdin().lock().lines() {
        match line?.as_str() {
            "commit" => println!("{}", vault.commit("")?.number),
            "info" => println!("{} {}", vault.info().stored, vault.info().live),
            "settle" => println!("{}", settle(&vault)?),
            other => return Err(format!("what is {other}?").into()),
        }
    }
    server.close();
    vault.close()?;
    Ok(())
}

fn settle(vault: &Vault) -> Result<u64, Box<dyn Error>> {
    vault.tend()?;
    Ok(0)
}
