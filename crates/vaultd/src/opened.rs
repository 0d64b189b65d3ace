//! The open vault: its devices over NBD, its generations, its streams.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;
use serde::Deserialize;
use serde_json::{Value, json};
use twofold_nbd::Server;
use twofold_vault as vault;
use twofold_vault::{DeviceSpec, FileAnchor, Folder, Keyring, Options, Store, Vault};

use crate::check;
use crate::epoch::Held;
use crate::export::Disk;
use crate::far::{self, Far};
use crate::image::Image;
use crate::keys::Ring;
use crate::memory::{self, Progress};
use crate::said::{Code, Said};
use crate::service::Service;

/// Free bytes below which devices are told that there is no room: the cleaner's. The agent pauses a guest earlier.
pub const RESERVE: u64 = 64 << 20;
/// Threads of the NBD server for reads and flushes that wait for the disk.
const WORKERS: usize = 16;
/// The stream of a machine's memory.
pub const MEMORY: &str = "memory";
/// Ranges in one answer.
const RANGES: usize = 4096;
const UNCHANGED: &str = "Nothing was changed.";

/// A device as `create` names it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceArgs {
    name: String,
    size: u64,
}

/// Tells whoever watches of a full disk or of damage; not more than once a second.
#[derive(Clone)]
pub struct Alarm {
    service: Weak<Service>,
    last: Arc<Mutex<Option<Instant>>>,
}

impl Alarm {
    fn new(service: Weak<Service>) -> Self {
        Self { service, last: Arc::default() }
    }

    /// A write found no room.
    pub fn no_space(&self) {
        self.tell(&json!({"event": "no_space"}));
    }

    /// A read found damage.
    pub fn damaged(&self, text: &str) {
        self.tell(&json!({"event": "damaged", "text": text}));
    }

    fn tell(&self, event: &Value) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() > Duration::from_secs(1)) {
            *last = Some(Instant::now());
            if let Some(service) = self.service.upgrade() {
                service.tell(event);
            }
        }
    }
}

/// An open vault. Dropping it without [`Opened::close`] is what a crash is.
pub struct Opened {
    workspace: String,
    vault: Vault,
    keys: Held,
    server: Arc<Server>,
    closing: Arc<AtomicBool>,
    image: Option<Image>,
    far: Option<Far>,
    // Their paths name these descriptors.
    _folders: [OwnedFd; 2],
}

/// What a vault lies in and is opened with.
pub struct Place {
    /// Its workspace's name, which is also the anchor's.
    pub workspace: String,
    /// The vault's folder.
    pub folder: OwnedFd,
    /// The folder of anchors.
    pub anchors: OwnedFd,
    /// Its keys.
    pub ring: Ring,
    /// What its devices are where they were never written.
    pub image: Option<Image>,
    /// Where those of its files are that are not here.
    pub far: Option<Far>,
}

impl Place {
    /// What the vault lies on.
    pub fn store(&self) -> Arc<dyn Store> {
        match &self.far {
            Some(far) => far.store(),
            None => Arc::new(Folder::new(path(&self.folder))),
        }
    }
}

impl Opened {
    /// Make a vault in an empty folder.
    pub fn create(place: &Place, devices: &[DeviceArgs]) -> Result<(), Said> {
        let specs: Vec<_> =
            devices.iter().map(|device| DeviceSpec { name: device.name.clone(), size: device.size }).collect();
        Vault::create(Arc::new(Folder::new(path(&place.folder))), keyring(&place.ring)?, &specs)?;
        Ok(())
    }

    /// Open a vault. `accept`: as it is, although it is older than its anchor or the anchor is lost; somebody said so.
    pub fn open(place: Place, accept: bool, service: Weak<Service>) -> Result<Self, Said> {
        let store = place.store();
        let Place { workspace, folder, anchors, ring, image, far } = place;
        let anchor = Arc::new(FileAnchor::new(format!("{}/{workspace}", path(&anchors))));
        let bases = image.as_ref().map(Image::bases).unwrap_or_default();
        let options = Options { reserve: RESERVE, replace_anchor: accept, bases, ..Options::default() };
        let vault = Vault::open(store, keyring(&ring)?, anchor, options)?;
        if accept {
            // Whether it was lived already can't be told any more.
            vault.consume(MEMORY)?;
        }
        let feed = far.as_ref().map(|far| Arc::clone(&far.feed));
        let (server, closing, alarm) = (Server::new(WORKERS), Arc::default(), Alarm::new(service));
        for info in vault.devices() {
            let base = image.as_ref().and_then(|image| image.base(&info.name));
            let disk = Disk::new(
                vault.clone(),
                vault.device(&info.name)?,
                base,
                feed.clone(),
                Arc::clone(&closing),
                alarm.clone(),
            );
            server.insert(&info.name, Arc::new(disk));
        }
        Ok(Self { workspace, vault, keys: Held::new(ring), server, closing, image, far, _folders: [folder, anchors] })
    }

    /// Serve NBD on a listening socket, for ever; peers of another user are hung up on.
    pub fn listen(&self, listener: UnixListener) -> Result<(), Said> {
        let server = Arc::clone(&self.server);
        let us = rustix::process::geteuid();
        let admit = move |stream: &UnixStream| socket_peercred(stream).is_ok_and(|peer| peer.uid == us);
        thread::Builder::new().name("nbd-listen".into()).spawn(move || {
            if let Err(failed) = server.listen(&listener, admit, |said| eprintln!("nbd: {said}")) {
                eprintln!("nbd: the socket failed: {failed}");
            }
        })?;
        Ok(())
    }

    /// The other end of a stream on which one device is served.
    pub fn connect(&self, device: &str) -> Result<UnixStream, Said> {
        self.vault.device(device)?;
        let (ours, theirs) = UnixStream::pair()?;
        let server = Arc::clone(&self.server);
        thread::Builder::new().name("nbd".into()).spawn(move || {
            if let Err(failed) = server.serve(ours) {
                eprintln!("nbd: {failed}");
            }
        })?;
        Ok(theirs)
    }

    /// Where its base comes from.
    ///
    /// # Errors
    /// `NotFound`: it has none.
    pub fn image(&self) -> Result<&Image, Said> {
        self.image.as_ref().ok_or_else(|| Said::new(Code::NotFound, "This store holds all of its disks itself."))
    }

    /// Where the files are that are not here; None if all are.
    pub fn far(&self) -> Option<&Far> {
        self.far.as_ref()
    }

    /// Its workspace's name.
    pub fn workspace(&self) -> &str {
        &self.workspace
    }

    /// The vault itself.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// The folder of its files.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self._folders[0].as_fd()
    }

    /// The keys of now.
    pub fn keys(&self) -> &Held {
        &self.keys
    }

    /// Make everything durable.
    pub fn flush(&self) -> Result<(), Said> {
        Ok(self.vault.flush()?)
    }

    /// The exact state of all devices together.
    pub fn head(&self) -> Result<String, Said> {
        Ok(self.vault.head())
    }

    /// What is open.
    pub fn status(&self) -> Result<Value, Said> {
        let info = self.vault.info();
        let devices: Vec<_> = self
            .vault
            .devices()
            .iter()
            .map(|device| json!({"name": device.name, "size": device.size, "read_only": device.read_only}))
            .collect();
        Ok(json!({
            "workspace": self.workspace,
            "devices": devices,
            "connections": self.server.connections(),
            "epoch": info.epoch,
            "format": format(&info),
            "head": self.vault.head(),
            "segments": info.segments,
            "stored": info.stored,
            "live": info.live,
            "tail": info.tail,
            "map_memory": info.map_memory,
            "made": info.made,
            "anchored": info.anchored.map(|anchored| anchored.to_string()),
            "base": self.image.as_ref().map(Image::status),
            "far": self.far.as_ref().map(Far::status),
        }))
    }

    /// One pass of the cleaner, which also works by itself; without `moving` only of files that are dead as a whole.
    pub fn clean(&self, moving: bool) -> Result<Value, Said> {
        let done = if moving { self.vault.clean(vault::Cleaning::default())? } else { self.vault.sweep()? };
        Ok(json!({"moved": done.moved, "removed": done.removed}))
    }

    /// Make a device read-only for ever.
    pub fn freeze(&self, device: &str) -> Result<(), Said> {
        Ok(self.vault.freeze(device)?)
    }

    /// Give a device another size, which connections see from the next one on. `shrink`: what lies beyond may be lost.
    ///
    /// # Errors
    /// `Conflict`: memory is stored, which would not fit any more; or it shrinks, and somebody is connected.
    pub fn resize(&self, device: &str, size: u64, shrink: bool) -> Result<(), Said> {
        let found = self.vault.device(device)?;
        if found.read_only() {
            return Err(Said::new(Code::Refused, format!("The device {device} can only be read.")).safe(UNCHANGED));
        }
        self.unsuspended()?;
        if size < found.size() {
            if !shrink {
                let has = found.size();
                let text = format!("The device {device} has {has} bytes: to make it smaller loses what lies beyond.");
                return Err(Said::new(Code::Refused, text).safe(UNCHANGED));
            }
            self.unused()?;
        }
        Ok(self.vault.resize(device, size)?)
    }

    /// Give up all that was written to a device: it is its base again. One that there was not is made.
    ///
    /// # Errors
    /// `Conflict`: memory is stored that is lost by it, or somebody is connected. `BadInput`: no device can have this size.
    pub fn renew(&self, device: &str, size: u64, read_only: bool) -> Result<(), Said> {
        self.unsuspended()?;
        self.unused()?;
        match self.vault.device(device) {
            Err(vault::Error::Unknown(_)) => {
                self.vault.add_device(&DeviceSpec { name: device.to_owned(), size })?;
                if read_only { Ok(self.vault.freeze(device)?) } else { Ok(()) }
            }
            _ => Ok(self.vault.renew(device, size, read_only)?),
        }
    }

    fn unsuspended(&self) -> Result<(), Said> {
        if self.vault.streams().iter().any(|stream| stream.name == MEMORY && stream.current) {
            return Err(Said::new(
                Code::Conflict,
                "The workspace is suspended, and its memory belongs to these disks.",
            )
            .safe(UNCHANGED)
            .next("Start it, and shut it down."));
        }
        Ok(())
    }

    /// Somebody who is connected would have caches of another state.
    fn unused(&self) -> Result<(), Said> {
        if self.server.connections() == 0 {
            return Ok(());
        }
        let text = "The workspace's disks are in use.";
        Err(Said::new(Code::Conflict, text).safe(UNCHANGED).next("Stop the workspace first."))
    }

    /// Keep the present state of all devices as a generation.
    pub fn commit(&self, note: &str) -> Result<Value, Said> {
        let made = self.vault.commit(note)?;
        Ok(json!({"generation": made.number, "time": made.time, "head": self.vault.head()}))
    }

    /// The generations that are kept, the oldest first.
    pub fn generations(&self) -> Value {
        let all = self.vault.generations();
        let all: Vec<_> =
            all.iter().map(|one| json!({"generation": one.number, "time": one.time, "note": one.note})).collect();
        json!({"generations": all})
    }

    /// Keep a generation no longer.
    pub fn forget(&self, generation: u64) -> Result<(), Said> {
        Ok(self.vault.drop_generation(generation)?)
    }

    /// Put all devices back to a generation.
    ///
    /// # Errors
    /// `Conflict`: somebody is connected, whose caches would be of another state.
    pub fn revert(&self, generation: u64) -> Result<(), Said> {
        self.unused()?;
        Ok(self.vault.revert(generation)?)
    }

    /// Which ranges of a device changed since a generation, from `offset` on; at most [`RANGES`] of them, and where to go on.
    pub fn changed(&self, device: &str, since: u64, offset: u64) -> Result<Value, Said> {
        let device = self.vault.device(device)?;
        let length = device.size().saturating_sub(offset);
        let found = if length > 0 { device.changed(since, offset, length, RANGES)? } else { Vec::new() };
        let next = found.last().map_or(device.size(), |last| last.offset + last.length);
        let ranges: Vec<_> =
            found.iter().filter(|one| one.changed).map(|one| json!([one.offset, one.length])).collect();
        Ok(json!({"ranges": ranges, "next": (next < device.size()).then_some(next)}))
    }

    /// Go through everything, until nobody is there to hear of it; with `data` each block is opened. See [`check::check`].
    pub fn check(&self, data: bool, progress: Progress<'_>, gone: &AtomicBool) -> Result<Value, Said> {
        if data {
            far::whole(&self._folders[0])?;
        }
        check::check(&self.vault, MEMORY, data, progress, gone)
    }

    /// Seal a machine's memory, which belongs to the devices as they are now; durable on return. Answers the stored bytes.
    pub fn seal_memory(&self, identity: &Value, memory: BorrowedFd<'_>, progress: Progress<'_>) -> Result<u64, Said> {
        let mut writer = self.vault.stream_writer(MEMORY, identity.to_string().as_bytes())?;
        let size = memory::save(memory, &mut |offset, data| Ok(writer.write(offset, data)?), progress)?;
        Ok(writer.finish(size)?)
    }

    /// What the stored memory belongs to.
    pub fn memory_identity(&self) -> Result<Option<Value>, Said> {
        let Some(info) = self.vault.streams().into_iter().find(|info| info.name == MEMORY) else { return Ok(None) };
        let identity = serde_json::from_slice(&info.identity)
            .map_err(|_| Said::new(Code::Damaged, "The suspended memory does not say what it belongs to."))?;
        Ok(Some(identity))
    }

    /// The stored memory into an empty memory file.
    pub fn open_memory(&self, memory: BorrowedFd<'_>, progress: Progress<'_>) -> Result<(), Said> {
        let unusable = |why: vault::Error| match why {
            vault::Error::Io(..) | vault::Error::Closed => Said::from(why),
            why => Said::new(Code::Damaged, format!("The suspended memory cannot be used: {why}."))
                .safe("The disks are safe.")
                .next("Boot instead: twofold start --boot"),
        };
        let reader = self.vault.stream_reader(MEMORY).map_err(unusable)?;
        let info = reader.info();
        let (size, total, mut done) = (info.size, info.stored, 0);
        memory::lengthen(memory, size)?;
        let mut failed = None;
        let read = reader.read(|offset, data| {
            if let Err(why) = memory::place(memory, offset, data) {
                failed = Some(why);
                return Err(vault::Error::Closed);
            }
            done += data.len() as u64;
            progress(done, total);
            Ok(())
        });
        match (failed, read) {
            (Some(why), _) => Err(why),
            (None, read) => read.map_err(unusable),
        }
    }

    /// Forget the stored memory, durably.
    pub fn consume_memory(&self) -> Result<(), Said> {
        Ok(self.vault.consume(MEMORY)?)
    }

    /// Hang up on all clients, make everything durable, drop the vault's keys. Idempotent.
    pub fn close(&self) -> Result<(), Said> {
        if let Some(image) = &self.image {
            image.wants.close();
        }
        if let Some(far) = &self.far {
            far.feed.close();
        }
        self.server.close();
        self.closing.store(true, Ordering::Release);
        Ok(self.vault.close()?)
    }
}

/// The version and the features of a vault's format.
pub fn format(info: &vault::Info) -> Value {
    let (version, has) = info.format;
    json!({"version": version, "incompatible": has.incompatible, "read_compatible": has.read_compatible,
        "compatible": has.compatible})
}

/// The same keys for the vault.
pub fn keyring(ring: &Ring) -> Result<Keyring, Said> {
    let current = ring.current();
    let newest = ring.key(current).ok_or_else(|| Said::new(Code::Failed, "There is no key."))?;
    let all = Keyring::new(current, *newest.bytes());
    Ok(ring.keys().filter(|(epoch, _)| *epoch != current).fold(all, |all, (epoch, key)| all.with(epoch, *key.bytes())))
}

/// A path that means the folder of a descriptor as long as that is open, whatever becomes of its name (proc_pid_fd(5)).
pub fn path(folder: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", folder.as_raw_fd())
}
