//! What a vault must be found to hold: all states that it went through, and which of them were promised.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use twofold_vault::{BLOCK, Cleaning, DeviceSpec, Error, Keyring, Options, Vault};

use super::Dice;
use super::tape::Tape;

pub const NAMES: [&str; 2] = ["disk", "vars"];
/// A leaf of the map and a bit; less than one.
pub const BLOCKS: [usize; 2] = [512 + 24, 24];
const PAGES: usize = 70;

/// What each block of each device holds: a token of [`Contents`].
pub type Disks = [Arc<Vec<u32>>; 2];

#[derive(Clone, PartialEq)]
pub struct Stream {
    pub seed: u64,
    /// The disks that it belongs to, and how often they had moved then.
    pub disks: Disks,
    pub moved: u64,
}

#[derive(Clone)]
pub struct State {
    pub disks: Disks,
    pub generations: BTreeMap<u64, Disks>,
    pub stream: Option<Stream>,
    pub moved: u64,
}

/// Blocks by token. 0 is a block of zeroes.
#[derive(Clone, Default)]
pub struct Contents {
    blocks: Vec<Arc<[u8]>>,
    tokens: HashMap<[u8; 32], u32>,
}

impl Contents {
    fn token(&mut self, block: &[u8]) -> u32 {
        if self.blocks.is_empty() {
            self.blocks.push(Arc::from(vec![0; BLOCK]));
        }
        if block.iter().all(|byte| *byte == 0) {
            return 0;
        }
        let blocks = &mut self.blocks;
        *self.tokens.entry(*blake3::hash(block).as_bytes()).or_insert_with(|| {
            blocks.push(Arc::from(block));
            blocks.len() as u32 - 1
        })
    }

    /// None for a block that nobody ever wrote.
    fn known(&self, block: &[u8]) -> Option<u32> {
        if block.iter().all(|byte| *byte == 0) {
            return Some(0);
        }
        self.tokens.get(blake3::hash(block).as_bytes()).copied()
    }
}

pub fn page(seed: u64, nth: u64) -> Vec<u8> {
    let mut dice = Dice(seed ^ nth << 32);
    (0..BLOCK / 8).flat_map(|_| dice.roll().to_le_bytes()).collect()
}

/// A vault, and what it went through since it was opened.
#[derive(Clone)]
pub struct History {
    /// Each with the number of the change before which it can't be found.
    pub states: Vec<(usize, State)>,
    /// From that number of changes on nothing older may be found: after a power cut, after a kill.
    pub flushed: Vec<(usize, usize)>,
    pub pushed: Vec<(usize, usize)>,
    pub contents: Contents,
    pub epochs: u32,
}

pub fn key(epoch: u32) -> [u8; 32] {
    [epoch as u8; 32]
}

pub fn ring(epochs: u32) -> Keyring {
    (1..epochs).fold(Keyring::new(epochs, key(epochs)), |ring, epoch| ring.with(epoch, key(epoch)))
}

pub fn options() -> Options {
    Options {
        background: false,
        reserve: 0,
        segment_slots: 64,
        tail_limit: 150 * BLOCK as u64,
        delta_limit: 4,
        ..Options::default()
    }
}

/// A new vault on a new tape.
pub fn made() -> (Tape, History) {
    let tape = Tape::default();
    let size = |nth: usize| (BLOCKS[nth] * BLOCK) as u64;
    let specs: Vec<_> = (0..2).map(|nth| DeviceSpec { name: NAMES[nth].into(), size: size(nth) }).collect();
    Vault::create(Arc::new(tape.clone()), ring(1), &specs).unwrap();
    let disks = BLOCKS.map(|blocks| Arc::new(vec![0; blocks]));
    let state = State { disks, generations: BTreeMap::new(), stream: None, moved: 0 };
    (Tape::new(tape.image(), None), History::new(state, Contents::default(), 1))
}

pub fn open(tape: &Tape, history: &History) -> Result<Vault, Error> {
    Vault::open(Arc::new(tape.clone()), ring(history.epochs), tape.anchor(), options())
}

/// What is done to a vault. `Regrow`: cut off from a block on, and grown again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Write { device: usize, block: usize, count: usize, seed: u64 },
    Part { device: usize, offset: usize, length: usize, seed: u64 },
    Zero { device: usize, block: usize, count: usize },
    Trim { device: usize, block: usize, count: usize },
    Regrow { device: usize, block: usize },
    Push,
    Flush,
    Checkpoint,
    Tend,
    Commit,
    Revert(usize),
    Drop(usize),
    Clean,
    Stream(u64),
    Consume,
    Epoch,
    Reopen,
}

impl Op {
    pub fn any(dice: &mut Dice) -> Self {
        let device = usize::from(dice.chance(30));
        // Some blocks are written over and over.
        let hot = if dice.chance(50) { BLOCKS[device].min(40) } else { BLOCKS[device] };
        let (block, seed) = (dice.below(hot), dice.roll());
        let most = if dice.chance(20) { 90 } else { 12 };
        let count = (1 + dice.below(most)).min(BLOCKS[device] - block);
        match dice.below(100) {
            0..34 => Self::Write { device, block, count, seed },
            34..40 => {
                let offset = block * BLOCK + dice.below(BLOCK);
                let length = (1 + dice.below(3 * BLOCK)).min(BLOCKS[device] * BLOCK - offset);
                Self::Part { device, offset, length, seed }
            }
            40..43 => Self::Zero { device, block, count },
            43..45 if block > 0 => Self::Regrow { device, block },
            45..47 if device == 0 => Self::Zero { device, block: 0, count: 512 },
            43..50 => Self::Trim { device, block, count },
            50..54 => Self::Push,
            54..64 => Self::Flush,
            64..68 => Self::Checkpoint,
            68..71 => Self::Tend,
            71..76 => Self::Commit,
            76..79 => Self::Revert(dice.below(4)),
            79..82 => Self::Drop(dice.below(4)),
            82..89 => Self::Clean,
            89..93 => Self::Stream(seed),
            93..96 => Self::Consume,
            96..97 => Self::Epoch,
            _ => Self::Reopen,
        }
    }
}

impl History {
    pub fn new(state: State, contents: Contents, epochs: u32) -> Self {
        let mut contents = contents;
        contents.token(&[0; BLOCK]);
        Self { states: vec![(0, state)], flushed: vec![(0, 0)], pushed: vec![(0, 0)], contents, epochs }
    }

    pub fn now(&self) -> &State {
        &self.states[self.states.len() - 1].1
    }

    fn next(&mut self, tape: &Tape, change: impl FnOnce(&mut State)) {
        let mut state = self.now().clone();
        change(&mut state);
        self.states.push((tape.len(), state));
    }

    /// One batch: tokens of blocks that follow each other.
    fn batch(&mut self, tape: &Tape, device: usize, block: usize, tokens: &[u32]) {
        self.next(tape, |state| {
            Arc::make_mut(&mut state.disks[device])[block..block + tokens.len()].copy_from_slice(tokens);
            state.moved += 1;
        });
    }

    fn promise(&mut self, tape: &Tape) {
        self.flushed.push((tape.len(), self.states.len() - 1));
        self.pushed.push((tape.len(), self.states.len() - 1));
    }

    /// States that may be found after the first `upto` changes and a power cut, or a kill.
    pub fn possible(&self, upto: usize, kill: bool) -> std::ops::RangeInclusive<usize> {
        let promised = |all: &[(usize, usize)]| all.iter().filter(|(at, _)| *at <= upto).map(|(_, state)| *state).max();
        let first = promised(if kill { &self.pushed } else { &self.flushed }).unwrap_or(0);
        let last = self.states.iter().rposition(|(from, _)| *from <= upto).unwrap_or(0);
        first..=last
    }

    /// Which block it is, None for one that nobody ever wrote.
    pub fn known(&self, block: &[u8]) -> Option<u32> {
        self.contents.known(block)
    }

    /// The numbers that `op` gave out are the model's too.
    fn generation(&self, nth: usize) -> Option<u64> {
        self.now().generations.keys().nth(nth).copied()
    }

    /// Does `op` to the vault, and to the model before it. On an error of the vault the model has the op in it: it may
    /// have been done.
    pub fn run(&mut self, tape: &Tape, vault: &mut Vault, op: Op) -> Result<(), Error> {
        self.grow(tape, vault)?;
        match op {
            Op::Write { device, block, count, seed } => {
                let data: Vec<u8> = (0..count as u64).flat_map(|nth| page(seed, nth)).collect();
                let tokens: Vec<u32> = data.chunks(BLOCK).map(|one| self.contents.token(one)).collect();
                for (nth, batch) in tokens.chunks(32).enumerate() {
                    self.batch(tape, device, block + nth * 32, batch);
                }
                vault.device(NAMES[device])?.write((block * BLOCK) as u64, &data)
            }
            Op::Part { device, offset, length, seed } => {
                let (first, behind) = (offset / BLOCK, (offset + length).div_ceil(BLOCK));
                let old = self.now().disks[device][first..behind].to_vec();
                let mut data: Vec<u8> =
                    old.iter().flat_map(|token| self.contents.blocks[*token as usize].to_vec()).collect();
                let fresh: Vec<u8> = (0..4).flat_map(|nth| page(seed, nth)).take(length).collect();
                data[offset % BLOCK..offset % BLOCK + length].copy_from_slice(&fresh);
                let tokens: Vec<u32> = data.chunks(BLOCK).map(|one| self.contents.token(one)).collect();
                self.batch(tape, device, first, &tokens);
                vault.device(NAMES[device])?.write(offset as u64, &fresh)
            }
            Op::Zero { device, block, count } => {
                self.batch(tape, device, block, &vec![0; count]);
                vault.device(NAMES[device])?.zero((block * BLOCK) as u64, (count * BLOCK) as u64)
            }
            Op::Trim { device, block, count } => {
                self.batch(tape, device, block, &vec![0; count]);
                vault.device(NAMES[device])?.trim((block * BLOCK) as u64, (count * BLOCK) as u64)
            }
            Op::Push => {
                vault.device(NAMES[0])?.push()?;
                self.pushed.push((tape.len(), self.states.len() - 1));
                Ok(())
            }
            other => {
                self.keep(tape, vault, other)?;
                self.promise(tape);
                Ok(())
            }
        }
    }

    /// Devices are as large as they were, of which a crash or an error left one smaller.
    fn grow(&mut self, tape: &Tape, vault: &Vault) -> Result<(), Error> {
        for device in 0..2 {
            let size = (BLOCKS[device] * BLOCK) as u64;
            if vault.device(NAMES[device])?.size() != size {
                self.next(tape, |state| state.moved += 1);
                vault.resize(NAMES[device], size)?;
                self.promise(tape);
            }
        }
        Ok(())
    }

    /// All that is durable once it is done.
    fn keep(&mut self, tape: &Tape, vault: &mut Vault, op: Op) -> Result<(), Error> {
        match op {
            Op::Regrow { device, block } => {
                // First zeroes, then gone.
                self.batch(tape, device, block, &vec![0; BLOCKS[device] - block]);
                self.next(tape, |state| state.moved += 1);
                vault.resize(NAMES[device], (block * BLOCK) as u64)?;
                self.promise(tape);
                self.grow(tape, vault)
            }
            Op::Checkpoint => vault.checkpoint(),
            Op::Tend => vault.tend(),
            Op::Commit => {
                // Numbers go up by one, also where a commit failed.
                let from = self.states.len();
                let number = self.now().generations.keys().last().map_or(1, |last| last + 1);
                self.next(tape, |state| _ = state.generations.insert(number, state.disks.clone()));
                let made = vault.commit("kept")?.number;
                for (_, state) in &mut self.states[from..] {
                    if let Some(disks) = state.generations.remove(&number) {
                        state.generations.insert(made, disks);
                    }
                }
                Ok(())
            }
            Op::Revert(nth) => match self.generation(nth) {
                None => vault.flush(),
                Some(number) => {
                    self.next(tape, |state| {
                        state.disks = state.generations[&number].clone();
                        state.moved += 1;
                    });
                    vault.revert(number)
                }
            },
            Op::Drop(nth) => match self.generation(nth) {
                None => vault.flush(),
                Some(number) => {
                    self.next(tape, |state| _ = state.generations.remove(&number));
                    vault.drop_generation(number)
                }
            },
            Op::Clean => vault.clean(Cleaning { least_dead: 0.2, most: u64::MAX }).map(|_| ()),
            Op::Stream(seed) => {
                let mut writer = vault.stream_writer("memory", &seed.to_le_bytes())?;
                let data: Vec<u8> = (0..PAGES as u64).flat_map(|nth| page(seed, nth)).collect();
                writer.write(3 * BLOCK as u64, &data)?;
                self.next(tape, |state| {
                    state.stream = Some(Stream { seed, disks: state.disks.clone(), moved: state.moved });
                });
                writer.finish(100 * BLOCK as u64).map(|_| ())
            }
            Op::Consume => {
                self.next(tape, |state| state.stream = None);
                vault.consume("memory")?;
                vault.flush()
            }
            Op::Epoch => {
                self.epochs += 1;
                vault.set_keyring(ring(self.epochs))
            }
            Op::Reopen => {
                vault.close()?;
                *vault = open(tape, self)?;
                Ok(())
            }
            _ => vault.flush(),
        }
    }

    /// The disks, as tokens; zeroes where one is smaller now.
    pub fn disks(&self, vault: &Vault) -> Disks {
        [0, 1].map(|device| {
            let mut all = vec![0; BLOCKS[device] * BLOCK];
            let device_of = vault.device(NAMES[device]).unwrap();
            // What is still in the buffer can't be read where there is no room for it; in the end there is.
            let here = device_of.size() as usize;
            while let Err(error) = device_of.read(0, &mut all[..here]) {
                assert!(matches!(error, Error::NoSpace), "{error}");
            }
            let token = |(nth, block): (usize, &[u8])| {
                self.contents.known(block).unwrap_or_else(|| panic!("block {nth} of {device} was never written so"))
            };
            Arc::new(all.chunks(BLOCK).enumerate().map(token).collect())
        })
    }

    /// Which of the possible states the vault is in.
    pub fn find(&self, vault: &Vault, possible: std::ops::RangeInclusive<usize>) -> usize {
        let disks = self.disks(vault);
        let kept: Vec<u64> = vault.generations().iter().map(|generation| generation.number).collect();
        let streams = vault.streams();
        let seed = streams.first().map(|info| u64::from_le_bytes(info.identity[..].try_into().unwrap()));
        let is = |state: &State| {
            state.disks == disks
                && state.generations.keys().copied().eq(kept.iter().copied())
                && state.stream.as_ref().map(|stream| stream.seed) == seed
        };
        let Some(found) = possible.clone().rev().find(|nth| is(&self.states[*nth].1)) else {
            let near: Vec<_> = (0..self.states.len()).filter(|nth| is(&self.states[*nth].1)).collect();
            let same: Vec<_> = (0..self.states.len()).filter(|nth| self.states[*nth].1.disks == disks).collect();
            panic!("found a state that is none of {possible:?}: it is {near:?}; the disks are those of {same:?}");
        };
        let state = &self.states[found].1;
        if let (Some(info), Some(stream)) = (streams.first(), &state.stream) {
            assert!(!info.current || state.disks == stream.disks, "memory of other disks");
            let settled = possible.start() == possible.end() && state.moved == stream.moved;
            assert!(info.current || !settled, "the memory of these very disks is refused");
            let mut reader = vault.stream_reader("memory");
            while let Err(Error::NoSpace) = reader {
                reader = vault.stream_reader("memory");
            }
            match reader {
                Ok(reader) => {
                    assert!(info.current);
                    let mut next = 3;
                    let each = |offset: u64, data: &[u8]| {
                        for (nth, found) in data.chunks(BLOCK).enumerate() {
                            assert!(offset / BLOCK as u64 + nth as u64 == next && page(stream.seed, next - 3) == found);
                            next += 1;
                        }
                        Ok(())
                    };
                    reader.read(each).unwrap();
                    assert_eq!(next, 3 + PAGES as u64);
                }
                Err(Error::Outdated(_)) => assert!(!info.current),
                Err(other) => panic!("{other}"),
            }
        }
        found
    }

    /// What goes on from state `found` in another session.
    pub fn from(&self, found: usize) -> Self {
        Self::new(self.states[found].1.clone(), self.contents.clone(), self.epochs)
    }
}
