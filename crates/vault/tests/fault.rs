//! Every call to the disk fails once, before or after it had its effect, with no room or with an error: nothing promised is
//! lost, it is told as what it is, and the work goes on. After a sync that failed nothing is claimed to be durable that is
//! not: also not by the next opening, to which the system shows data that never reached the disk.
//!
//! `TWOFOLD_STRIDE=1` tries every call rather than every few.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod harness;

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use harness::model::{BLOCKS, History, NAMES, Op, made, open, ring};
use harness::power::{CUTS, Cut, after};
use harness::tape::{Call, Fault, Tape};
use harness::{Dice, on_all_cores, setting};
use twofold_vault::{BLOCK, DeviceSpec, Error, Vault};

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn takes_room(call: Call) -> bool {
    matches!(call, Call::Create | Call::Write | Call::Reserve | Call::Rename)
}

fn changes(call: Call) -> bool {
    matches!(call, Call::Create | Call::Write | Call::Rename | Call::Remove)
}

fn syncs(call: Call) -> bool {
    matches!(call, Call::Sync | Call::Names)
}

fn looks(call: Call) -> bool {
    matches!(call, Call::Open | Call::List | Call::Read | Call::Length)
}

type Kind = (&'static str, fn(Call) -> bool, fn() -> io::Error, bool, u64);

const KINDS: [Kind; 9] = [
    ("no room", takes_room, full, false, 1),
    ("no room half-way", takes_room, full, true, 1),
    ("no room for long", takes_room, full, false, 3),
    ("a failed change", changes, broken, false, 1),
    ("a change that was made and failed", changes, broken, true, 1),
    ("a failed sync", syncs, broken, false, 1),
    ("a failed sync that lost data", syncs, broken, true, 1),
    ("no room at a sync", syncs, full, true, 1),
    ("a failed look", looks, broken, false, 1),
];

const OPS: [Op; 23] = [
    Op::Write { device: 0, block: 0, count: 20, seed: 1 },
    Op::Flush,
    Op::Write { device: 0, block: 10, count: 30, seed: 2 },
    Op::Part { device: 1, offset: 5000, length: 3000, seed: 3 },
    Op::Push,
    Op::Zero { device: 0, block: 12, count: 4 },
    Op::Commit,
    Op::Write { device: 0, block: 500, count: 30, seed: 4 },
    Op::Write { device: 0, block: 5, count: 20, seed: 5 },
    Op::Checkpoint,
    Op::Stream(6),
    Op::Clean,
    Op::Write { device: 1, block: 3, count: 9, seed: 7 },
    Op::Tend,
    Op::Regrow { device: 0, block: 515 },
    Op::Consume,
    Op::Revert(0),
    Op::Write { device: 0, block: 0, count: 25, seed: 8 },
    Op::Reopen,
    Op::Write { device: 0, block: 30, count: 12, seed: 9 },
    Op::Drop(0),
    Op::Clean,
    Op::Flush,
];

static DEAD: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);

struct Run {
    tape: Tape,
    history: History,
    no_room: bool,
}

impl Run {
    /// Opened, if need be once more: what failed once does not fail again.
    fn open(&self) -> Vault {
        (0..4)
            .find_map(|_| open(&self.tape, &self.history).ok())
            .unwrap_or_else(|| open(&self.tape, &self.history).unwrap())
    }

    /// The state that is seen now is where the model goes on.
    fn settle(&mut self, vault: &Vault, possible: std::ops::RangeInclusive<usize>) {
        let found = self.history.find(vault, possible);
        let state = self.history.states[found].1.clone();
        self.history.states.push((self.tape.len(), state));
    }

    /// One operation, until it is done. None once the vault is dead.
    fn step(&mut self, mut vault: Vault, op: Op) -> Option<Vault> {
        for attempt in 0.. {
            let before = self.history.states.len() - 1;
            let Err(error) = self.history.run(&self.tape, &mut vault, op) else { return Some(vault) };
            REFUSED.fetch_add(1, Ordering::Relaxed);
            assert!(attempt < 5, "{op:?} fails for ever: {error}");
            let last = self.history.states.len() - 1;
            let written = matches!(op, Op::Write { .. } | Op::Part { .. } | Op::Zero { .. });
            match error {
                Error::Failed(_) => {
                    DEAD.fetch_add(1, Ordering::Relaxed);
                    let disk = vault.device(NAMES[0]);
                    assert!(vault.flush().is_err(), "a flush after a failed sync says that all is well");
                    assert!(disk.is_err() || disk.unwrap().write(0, &[1; BLOCK]).is_err());
                    return None;
                }
                _ if op == Op::Reopen => {
                    // Closed all the same: what was not flushed may be gone.
                    let _ = vault.close();
                    vault = self.open();
                    let possible = self.history.possible(self.tape.len(), false);
                    self.settle(&vault, possible);
                    continue;
                }
                Error::NoSpace => {}
                Error::Io(..) => assert!(!self.no_room, "{op:?}: no room is told as {error}"),
                other => panic!("{op:?}: {other:?}"),
            }
            // Nothing of a write that was refused is there; of the rest all or nothing, and it may be done again.
            let possible = if written && self.no_room && last == before + 1 { before..=before } else { before..=last };
            self.settle(&vault, possible);
        }
        None
    }
}

fn run(kind: &Kind, at: u64) -> u64 {
    let (name, counts, error, done, times) = *kind;
    let (tape, history) = made();
    let mut run = Run { tape, history, no_room: error().kind() == io::ErrorKind::StorageFull };
    run.tape.fail(Some(Fault { counts, at, times, error, done }));
    let mut vault = Some(run.open());
    for op in OPS {
        vault = vault.and_then(|vault| run.step(vault, op));
    }
    let counted = run.tape.reel().counted;
    run.tape.fail(None);
    let mut dice = Dice(at ^ (name.len() as u64) << 32);
    let cuts = |run: &Run, dice: &mut Dice| {
        let reel = run.tape.reel();
        let all = reel.events.len();
        let some = [(all, Cut::Nothing), (all, Cut::Sectors), (all - dice.below(all / 2), CUTS[dice.below(5)])];
        for (upto, cut) in some {
            let (image, anchor) = after(&reel, upto, cut, dice);
            let tape = Tape::new(image, anchor);
            let vault = open(&tape, &run.history).unwrap_or_else(|why| panic!("{cut:?} after {upto} of {all}: {why}"));
            run.history.find(&vault, run.history.possible(upto, cut == Cut::All));
        }
    };
    let alive = vault.is_some();
    if let Some(vault) = vault {
        vault.flush().unwrap();
        let last = run.history.states.len() - 1;
        assert_eq!(run.history.find(&vault, last..=last), last);
    }
    cuts(&run, &mut dice);
    // Opened again by the same system: it is shown all that was written, and must not promise what the disk does not have.
    let vault = run.open();
    let possible = run.history.possible(run.tape.len(), alive);
    run.settle(&vault, possible);
    for op in [Op::Flush, Op::Write { device: 0, block: 1, count: 3, seed: 77 }, Op::Flush] {
        vault.flush().unwrap();
        let mut same = vault.clone();
        run.history.run(&run.tape, &mut same, op).unwrap();
    }
    let last = run.history.states.len() - 1;
    assert_eq!(run.history.find(&vault, last..=last), last);
    drop(vault);
    cuts(&run, &mut dice);
    counted
}

#[test]
fn any_call_may_fail() {
    let stride = setting("TWOFOLD_STRIDE", 5);
    let failures = Mutex::new(Vec::new());
    let tried = AtomicU64::new(0);
    // How many calls there are, when none fails.
    let all: Vec<u64> = KINDS.iter().map(|kind| run(kind, u64::MAX)).collect();
    let cases: Vec<(usize, u64)> = (0..KINDS.len())
        .flat_map(|kind| (kind as u64 % stride..all[kind]).step_by(stride as usize).map(move |at| (kind, at)))
        .collect();
    on_all_cores(0..cases.len() as u64, |nth| {
        let (kind, at) = cases[nth as usize];
        tried.fetch_add(1, Ordering::Relaxed);
        if std::panic::catch_unwind(|| run(&KINDS[kind], at)).is_err() {
            println!("^^^ {} at call {at}", KINDS[kind].0);
            failures.lock().unwrap().push((KINDS[kind].0, at));
        }
    });
    println!("calls {all:?}; {} failed in turn", tried.into_inner());
    println!(
        "{} operations refused, {} vaults dead until opened",
        REFUSED.load(Ordering::Relaxed),
        DEAD.load(Ordering::Relaxed)
    );
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} failures: {failures:?}", failures.len());
}

#[test]
fn a_making_that_fails_can_be_made_again() {
    let spec = [DeviceSpec { name: "disk".into(), size: (BLOCKS[0] * BLOCK) as u64 }];
    for done in [false, true] {
        for at in 0.. {
            let tape = Tape::default();
            let all = |_: Call| true;
            tape.fail(Some(Fault { counts: all, at, times: 1, error: broken, done }));
            let result = Vault::create(Arc::new(tape.clone()), ring(1), &spec);
            let failed = tape.reel().failed > 0;
            tape.fail(None);
            if result.is_err() {
                // None was made, so one can be.
                Vault::create(Arc::new(tape.clone()), ring(1), &spec).unwrap_or_else(|why| panic!("call {at}: {why}"));
            }
            let vault = open(&tape, &made().1).unwrap();
            vault.device("disk").unwrap().write(0, &[3; BLOCK]).unwrap();
            vault.flush().unwrap();
            if !failed {
                break;
            }
        }
    }
}

#[test]
fn an_opening_that_cannot_look_forgets_nothing() {
    let (tape, mut history) = made();
    let mut vault = open(&tape, &history).unwrap();
    for seed in 0..9 {
        let op = Op::Write { device: 0, block: seed as usize * 20, count: 30, seed };
        history.run(&tape, &mut vault, op).unwrap();
        history.run(&tape, &mut vault, Op::Flush).unwrap();
    }
    drop(vault);
    // Killed: the log goes on over several segments behind the root.
    let (image, last) = (tape.image(), history.states.len() - 1);
    let mut refused = 0;
    for at in 0.. {
        let tape = Tape::new(image.clone(), tape.reel().anchor.clone());
        tape.fail(Some(Fault { counts: looks, at, times: 1, error: broken, done: false }));
        let result = open(&tape, &history);
        let failed = tape.reel().failed > 0;
        tape.fail(None);
        match result {
            Ok(vault) => _ = history.find(&vault, last..=last),
            Err(Error::Io(..)) => refused += 1,
            Err(other) => panic!("look {at}: {other}"),
        }
        if !failed {
            break;
        }
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn a_head_that_could_not_be_written_is_not_what_an_opening_needs() {
    let prepared = || {
        let (tape, mut history) = made();
        let mut vault = open(&tape, &history).unwrap();
        for op in OPS[..7].iter().chain(&OPS[8..9]) {
            history.run(&tape, &mut vault, *op).unwrap();
        }
        for seed in 0..4 {
            let op = Op::Write { device: 0, block: 0, count: 40, seed };
            history.run(&tape, &mut vault, op).unwrap();
            history.run(&tape, &mut vault, Op::Flush).unwrap();
        }
        (tape, history, vault)
    };
    let mut lost = 0;
    for at in 0.. {
        let mut failed = false;
        // What the failed pass replaced is removed by the next one, or by the next opening, while one head may be from before.
        for after in [Op::Clean, Op::Flush] {
            let (tape, mut history, mut vault) = prepared();
            tape.fail(Some(Fault { counts: |call| call == Call::Write, at, times: 1, error: broken, done: false }));
            let result = history.run(&tape, &mut vault, Op::Clean);
            failed = tape.reel().failed > 0;
            assert!(failed || result.is_ok());
            tape.fail(None);
            history.run(&tape, &mut vault, after).unwrap();
            drop(vault);
            let before = tape.image();
            drop(open(&tape, &history).unwrap());
            let (image, anchor, last) = (tape.image(), tape.reel().anchor.clone(), history.states.len() - 1);
            // Nothing that failed lies about: an opening finds nothing to remove.
            assert!(after == Op::Flush || before.keys().eq(image.keys()), "call {at} left something");
            for head in ["head.a", "head.b"] {
                let mut image = image.clone();
                image.remove(head).unwrap();
                let vault = open(&Tape::new(image, anchor.clone()), &history);
                let vault = vault.unwrap_or_else(|why| panic!("call {at}, {after:?}, without {head}: {why}"));
                history.find(&vault, history.states.len() - 3..=last);
                assert!(vault.check(&mut |_, _| {}).unwrap().is_sound());
                lost += 1;
            }
        }
        if !failed {
            break;
        }
    }
    assert!(lost > 20, "{lost}");
}

#[test]
fn a_segment_that_finds_no_room_leaves_no_file() {
    let (tape, history) = made();
    let vault = open(&tape, &history).unwrap();
    let disk = vault.device(NAMES[0]).unwrap();
    disk.write(0, &[1; BLOCK]).unwrap();
    let before: Vec<String> = tape.image().into_keys().collect();
    tape.fail(Some(Fault { counts: |call| call == Call::Reserve, at: 0, times: 1, error: full, done: false }));
    let refused = (0..200).find_map(|_| disk.write(0, &[2; BLOCK]).err());
    assert!(matches!(refused, Some(Error::NoSpace)), "{refused:?}");
    assert!(tape.image().into_keys().eq(before));
    disk.write(0, &[3; BLOCK]).unwrap();
    vault.close().unwrap();
}
