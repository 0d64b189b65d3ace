//! The vault as its users see it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crate::anchor::{Anchor, Anchored, MemoryAnchor};
use crate::bytes::hex;
use crate::device::Device;
use crate::disk::{Base, Disk};
use crate::error::{Damage, Error};
use crate::inner::{Books, Inner, State, now};
use crate::keeper;
use crate::keys::{Keyring, VaultId, digest, random};
use crate::log::{End, Log};
use crate::recover::{self, Recovered};
use crate::root::DeviceRow;
use crate::slot::{BLOCK, SLOTS};
use crate::store::Store;
use crate::superblock::{Features, Superblock, VERSION};
use crate::sync::{lock, read, write};
use crate::table::Table;
use crate::{head, segment};

/// A device to be made.
#[derive(Clone, Debug)]
pub struct DeviceSpec {
    /// What it is asked for by; unique in the vault, at most 255 bytes.
    pub name: String,
    /// In bytes, a multiple of [`BLOCK`].
    pub size: u64,
}

/// A device that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Whether writing it is refused.
    pub read_only: bool,
}

/// What a vault takes and where it stands.
#[derive(Clone, Debug)]
pub struct Info {
    /// Its identity.
    pub id: VaultId,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// The newest root's number.
    pub counter: u64,
    /// The epoch of what is written now.
    pub epoch: u32,
    /// Segments, in files of their own or in packs.
    pub segments: usize,
    /// Bytes of all slots that the files of the vault hold.
    pub stored: u64,
    /// Bytes of about those slots that are still needed.
    pub live: u64,
    /// Bytes that an opening after a crash would replay now.
    pub tail: u64,
    /// Bytes of the map that are in memory.
    pub map_memory: usize,
    /// How far the anchor has it.
    pub anchored: Option<Anchored>,
    /// Whether it was opened read-only, or must be because of features.
    pub read_only: bool,
}

/// How to open a vault. `Options::default()` is what a vault process wants.
#[derive(Clone)]
pub struct Options {
    /// Nothing is written, not even the anchor.
    pub read_only: bool,
    /// Go on without an anchor, and make a new one: a human said so.
    pub replace_anchor: bool,
    /// Open read-only although acknowledged writes at the log's end are damaged.
    pub salvage: bool,
    /// A thread of the vault's own makes checkpoints, anchors and cleans. Without it the caller calls [`Vault::tend`].
    pub background: bool,
    /// Slots of a new segment: [`SLOTS`], or fewer where files must be small, at least 16.
    pub segment_slots: u32,
    /// Bytes behind the last root from which on a checkpoint is due.
    pub tail_limit: u64,
    /// DELTA slots from which on a full checkpoint is due. Each stands for up to 170 runs of blocks.
    pub delta_limit: usize,
    /// Bytes that leaves of one device's map may take in memory, dirty ones apart.
    pub map_memory: usize,
    /// Free bytes that are left for the cleaner: devices get [`Error::NoSpace`] before.
    pub reserve: u64,
    /// What devices are where they were never written, by name.
    pub bases: HashMap<String, Arc<dyn Base>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            replace_anchor: false,
            salvage: false,
            background: true,
            segment_slots: SLOTS,
            tail_limit: 256 << 20,
            delta_limit: 4096,
            map_memory: 128 << 20,
            reserve: 256 << 20,
            bases: HashMap::new(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Options").field("read_only", &self.read_only).finish_non_exhaustive()
    }
}

/// An open vault. Clones are handles of the same one.
#[derive(Clone)]
pub struct Vault {
    pub(crate) inner: Arc<Inner>,
}

impl Vault {
    /// Makes an empty vault in an empty store, and closes it. It is a vault once this returns; if it fails half-way, none.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Busy`], [`Error::NoSpace`], [`Error::Invalid`] for a device that cannot be.
    pub fn create(store: Arc<dyn Store>, ring: Keyring, devices: &[DeviceSpec]) -> Result<VaultId, Error> {
        let guard = take(&*store)?;
        match Superblock::read(&*store) {
            Err(Error::NotAVault) => {}
            Ok(_) | Err(Error::Damaged(_) | Error::Incompatible(_)) => return Err(Error::Exists),
            Err(other) => return Err(other),
        }
        for name in store.list().map_err(|why| Error::io("the folder", why))? {
            // Left by a making that was cut short.
            if segment::number(&name, 's').is_some() || head::NAMES.contains(&name.as_str()) {
                store.remove(&name).map_err(|why| Error::io(&name, why))?;
            }
        }
        let mut rows = Vec::new();
        for (nth, device) in devices.iter().enumerate() {
            rows.push(new_row(device, nth as u16 + 1, &rows)?);
        }
        let id: VaultId = random()?;
        let options = Options { background: false, reserve: 0, ..Options::default() };
        let inner = Inner::assemble(Parts {
            table: Arc::new(Table::new(store.clone(), id, ring)),
            disks: rows.iter().map(|row| Arc::new(Disk::new(row, None))).collect(),
            books: Books { next_generation: 1, next_pack: 1, ..Books::default() },
            end: End { number: 0, slots: 0, salt: [0; 32] },
            highest: 0,
            anchor: Arc::new(MemoryAnchor::default()),
            anchored: None,
            options,
            read_only: false,
            guard,
            made: now(),
            losses: Vec::new(),
        });
        inner.checkpoint()?;
        inner.write_head(true)?;
        let block = Superblock { version: VERSION, features: Features::default(), id, made: inner.made };
        block.write(&*store)?;
        Ok(id)
    }

    /// Opens a vault: finds its newest root, replays what follows, and compares with the anchor.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::NotAVault`], [`Error::Incompatible`], [`Error::WrongKey`], [`Error::NoKey`],
    /// [`Error::Stale`], [`Error::AnchorLost`], [`Error::ForeignAnchor`], [`Error::Damaged`], [`Error::TailDamaged`].
    pub fn open(
        store: Arc<dyn Store>,
        ring: Keyring,
        anchor: Arc<dyn Anchor>,
        options: Options,
    ) -> Result<Self, Error> {
        let guard = take(&*store)?;
        let block = Superblock::read(&*store)?;
        let may_write = block.features.check(block.version)?;
        let table = Arc::new(Table::new(store.clone(), block.id, ring));
        let found = recover::recover(&table, &block, &options)?;
        let read_only = options.read_only || options.salvage || !may_write || !found.may_write;
        let anchored = check_anchor(&*anchor, &table, &found, &options)?;
        if !read_only && found.losses.is_empty() {
            recover::sweep(&table, &found);
        }
        let Recovered { books, disks, end, highest, losses, .. } = found;
        let (id, made) = (block.id, block.made);
        let inner = Inner::assemble(Parts {
            table,
            disks,
            books,
            end,
            highest,
            anchor,
            anchored,
            options,
            read_only,
            guard,
            made,
            losses,
        });
        debug_assert_eq!(&id, inner.table.id());
        if !read_only {
            inner.anchor_now()?;
            if inner.options.background {
                keeper::start(&inner).map_err(|why| Error::io("a thread", why))?;
            }
        }
        Ok(Self { inner })
    }

    /// A device by its name.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn device(&self, name: &str) -> Result<Arc<Device>, Error> {
        let disks = read(&self.inner.disks);
        let disk =
            disks.iter().find(|disk| disk.name == name).ok_or_else(|| Error::Unknown(format!("device {name}")))?;
        Ok(Arc::new(Device::new(self.inner.clone(), disk.clone())))
    }

    /// All devices.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceInfo> {
        let info = |disk: &Arc<Disk>| DeviceInfo {
            name: disk.name.clone(),
            size: disk.size(),
            read_only: disk.read_only.load(Ordering::Acquire),
        };
        read(&self.inner.disks).iter().map(info).collect()
    }

    /// Adds a device, durably.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a device that cannot be, [`Error::NoSpace`], [`Error::ReadOnly`].
    pub fn add_device(&self, spec: &DeviceSpec) -> Result<(), Error> {
        self.inner.writable()?;
        let _one = lock(&self.inner.upkeep);
        let rows: Vec<_> = read(&self.inner.disks).iter().map(|disk| disk.row()).collect();
        let id = rows.iter().map(|row| row.id).max().unwrap_or(0) + 1;
        let base = self.inner.options.bases.get(&spec.name).cloned();
        let disk = Arc::new(Disk::new(&new_row(spec, id, &rows)?, base));
        write(&self.inner.disks).push(disk);
        let result = self.inner.checkpoint();
        if result.is_err() {
            write(&self.inner.disks).retain(|disk| disk.id != id);
        }
        result
    }

    /// Makes everything written to any device durable.
    ///
    /// # Errors
    /// [`Error::Failed`] if the disk failed; [`Error::NoSpace`].
    pub fn flush(&self) -> Result<(), Error> {
        self.inner.usable()?;
        self.inner.flush()
    }

    /// The exact state of all devices together, as text; another one after each write. See docs/vault-format.md.
    #[must_use]
    pub fn head(&self) -> String {
        let state = lock(&self.inner.state);
        let Books { data_head, digest, .. } = &state.books;
        format!("{}:{:016x}:{}", hex(self.inner.table.id()), data_head.0, hex(digest))
    }

    /// From now on new segments are sealed under the ring's current epoch.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::NoSpace`].
    pub fn set_keyring(&self, ring: Keyring) -> Result<(), Error> {
        self.inner.writable()?;
        self.inner.table.set_ring(ring);
        lock(&self.inner.state).log.close_segment();
        self.inner.checkpoint()?;
        self.inner.write_head(true)
    }

    /// Bounds what an opening would replay, and the anchor's age, where due. Called by the background thread, or by the
    /// caller, every few seconds.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Failed`].
    pub fn tend(&self) -> Result<(), Error> {
        self.inner.writable()?;
        let _one = lock(&self.inner.upkeep);
        self.inner.tend()?;
        self.inner.anchor_now()
    }

    /// Makes everything durable and bounds what an opening replays to nothing.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Failed`], [`Error::ReadOnly`].
    pub fn checkpoint(&self) -> Result<(), Error> {
        self.inner.writable()?;
        let _one = lock(&self.inner.upkeep);
        self.inner.checkpoint_in_full()
    }

    /// What it takes and where it stands.
    #[must_use]
    pub fn info(&self) -> Info {
        let inner = &self.inner;
        let segments = inner.table.all();
        let state = lock(&inner.state);
        let slots = |segment: &Arc<crate::table::Segment>| u64::from(segment.slots.load(Ordering::Relaxed));
        let live: i64 = segments.iter().map(|segment| segment.live.load(Ordering::Relaxed).max(0)).sum();
        Info {
            id: *inner.table.id(),
            made: inner.made,
            counter: state.books.counter,
            epoch: inner.table.ring().current(),
            stored: segments.iter().map(slots).sum::<u64>() * BLOCK as u64,
            segments: segments.len(),
            live: live.unsigned_abs() * BLOCK as u64,
            tail: state.books.tail * BLOCK as u64,
            map_memory: read(&inner.disks).iter().map(|disk| read(&disk.map).memory()).sum(),
            anchored: lock(&inner.anchored).clone(),
            read_only: inner.read_only,
        }
    }

    /// Makes everything durable, anchors it and gives the lock back. Devices answer [`Error::Closed`] from then on. Idempotent.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::NoSpace`]: then it is closed all the same, and all that was flushed is safe.
    pub fn close(&self) -> Result<(), Error> {
        self.inner.close()
    }
}

pub(crate) struct Parts {
    pub table: Arc<Table>,
    pub disks: Vec<Arc<Disk>>,
    pub books: Books,
    pub end: End,
    pub highest: u64,
    pub anchor: Arc<dyn Anchor>,
    pub anchored: Option<Anchored>,
    pub options: Options,
    pub read_only: bool,
    pub guard: Box<dyn Send + Sync>,
    pub made: u64,
    pub losses: Vec<Damage>,
}

impl Inner {
    fn assemble(parts: Parts) -> Arc<Self> {
        let log =
            Log::new(parts.table.clone(), parts.end, parts.highest, parts.options.reserve, parts.options.segment_slots);
        Arc::new(Self {
            pushed: log.pushed(),
            state: Mutex::new(State { log, books: parts.books }),
            table: parts.table,
            disks: RwLock::new(parts.disks),
            anchor: parts.anchor,
            anchored: Mutex::new(parts.anchored),
            options: parts.options,
            syncing: Mutex::new(()),
            upkeep: Mutex::new(()),
            guard: Mutex::new(Some(parts.guard)),
            closed: AtomicBool::new(false),
            read_only: parts.read_only,
            heads: Mutex::new([None, None]),
            made: parts.made,
            losses: parts.losses,
            pins: Mutex::default(),
            views: Mutex::default(),
            bell: Arc::default(),
        })
    }

    /// The lock on upkeep is held.
    pub(crate) fn tend(&self) -> Result<(), Error> {
        self.writable()?;
        let (tail, deltas) = {
            let state = lock(&self.state);
            (state.books.tail * BLOCK as u64, state.books.deltas.len())
        };
        let over = |disk: &Arc<Disk>| read(&disk.map).memory() > self.options.map_memory;
        if tail > self.options.tail_limit {
            if deltas > self.options.delta_limit { self.checkpoint_in_full()? } else { self.checkpoint()? }
        }
        for disk in read(&self.disks).clone().iter().filter(|disk| over(disk)) {
            write(&disk.map).shrink(self.options.map_memory * 7 / 8);
            if over(disk) {
                self.checkpoint_in_full()?;
            }
        }
        Ok(())
    }

    pub(crate) fn close(&self) -> Result<(), Error> {
        let _one = lock(&self.upkeep);
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.bell.ring();
        let finish = || {
            if self.read_only {
                return Ok(());
            }
            if lock(&self.state).books.tail > 0 {
                self.checkpoint()?;
            }
            self.anchor_now()
        };
        let result = finish();
        // The keys go with the segments and the ring.
        lock(&self.state).log.close_segment();
        self.table.clear();
        self.table.set_ring(Keyring::empty());
        *lock(&self.guard) = None;
        result
    }
}

fn take(store: &dyn Store) -> Result<Box<dyn Send + Sync>, Error> {
    store.lock().map_err(|why| match why.kind() {
        std::io::ErrorKind::WouldBlock => Error::Busy,
        _ => Error::io("the lock", why),
    })
}

fn new_row(spec: &DeviceSpec, id: u16, others: &[DeviceRow]) -> Result<DeviceRow, Error> {
    let invalid = |why: &str| Err(Error::Invalid(format!("device {}: {why}", spec.name)));
    if spec.name.is_empty() || spec.name.len() > 255 {
        return invalid("a name has 1 to 255 bytes");
    }
    if spec.size == 0 || spec.size % BLOCK as u64 != 0 || spec.size > 1 << 48 {
        return invalid("a size is a multiple of 4096 up to 256 TiB");
    }
    if others.iter().any(|row| row.name == spec.name) {
        return invalid("there is one of that name");
    }
    let pages = vec![0; spec.size.div_ceil(1 << 30) as usize];
    Ok(DeviceRow { id, read_only: false, name: spec.name.clone(), size: spec.size, pages })
}

fn check_anchor(
    anchor: &dyn Anchor,
    table: &Table,
    found: &Recovered,
    options: &Options,
) -> Result<Option<Anchored>, Error> {
    let here = Anchored {
        vault: *table.id(),
        counter: found.books.counter,
        segment: found.end.number,
        slots: found.end.slots,
        digest: digest(&found.end.salt),
    };
    let known = match anchor.load() {
        Ok(known) => known,
        Err(_) if options.replace_anchor => None,
        Err(why) => return Err(Error::io("the anchor", why)),
    };
    let Some(known) = known else {
        // A vault that was just made has nothing that could have been turned back.
        let fresh = here.counter == 1 && found.end.origin().0 == found.books.root.0 + u64::from(found.books.pieces);
        return if options.replace_anchor || options.read_only || fresh { Ok(None) } else { Err(Error::AnchorLost) };
    };
    if options.replace_anchor {
        return Ok(None);
    }
    if known.vault != here.vault {
        return Err(Error::ForeignAnchor);
    }
    let other = table.get(known.segment).is_some_and(|segment| digest(&segment.salt) != known.digest);
    if here.counter < known.counter || (here.segment, here.slots) < (known.segment, known.slots) || other {
        return Err(Error::Stale { found: here.to_string(), anchored: known.to_string() });
    }
    Ok(Some(known))
}
