//! Making and opening a vault.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crate::anchor::{Anchor, Anchored, MemoryAnchor};
use crate::disk::Disk;
use crate::error::{Damage, Error};
use crate::inner::{Books, Inner, State, now};
use crate::keys::{Keyring, VaultId, digest, random};
use crate::log::{End, Log};
use crate::options::{DeviceSpec, Options};
use crate::pace::Pace;
use crate::recover::{self, Recovered};
use crate::root::DeviceRow;
use crate::slot::BLOCK;
use crate::store::Store;
use crate::superblock::{Features, Superblock, VERSION};
use crate::table::Table;
use crate::vault::Vault;
use crate::{head, keeper, segment};

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
        if let Err(error) = block.write(&*store) {
            let _ = store.remove(crate::superblock::NAME);
            return Err(error);
        }
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
        let may_write = block.features.check(block.version, &options.known)?;
        let table = Arc::new(Table::new(store.clone(), block.id, ring));
        let found = recover::recover(&table, &block, &options)?;
        let read_only = options.read_only || options.salvage || !may_write || !found.may_write;
        let anchored = check_anchor(&*anchor, &table, &found, &options)?;
        let Recovered { books, disks, end, highest, orphans, losses, .. } = found;
        let (id, made) = (block.id, block.made);
        if !read_only {
            give_back(&*store, &segment::name(end.number));
        }
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
        inner.count_kept();
        if !read_only {
            inner.anchor_now()?;
            inner.finish_upgrade(&block.features)?;
            if !orphans.is_empty() && inner.losses.is_empty() {
                // While a head names an older root, an opening may begin there, and need them on its way.
                inner.write_head(true)?;
                recover::sweep(&inner.table, &orphans);
            }
            if inner.options.background {
                keeper::start(&inner).map_err(|why| Error::io("a thread", why))?;
            }
        }
        Ok(Self { inner })
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
    pub(crate) fn assemble(parts: Parts) -> Arc<Self> {
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
            cleaning: Mutex::new(()),
            pace: Pace::default(),
            guard: Mutex::new(Some(parts.guard)),
            closed: AtomicBool::new(false),
            read_only: parts.read_only,
            heads: Mutex::new([None, None]),
            made: parts.made,
            losses: parts.losses,
            pins: Mutex::default(),
            held: Mutex::default(),
            replaced: Mutex::default(),
            views: Mutex::default(),
            bell: Arc::default(),
        })
    }
}

/// What a crash left of the space that the last segment had taken in advance: nothing is ever written there. File systems free it
/// where a length is set, though it stays the same.
fn give_back(store: &dyn Store, name: &str) {
    if let Ok(file) = store.open(name) {
        let _ = file.len().and_then(|length| file.set_len(length));
    }
}

fn take(store: &dyn Store) -> Result<Box<dyn Send + Sync>, Error> {
    store.lock().map_err(|why| match why.kind() {
        std::io::ErrorKind::WouldBlock => Error::Busy,
        _ => Error::io("the lock", why),
    })
}

pub(crate) fn new_row(spec: &DeviceSpec, id: u16, others: &[DeviceRow]) -> Result<DeviceRow, Error> {
    let invalid = |why: &str| Err(Error::Invalid(format!("device {}: {why}", spec.name)));
    if spec.name.is_empty() || spec.name.len() > 255 {
        return invalid("a name has 1 to 255 bytes");
    }
    check_size(&spec.name, spec.size)?;
    if others.iter().any(|row| row.name == spec.name) {
        return invalid("there is one of that name");
    }
    let pages = vec![0; spec.size.div_ceil(1 << 30) as usize];
    Ok(DeviceRow { id, read_only: false, name: spec.name.clone(), size: spec.size, pages })
}

pub(crate) fn check_size(name: &str, size: u64) -> Result<(), Error> {
    if size == 0 || size % BLOCK as u64 != 0 || size > 1 << 44 {
        return Err(Error::Invalid(format!("device {name}: a size is a multiple of 4096 up to 16 TiB")));
    }
    Ok(())
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
        epoch: table.get(found.end.number).map_or(0, |segment| segment.epoch),
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
    // Where the log went another way: the segment is another one, or the log left it before what was anchored.
    let other = table.get(known.segment).is_some_and(|segment| {
        digest(&segment.salt) != known.digest || segment.slots.load(Ordering::Acquire) < known.slots
    });
    let older = here.counter < known.counter || (here.segment, here.slots) < (known.segment, known.slots);
    // Who has only an older epoch's key can go on from an older copy, but never in the anchored epoch.
    if older || other || here.epoch < known.epoch {
        return Err(Error::Stale { found: here.to_string(), anchored: known.to_string() });
    }
    Ok(Some(known))
}
