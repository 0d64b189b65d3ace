//! The power goes at any moment, and the disk keeps what it likes of what it was not told to keep: what was promised is
//! there, nothing else is, and the vault goes on from there. Again and again on the same vault.
//!
//! `TWOFOLD_SEEDS` says how many vaults (make soak), `TWOFOLD_FROM` from which.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod harness;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use harness::model::{History, Op, made, open};
use harness::nonces::Nonces;
use harness::power::{CUTS, Cut, after, heads_are_kept};
use harness::tape::{Image, Tape};
use harness::{Dice, on_all_cores, setting};
use twofold_vault::{Anchored, Vault};

static CUT: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);

struct Seeded<'a> {
    dice: Dice,
    nonces: &'a mut Nonces,
    trace: &'a mut String,
}

impl Seeded<'_> {
    /// Operations on an open vault.
    fn work(&mut self, tape: &Tape, history: &mut History, vault: &mut Vault, count: usize) {
        for _ in 0..count {
            let op = Op::any(&mut self.dice);
            *self.trace += &format!("{} {op:?}\n", tape.len());
            history.run(tape, vault, op).unwrap();
        }
    }

    /// One of two sound heads is lost, as any sector may be: the other one is enough to find the same.
    fn lose_a_head(&mut self, image: &mut Image) {
        LOST.fetch_add(1, Ordering::Relaxed);
        let name = ["head.a", "head.b"][self.dice.below(2)];
        *self.trace += &format!("{name} is lost\n");
        match self.dice.below(3) {
            0 => _ = image.remove(name),
            1 => image.get_mut(name).unwrap().truncate(100),
            _ => image.get_mut(name).unwrap()[90] ^= 1,
        }
    }

    /// What a cut left is opened: one of the states that it may be in.
    fn examine(&mut self, image: &Image, anchor: &Option<Anchored>, history: &History, upto: usize, cut: Cut) -> usize {
        CUT.fetch_add(1, Ordering::Relaxed);
        let tape = Tape::new(image.clone(), anchor.clone());
        let vault = open(&tape, history).unwrap();
        let found = history.find(&vault, history.possible(upto, cut == Cut::All));
        if self.dice.chance(30) {
            let report = vault.check(&mut |_, _| {}).unwrap();
            assert!(report.is_sound(), "{report:?}");
        }
        let state = &history.states[found].1;
        if let Some((number, disks)) = state.generations.iter().nth(self.dice.below(state.generations.len())) {
            if self.dice.chance(40) {
                vault.revert(*number).unwrap();
                assert!(history.disks(&vault) == *disks, "generation {number} is not what it was");
                vault.close().unwrap();
            }
        }
        // Killed before it did anything, and opened again: opening lost nothing.
        drop(vault);
        self.nonces.watch(&tape.reel());
        found
    }
}

fn seeded(seed: u64, nonces: &mut Nonces, trace: &mut String) {
    let mut it = Seeded { dice: Dice(seed), nonces, trace };
    let (mut tape, mut history) = made();
    let every = seed % 16 == 1;
    let rounds = 3;
    for round in 0..rounds {
        let mut vault = open(&tape, &history).unwrap();
        // What opening made durable is promised.
        history.flushed.push((tape.len(), 0));
        let ops = 4 + it.dice.below(24);
        it.work(&tape, &mut history, &mut vault, ops);
        drop(vault);
        let reel = tape.reel();
        it.nonces.watch(&reel);
        let all = reel.events.len();
        let mut next = None;
        let picked: Vec<(usize, Cut)> = if every {
            (0..=all).map(|upto| (upto, CUTS[(upto + round) % CUTS.len()])).collect()
        } else {
            (0..12).map(|nth| (it.dice.below(all + 1), CUTS[nth % CUTS.len()])).collect()
        };
        let chosen = it.dice.below(picked.len());
        for (nth, (upto, cut)) in picked.into_iter().enumerate() {
            let before = it.trace.len();
            *it.trace += &format!("round {round}: {cut:?} after {upto} of {all}\n");
            let (image, anchor) = after(&reel, upto, cut, &mut it.dice);
            if heads_are_kept(&reel, upto, round == 0) {
                let mut image = image.clone();
                it.lose_a_head(&mut image);
                it.examine(&image, &anchor, &history, upto, cut);
            }
            let found = it.examine(&image, &anchor, &history, upto, cut);
            it.trace.truncate(before);
            if nth == chosen {
                *it.trace += &format!("round {round}: on from {cut:?} after {upto} of {all}, state {found}\n");
                next = Some((Tape::new(image, anchor), history.from(found)));
            }
        }
        drop(reel);
        (tape, history) = next.unwrap();
    }
}

#[test]
fn what_was_promised_is_there_after_any_power_cut() {
    let (from, count) = (setting("TWOFOLD_FROM", 0), setting("TWOFOLD_SEEDS", 48));
    let (slots, distinct) = (AtomicU64::new(0), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    on_all_cores(from..from + count, |seed| {
        let (mut nonces, mut trace) = (Nonces::default(), String::new());
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| seeded(seed, &mut nonces, &mut trace)));
        if result.is_err() {
            println!("seed {seed}:\n{trace}");
            failures.lock().unwrap().push(seed);
        }
        slots.fetch_add(nonces.written, Ordering::Relaxed);
        distinct.fetch_add(nonces.len() as u64, Ordering::Relaxed);
    });
    let (cut, slots, distinct) = (CUT.load(Ordering::Relaxed), slots.into_inner(), distinct.into_inner());
    let lost = LOST.load(Ordering::Relaxed);
    println!("{count} vaults, {cut} power cuts, {lost} with a head lost; {slots} slots written, {distinct} nonces");
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "seeds {failures:?} (see above; TWOFOLD_FROM=n TWOFOLD_SEEDS=1 for one)");
}
