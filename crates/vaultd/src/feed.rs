//! Ranges of files that are not on this machine: asked of the agent over a stream (`docs/protocol.md`, chapter 4, *What lies
//! afar*), since this process has no network. Nothing that comes is believed: slots are sealed, whole files have digests.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;
use serde::Deserialize;
use serde_json::{Value, json};
use twofold_chunks::Id;
use twofold_nbd::Wake;
use twofold_vault::{Manifest, Medium, Source, Store};

use crate::said::Said;
use crate::wants::{PATIENCE, Wants};

/// Bytes that are asked for and kept together.
const BLOCK: u64 = 128 << 10;
/// Blocks in one request.
const RUN: u64 = 8;
/// Bytes of a line on the stream.
const LINE: u64 = 4096;
/// A file that came damaged so often is given up.
const TRIES: u32 = 3;
/// How often a file that is brought behind looks whether somebody waits for something.
const LOOK: Duration = Duration::from_millis(20);

thread_local! {
    /// Whether this thread may wait for what is far. Those that serve a guest keep the request instead.
    static PATIENT: Cell<bool> = const { Cell::new(false) };
    /// Whether what it reads is of a file that is brought whole.
    static BRINGING: Cell<bool> = const { Cell::new(false) };
    /// What its last read lacked.
    static LACKED: RefCell<Vec<Id>> = const { RefCell::new(Vec::new()) };
}

/// From now on this thread waits for what is far, as long as it comes.
pub fn be_patient() {
    PATIENT.set(true);
}

/// What `work` reads is of a file that is brought whole: it is not kept in parts.
pub fn bringing<T>(work: impl FnOnce() -> T) -> T {
    BRINGING.set(true);
    let result = work();
    BRINGING.set(false);
    result
}

/// Bytes that are not here now.
#[derive(Debug)]
pub struct Missing(pub String);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// Whether a vault's error says no more than that.
pub fn is_missing(error: &twofold_vault::Error) -> bool {
    matches!(error, twofold_vault::Error::Io(_, why) if why.get_ref().is_some_and(|inner| inner.is::<Missing>()))
}

/// What the agent is asked for, and what came of it.
pub struct Feed {
    lengths: HashMap<String, u64>,
    here: Arc<dyn Store>,
    wants: Arc<Wants>,
    stream: Arc<Mutex<Option<UnixStream>>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    parts: HashMap<String, Part>,
    /// Blocks on their way into a file that is brought whole.
    fresh: HashMap<Id, Vec<u8>>,
    bringing: HashSet<Id>,
    tries: HashMap<String, u32>,
}

/// Blocks of a file that somebody read, in a file without a name, which goes with this process.
struct Part {
    medium: Arc<dyn Medium>,
    blocks: HashSet<u64>,
}

/// A header on the stream, with so many bytes behind it; or, with `why`, that they can't be had now.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Frame {
    name: String,
    offset: u64,
    length: u64,
    #[serde(default)]
    why: Option<String>,
}

impl Feed {
    /// For the files of a manifest, beside those that are `here`.
    pub fn new(here: Arc<dyn Store>, manifest: &Manifest) -> Result<Arc<Self>, Said> {
        let stream: Arc<Mutex<Option<UnixStream>>> = Arc::default();
        let (to, lengths) = (Arc::clone(&stream), manifest.files.iter().map(|file| (file.name.clone(), file.length)));
        let lengths: HashMap<_, _> = lengths.collect();
        let known = lengths.clone();
        let tell = move |ids: &[Id]| {
            let mut line = json!({"want": runs(ids, &known)}).to_string();
            line.push('\n');
            if let Some(stream) = lock(&to).as_mut() {
                let _ = stream.write_all(line.as_bytes()); // who has gone is followed by another, who is told again
            }
        };
        let wants = Wants::new(Box::new(tell), PATIENCE)?;
        Ok(Arc::new(Self { lengths, here, wants, stream, state: Mutex::default() }))
    }

    /// The agent answers on this stream from now on, and is told of all that is wanted.
    pub fn connect(self: &Arc<Self>, stream: OwnedFd) -> Result<(), Said> {
        let stream = UnixStream::from(stream);
        if socket_peercred(&stream)?.uid != rustix::process::geteuid() {
            return Err(Said::bad("The peer is another user."));
        }
        stream.set_write_timeout(Some(PATIENCE))?;
        let from = stream.try_clone()?;
        *lock(&self.stream) = Some(stream);
        let own = Arc::downgrade(self);
        thread::Builder::new().name("far".into()).spawn(move || {
            let mut from = BufReader::with_capacity(1 << 20, from);
            // Whoever sends nonsense is not listened to any more.
            while let Ok(Some((frame, bytes))) = receive(&mut from) {
                let Some(feed) = own.upgrade() else { return };
                feed.take(&frame, &bytes);
            }
        })?;
        self.wants.remind();
        Ok(())
    }

    fn take(&self, frame: &Frame, untrusted_bytes: &[u8]) {
        let Some(length) = self.lengths.get(&frame.name).copied() else { return };
        let Some(end) = frame.offset.checked_add(frame.length).filter(|end| *end <= length) else { return };
        if frame.offset % BLOCK != 0 || (end % BLOCK != 0 && end != length) {
            return;
        }
        let ids: Vec<_> = (frame.offset / BLOCK..end.div_ceil(BLOCK)).map(|block| id(&frame.name, block)).collect();
        if let Some(why) = &frame.why {
            return self.wants.absent(&ids, why);
        }
        for (id, bytes) in ids.iter().zip(untrusted_bytes.chunks(BLOCK as usize)) {
            if self.keep(&frame.name, *id, bytes).is_err() {
                return; // the disk is full: what waits is not told, and fails in time
            }
        }
        self.wants.arrived(&ids);
    }

    fn keep(&self, name: &str, id: Id, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        if state.bringing.contains(&id) {
            state.fresh.insert(id, bytes.to_vec());
            return Ok(());
        }
        let part = match state.parts.entry(name.to_owned()) {
            std::collections::hash_map::Entry::Occupied(part) => part.into_mut(),
            std::collections::hash_map::Entry::Vacant(none) => {
                let hidden = format!("{name}.far");
                let _ = self.here.remove(&hidden);
                let medium = self.here.create(&hidden)?;
                self.here.remove(&hidden)?;
                none.insert(Part { medium, blocks: HashSet::new() })
            }
        };
        let block = block_of(&id);
        part.medium.write_at(bytes, block * BLOCK)?;
        part.blocks.insert(block);
        Ok(())
    }

    /// Copies what is here of a range; answers what lacks.
    fn copy(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<Vec<Id>> {
        let (end, mut lacking) = (offset + buffer.len() as u64, Vec::new());
        for block in offset / BLOCK..end.div_ceil(BLOCK) {
            let id = id(name, block);
            let (from, to) = (offset.max(block * BLOCK), end.min((block + 1) * BLOCK));
            let out = &mut buffer[(from - offset) as usize..(to - offset) as usize];
            let medium = {
                let state = self.lock();
                if let Some(bytes) = state.fresh.get(&id) {
                    let at = (from - block * BLOCK) as usize;
                    match bytes.get(at..at + out.len()) {
                        Some(bytes) => out.copy_from_slice(bytes),
                        None => lacking.push(id),
                    }
                    continue;
                }
                state.parts.get(name).filter(|part| part.blocks.contains(&block)).map(|part| Arc::clone(&part.medium))
            };
            match medium {
                Some(medium) if medium.read_at(out, from)? == out.len() => self.wants.found(&id),
                _ => lacking.push(id),
            }
        }
        Ok(lacking)
    }

    /// Calls `wake` once what this thread's last read lacked is there, or will not come. False: it lacked nothing.
    pub fn later(&self, wake: Wake) -> Result<(), Wake> {
        let ids = LACKED.take();
        if ids.is_empty() {
            return Err(wake);
        }
        self.wants.wait(&ids, wake);
        Ok(())
    }

    /// What came of a file was damaged: it is asked for anew. False: that was done often enough, or it is here.
    pub fn distrust(&self, name: &str) -> bool {
        let mut state = self.lock();
        if state.parts.get(name).is_none_or(|part| part.blocks.is_empty()) {
            return false;
        }
        let tries = state.tries.entry(name.to_owned()).or_default();
        *tries += 1;
        let again = *tries <= TRIES;
        if let Some(part) = state.parts.get_mut(name).filter(|_| again) {
            part.blocks.clear();
        }
        again
    }

    /// A file is here whole.
    pub fn forget(&self, name: &str) {
        self.lock().parts.remove(name);
    }

    /// How much of a file was read so far.
    pub fn read_of(&self, name: &str) -> usize {
        self.lock().parts.get(name).map_or(0, |part| part.blocks.len())
    }

    /// Nothing is waited for any more. Idempotent.
    pub fn close(&self) {
        self.wants.close();
    }

    /// A file that is brought whole waits while a guest waits for something else, and somebody brings that.
    fn give_way(&self) {
        let until = Instant::now() + PATIENCE;
        while self.wants.count() > self.lock().bringing.len() && Instant::now() < until {
            thread::sleep(LOOK);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Source for Feed {
    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let whole = BRINGING.get();
        if whole {
            self.give_way();
        }
        let result = loop {
            let lacking = match self.copy(name, offset, buffer) {
                Ok(lacking) if lacking.is_empty() => break Ok(()),
                Ok(lacking) => lacking,
                Err(why) => break Err(why),
            };
            if whole {
                self.lock().bringing.extend(&lacking);
            }
            self.wants.ask(&lacking);
            if !PATIENT.get() {
                LACKED.set(lacking);
                break Err(io::Error::other(Missing("it is not on this machine yet".into())));
            }
            let (send, woken) = channel();
            self.wants.wait(&lacking, Box::new(move |failure| drop(send.send(failure))));
            match woken.recv() {
                Ok(None) => {}
                Ok(Some(failure)) => break Err(io::Error::other(Missing(failure.text))),
                Err(_) => break Err(io::Error::other(Missing("nobody brings it".into()))),
            }
        };
        if whole {
            let mut state = self.lock();
            for block in offset / BLOCK..(offset + buffer.len() as u64).div_ceil(BLOCK) {
                let id = id(name, block);
                state.bringing.remove(&id);
                state.fresh.remove(&id);
                self.wants.found(&id);
            }
        }
        result
    }
}

/// A file's block as an id: `s` or `p`, the number in its name, the block.
fn id(name: &str, block: u64) -> Id {
    let mut id = Id::default();
    id[0] = name.as_bytes().first().copied().unwrap_or(0);
    let number = name.get(2..).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0);
    id[1..9].copy_from_slice(&number.to_be_bytes());
    id[9..17].copy_from_slice(&block.to_be_bytes());
    id
}

fn number(id: &Id, at: usize) -> u64 {
    id.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn block_of(id: &Id) -> u64 {
    number(id, 9)
}

fn name_of(id: &Id) -> String {
    format!("{}-{:016x}", char::from(id[0]), number(id, 1))
}

/// Neighbours as one range each: name, offset, length.
fn runs(ids: &[Id], lengths: &HashMap<String, u64>) -> Vec<Value> {
    let (mut all, mut at) = (Vec::new(), 0);
    while let Some(first) = ids.get(at) {
        let follows = |nth: u64| ids.get(at + nth as usize) == Some(&id(&name_of(first), block_of(first) + nth));
        let count = (1..RUN).take_while(|nth| follows(*nth)).count() as u64 + 1;
        let (name, offset) = (name_of(first), block_of(first) * BLOCK);
        let end = lengths.get(&name).copied().unwrap_or(0).min(offset + count * BLOCK);
        if end > offset {
            all.push(json!([name, offset, end - offset]));
        }
        at += count as usize;
    }
    all
}

/// The next frame and its bytes; None at the end.
fn receive(from: &mut BufReader<UnixStream>) -> io::Result<Option<(Frame, Vec<u8>)>> {
    let mut untrusted_line = Vec::new();
    from.by_ref().take(LINE).read_until(b'\n', &mut untrusted_line)?;
    if untrusted_line.is_empty() {
        return Ok(None);
    }
    let frame: Frame = serde_json::from_slice(&untrusted_line)?;
    if frame.length > RUN * BLOCK {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; if frame.why.is_some() { 0 } else { frame.length as usize }];
    from.read_exact(&mut bytes)?;
    Ok(Some((frame, bytes)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
