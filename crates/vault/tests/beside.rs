//! What others do while a vault is at long work: the store that it stands on calls back in the midst of it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use support::{check, content, options, ring};
use twofold_vault::memory::Memory;
use twofold_vault::{BLOCK, Device, Error, Medium, MemoryAnchor, Options, SLOTS, Store, Vault};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Create,
    Write,
    Sync,
}

type Hook = Box<dyn FnMut(Call) + Send>;

/// A store in memory that tells of each call when it is done. What the hook itself does is not told.
#[derive(Clone, Default)]
struct Watched {
    memory: Arc<Memory>,
    hook: Arc<Mutex<Option<Hook>>>,
}

impl Watched {
    fn watch(&self, hook: impl FnMut(Call) + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    fn tell(&self, call: Call) {
        let hook = self.hook.lock().unwrap().take();
        if let Some(mut hook) = hook {
            hook(call);
            *self.hook.lock().unwrap() = Some(hook);
        }
    }

    fn file(&self, file: Arc<dyn Medium>) -> Arc<dyn Medium> {
        Arc::new(WatchedFile { file, store: self.clone() })
    }
}

impl Store for Watched {
    fn create(&self, name: &str) -> io::Result<Arc<dyn Medium>> {
        let file = self.memory.create(name)?;
        self.tell(Call::Create);
        Ok(self.file(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Medium>> {
        self.memory.open(name).map(|file| self.file(file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.memory.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.memory.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.memory.rename(from, to)
    }

    fn sync(&self) -> io::Result<()> {
        self.memory.sync()
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.memory.lock()
    }
}

struct WatchedFile {
    file: Arc<dyn Medium>,
    store: Watched,
}

impl Medium for WatchedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(data, offset)?;
        self.store.tell(Call::Write);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()?;
        self.store.tell(Call::Sync);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
}

fn made(blocks: u64, options: Options) -> (Watched, Vault) {
    let store = Watched::default();
    Vault::create(Arc::new(store.clone()), ring(), &support::disk(blocks)).unwrap();
    let vault = Vault::open(Arc::new(store.clone()), ring(), Arc::new(MemoryAnchor::default()), options).unwrap();
    (store, vault)
}

/// Who finds the files as they were at some moment.
fn reopened(moment: Memory) -> Vault {
    let how = Options { replace_anchor: true, ..options(SLOTS) };
    support::open(&Arc::new(moment), &Arc::default(), how).unwrap()
}

#[test]
fn what_is_written_beside_a_full_checkpoint_is_in_its_root() {
    // Where no tail may be, the checkpoint makes a light one on its way, and others write while that is synced.
    let (store, vault) = made(1024, Options { tail_limit: 0, ..options(64) });
    let disk = vault.device("disk").unwrap();
    disk.write(0, &[1; BLOCK]).unwrap();
    let mut late = Some(disk);
    store.watch(move |call| {
        if let Some(disk) = late.take_if(|_| call == Call::Sync) {
            // In the leaf that is stored next, and in one that this checkpoint knows nothing of.
            for block in [1, 600] {
                disk.write(block * BLOCK as u64, &[2; BLOCK]).unwrap();
            }
        }
    });
    vault.checkpoint().unwrap();
    let found = content(&reopened(store.memory.cut(|_, _| 0)));
    assert_eq!([0, 1, 600].map(|block| found[block * BLOCK]), [1, 2, 2]);
}

#[test]
fn a_full_checkpoint_leaves_little_to_replay_at_any_moment() {
    const LEAVES: u64 = 320;
    const LIMIT: u64 = 100;
    let (store, vault) = made(LEAVES * 512, Options { tail_limit: LIMIT * BLOCK as u64, ..options(1024) });
    let disk = vault.device("disk").unwrap();
    for leaf in 0..LEAVES {
        disk.write(leaf * 512 * BLOCK as u64, &[1; BLOCK]).unwrap();
    }
    let moments = Arc::new(Mutex::new(Vec::new()));
    let (memory, seen) = (store.memory.clone(), moments.clone());
    store.watch(move |call| {
        if call == Call::Write {
            seen.lock().unwrap().push(memory.kill());
        }
    });
    vault.checkpoint().unwrap();
    let moments = std::mem::take(&mut *moments.lock().unwrap());
    let tails = moments.into_iter().map(|moment| reopened(moment).info().tail / BLOCK as u64);
    // Leaves are stored by the piece: the limit, and a piece beyond it.
    let most = tails.max().unwrap();
    assert!((LIMIT / 2..2 * LIMIT).contains(&most), "{most} slots to replay");
}

const BEYOND: u64 = 700 * BLOCK as u64;

/// A device is made smaller; when the `nth` file is made for that (0: never), `work` begins. How many files were made.
fn shrink(nth: usize, work: fn(&Device) -> Result<(), Error>) -> usize {
    let (store, vault) = made(1024, options(16));
    let disk = vault.device("disk").unwrap();
    disk.write(BEYOND, &[1; BLOCK]).unwrap();
    // No root fits in what is left of a segment: each begins a file, under the lock that writers wait for.
    vault.commit(&"x".repeat(20 * BLOCK)).unwrap();
    let (created, (send, done)) = (Arc::new(AtomicUsize::new(0)), mpsc::channel());
    let (count, late) = (created.clone(), disk.clone());
    store.watch(move |call| {
        if call == Call::Create && count.fetch_add(1, Ordering::Relaxed) + 1 == nth {
            let (send, late) = (send.clone(), late.clone());
            std::thread::spawn(move || send.send(work(&late)));
            // It finds the device as large as it was, and waits for the lock. Were it slower, it would be refused at once.
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    vault.resize("disk", 600 * BLOCK as u64).unwrap();
    let created = created.load(Ordering::Relaxed);
    if nth > 0 {
        let result = done.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(matches!(result, Err(Error::OutOfRange)), "{result:?}");
    }
    vault.resize("disk", 1024 * BLOCK as u64).unwrap();
    assert!(content(&vault).iter().all(|byte| *byte == 0));
    assert!(check(&vault).is_sound());
    created
}

#[test]
fn a_write_that_waited_for_a_resize_finds_the_device_as_it_is_then() {
    // The last file is for the root that says the new size.
    let last = shrink(0, |_| Ok(()));
    shrink(last, |disk| disk.write(BEYOND, &[2; BLOCK]));
    shrink(last, |disk| disk.zero(BEYOND, BLOCK as u64));
}

#[test]
fn a_write_beyond_the_new_end_while_a_device_is_made_smaller_does_not_come_back() {
    // At each moment at which the disk is waited for.
    for nth in 0.. {
        let (store, vault) = made(1024, options(64));
        let disk = vault.device("disk").unwrap();
        disk.write(0, &[1; BLOCK]).unwrap();
        let (result, count) = (Arc::new(Mutex::new(None)), Arc::new(AtomicUsize::new(0)));
        let (told, late) = (result.clone(), disk.clone());
        store.watch(move |call| {
            if call == Call::Sync && count.fetch_add(1, Ordering::Relaxed) == nth {
                *told.lock().unwrap() = Some(late.write(BEYOND, &[2; BLOCK]));
            }
        });
        vault.resize("disk", 600 * BLOCK as u64).unwrap();
        let result = result.lock().unwrap().take();
        if result.is_none() {
            assert!(nth > 2);
            return;
        }
        assert!(matches!(result, Some(Err(Error::OutOfRange))), "{result:?}");
        for vault in [reopened(store.memory.kill()), vault] {
            assert!(check(&vault).is_sound());
            vault.resize("disk", 1024 * BLOCK as u64).unwrap();
            assert_eq!(content(&vault)[BEYOND as usize], 0);
        }
    }
}
