//! Which file holds a segment's slots now, and reading them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ring::aead::LessSafeKey;

use crate::error::{Damage, Error};
use crate::keys::{Keyring, Salt, VaultId};
use crate::pack::{self, PackRow};
use crate::root::SegmentRow;
use crate::segment;
use crate::slot::{self, BLOCK, Header, Kind, Origin, SLOT};
use crate::store::{Medium, Store};
use crate::sync::{read, write};

/// Files kept open at most.
const OPEN_FILES: usize = 384;

#[derive(Clone)]
pub(crate) enum Place {
    /// A file of its own.
    Own,
    /// In a pack; the row is loaded when first needed.
    Pack(u64, Option<Arc<PackRow>>),
}

/// One segment of the vault.
pub(crate) struct Segment {
    pub number: u64,
    pub epoch: u32,
    pub salt: Salt,
    key: LessSafeKey,
    /// Its end; for the one being written, how many slots were given out.
    pub slots: AtomicU32,
    /// About how many of its slots are needed.
    pub live: AtomicI64,
    place: RwLock<(Place, Option<Arc<dyn Medium>>)>,
}

impl Segment {
    pub fn key(&self) -> &LessSafeKey {
        &self.key
    }

    pub fn pack(&self) -> u64 {
        match &read(&self.place).0 {
            Place::Own => 0,
            Place::Pack(number, _) => *number,
        }
    }

    pub fn file_name(&self) -> String {
        match self.pack() {
            0 => segment::name(self.number),
            number => pack::name(number),
        }
    }

    /// A slot's error, without the device that the caller may add.
    pub fn damage(&self, index: u32, why: &str) -> Damage {
        Damage {
            file: self.file_name(),
            segment: self.number,
            slot: index,
            device: None,
            offset: 0,
            length: 0,
            why: why.to_owned(),
        }
    }
}

/// The file that holds a segment's slots.
pub(crate) struct Source {
    pub name: String,
    pub file: Arc<dyn Medium>,
    row: Option<Arc<PackRow>>,
}

impl Source {
    /// Where a slot lies in it; None if it was not kept.
    pub fn place(&self, index: u32) -> Option<u64> {
        self.row.as_ref().map_or_else(|| Some(segment::offset(index)), |row| row.place(index))
    }
}

/// A file and where in it.
type Found = (Arc<dyn Medium>, u64);

/// All segments, by number.
pub(crate) struct Table {
    store: Arc<dyn Store>,
    id: VaultId,
    ring: RwLock<Keyring>,
    segments: RwLock<HashMap<u64, Arc<Segment>>>,
    /// Those with an open file, oldest first.
    open: Mutex<VecDeque<Arc<Segment>>>,
    /// Slots that died since somebody counted. See [`crate::pace`].
    pub died: AtomicI64,
    /// What lies up to this address and is in a map is needed by a generation too.
    pub kept: AtomicU64,
}

impl Table {
    pub fn new(store: Arc<dyn Store>, id: VaultId, ring: Keyring) -> Self {
        Self {
            store,
            id,
            ring: RwLock::new(ring),
            segments: RwLock::new(HashMap::new()),
            open: Mutex::new(VecDeque::new()),
            died: AtomicI64::new(0),
            kept: AtomicU64::new(0),
        }
    }

    pub fn id(&self) -> &VaultId {
        &self.id
    }

    pub fn ring(&self) -> Keyring {
        read(&self.ring).clone()
    }

    pub fn set_ring(&self, ring: Keyring) {
        *write(&self.ring) = ring;
    }

    pub fn get(&self, number: u64) -> Option<Arc<Segment>> {
        read(&self.segments).get(&number).cloned()
    }

    /// All, ascending by number.
    pub fn all(&self) -> Vec<Arc<Segment>> {
        let mut all: Vec<_> = read(&self.segments).values().cloned().collect();
        all.sort_by_key(|segment| segment.number);
        all
    }

    pub fn drop_segment(&self, number: u64) {
        write(&self.segments).remove(&number);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|segment| segment.number != number);
    }

    pub fn clear(&self) {
        write(&self.segments).clear();
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Adds a segment that a root or a header names.
    pub fn add(&self, row: &SegmentRow) -> Result<Arc<Segment>, Error> {
        let key = read(&self.ring).segment(row.epoch, &self.id, row.number, &row.salt)?;
        let place = if row.pack == 0 { Place::Own } else { Place::Pack(row.pack, None) };
        let made = Arc::new(Segment {
            number: row.number,
            epoch: row.epoch,
            salt: row.salt,
            key,
            slots: AtomicU32::new(row.slots),
            live: AtomicI64::new(row.live.into()),
            place: RwLock::new((place, None)),
        });
        write(&self.segments).insert(row.number, made.clone());
        Ok(made)
    }

    /// The segment's slots lie elsewhere from now on.
    pub fn move_to_pack(&self, segment: &Arc<Segment>, number: u64, row: PackRow, file: Arc<dyn Medium>) {
        self.keep_open(segment, |place| *place = (Place::Pack(number, Some(Arc::new(row))), Some(file)));
    }

    pub fn live(&self, origin: Origin, change: i64) {
        if let Some(segment) = read(&self.segments).get(&origin.segment()) {
            self.died.fetch_sub(change.min(0), Ordering::Relaxed);
            segment.live.fetch_add(change, Ordering::Relaxed);
        }
    }

    /// The file that holds a segment, opened, and where `index` begins in it. None: the slot was not kept.
    fn locate(&self, segment: &Arc<Segment>, index: u32) -> Result<Option<Found>, Error> {
        {
            let place = read(&segment.place);
            if let (place, Some(file)) = &*place {
                match place {
                    Place::Own => return Ok(Some((file.clone(), segment::offset(index)))),
                    Place::Pack(_, Some(row)) => return Ok(row.place(index).map(|at| (file.clone(), at))),
                    Place::Pack(_, None) => {}
                }
            }
        }
        self.open_file(segment)?;
        let place = read(&segment.place);
        match &*place {
            (Place::Own, Some(file)) => Ok(Some((file.clone(), segment::offset(index)))),
            (Place::Pack(_, Some(row)), Some(file)) => Ok(row.place(index).map(|at| (file.clone(), at))),
            // Closed again at once by others that opened many.
            _ => Err(Error::WouldBlock),
        }
    }

    /// Some slots that lie one after the other will be read soon.
    pub fn will_need(&self, origin: Origin, count: u32) {
        let Some(segment) = self.get(origin.segment()) else { return };
        if let Ok(Some((file, at))) = self.locate(&segment, origin.index()) {
            file.will_need(at, u64::from(count) * SLOT as u64);
        }
    }

    fn open_file(&self, segment: &Arc<Segment>) -> Result<(), Error> {
        let name = segment.file_name();
        let file = match self.store.open(&name) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Damaged(Box::new(segment.damage(0, "the file is missing"))));
            }
            other => other.map_err(|why| Error::io(&name, why))?,
        };
        let row = match segment.pack() {
            0 => None,
            number => {
                let rows = pack::read(&*file, number, &read(&self.ring), &self.id)?;
                let row = rows.into_iter().find(|row| row.segment == segment.number && row.salt == segment.salt);
                Some(Arc::new(row.ok_or_else(|| Error::damaged(&name, "it does not hold the segment that it should"))?))
            }
        };
        self.keep_open(segment, |place| {
            if let (Place::Pack(_, kept), Some(row)) = (&mut place.0, row) {
                *kept = Some(row);
            }
            place.1 = Some(file);
        });
        Ok(())
    }

    /// The segment being written has its file already.
    pub fn opened(&self, segment: &Arc<Segment>, file: Arc<dyn Medium>) {
        self.keep_open(segment, |place| place.1 = Some(file));
    }

    fn keep_open(&self, segment: &Arc<Segment>, set: impl FnOnce(&mut (Place, Option<Arc<dyn Medium>>))) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        while open.len() >= OPEN_FILES {
            if let Some(oldest) = open.pop_front() {
                write(&oldest.place).1 = None;
            }
        }
        open.retain(|other| other.number != segment.number);
        open.push_back(segment.clone());
        set(&mut write(&segment.place));
    }

    /// Reads `count` slots that lie one after the other, as they are stored, into `slots`. With `wait` false it fails with
    /// [`Error::WouldBlock`] rather than wait for the disk.
    pub fn read_raw(&self, segment: &Arc<Segment>, index: u32, slots: &mut [u8], wait: bool) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            let found = match self.locate(segment, index) {
                // The cleaner may have moved it, or many files were opened, since we looked.
                Err(Error::WouldBlock | Error::Damaged(_)) if tries < 3 => {
                    tries += 1;
                    continue;
                }
                other => other?,
            };
            let Some((file, at)) = found else {
                return Err(Error::Damaged(Box::new(segment.damage(index, "the slot was not kept"))));
            };
            let size = if wait { file.read_at(slots, at) } else { file.try_read_at(slots, at) };
            return match size.map_err(|why| Error::io(segment.file_name(), why))? {
                all if all == slots.len() => Ok(()),
                _ if !wait => Err(Error::WouldBlock),
                short => {
                    // What is there can still be opened slot by slot.
                    slots[short..].fill(0);
                    Ok(())
                }
            };
        }
    }

    /// Reads and opens one slot, which must be what is expected. The payload is left at the end of `buffer`.
    pub fn read_slot<'a>(
        &self,
        origin: Origin,
        kind: Kind,
        buffer: &'a mut [u8; SLOT],
    ) -> Result<(Header, &'a [u8]), Error> {
        let missing = || Error::Damaged(Box::new(self.missing(origin)));
        let segment = self.get(origin.segment()).ok_or_else(missing)?;
        self.read_raw(&segment, origin.index(), buffer, true)?;
        match slot::open(&segment.key, &self.id, origin.index(), buffer) {
            Some(header) if header.kind == Some(kind) => Ok((header, &buffer[SLOT - BLOCK..])),
            Some(_) => Err(Error::Damaged(Box::new(segment.damage(origin.index(), "it holds something else")))),
            None => Err(Error::Damaged(Box::new(segment.damage(origin.index(), "it is not as it was written")))),
        }
    }

    /// A slot of a segment that the vault does not have.
    pub fn missing(&self, origin: Origin) -> Damage {
        Damage {
            file: segment::name(origin.segment()),
            segment: origin.segment(),
            slot: origin.index(),
            device: None,
            offset: 0,
            length: 0,
            why: "no such segment in the vault".to_owned(),
        }
    }

    /// Where a segment's slots lie, for the cleaner: nobody else moves them.
    pub fn source(&self, segment: &Arc<Segment>) -> Result<Source, Error> {
        for _ in 0..3 {
            {
                let place = read(&segment.place);
                match &*place {
                    (Place::Own, Some(file)) => {
                        return Ok(Source { name: segment::name(segment.number), file: file.clone(), row: None });
                    }
                    (Place::Pack(number, Some(row)), Some(file)) => {
                        return Ok(Source { name: pack::name(*number), file: file.clone(), row: Some(row.clone()) });
                    }
                    _ => {}
                }
            }
            self.open_file(segment)?;
        }
        Err(Error::WouldBlock)
    }

    /// Slots that the pack of a segment keeps of it.
    pub fn kept(&self, segment: &Arc<Segment>) -> Result<u32, Error> {
        if self.kept_if_known(segment).is_none() {
            self.open_file(segment)?;
        }
        Ok(self.kept_if_known(segment).unwrap_or(0))
    }

    /// As [`Table::kept`], without reading.
    pub fn kept_if_known(&self, segment: &Segment) -> Option<u32> {
        match &read(&segment.place).0 {
            Place::Pack(_, Some(row)) => Some(row.kept.count()),
            _ => None,
        }
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
}
