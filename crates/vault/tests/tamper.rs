//! Somebody has the folder: flips bytes, moves, mixes, cuts, lengthens and turns back files. What was written is read, or an
//! error says exactly what is lost; nothing else is ever read, and nothing panics.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use harness::model::{BLOCKS, History, NAMES, Op, key, made, open};
use harness::paper::{Keys, SLOT, START};
use harness::tape::{Image, Tape};
use harness::{Dice, on_all_cores};
use twofold_vault::{Anchored, BLOCK, Error, Vault};

/// A vault that was closed or killed, and what it holds.
struct Victim {
    image: Image,
    anchor: Option<Anchored>,
    history: History,
    /// States that a crash may turn it back to: those since the anchor.
    earlier: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// Nobody lost anything.
    Whole,
    /// So many blocks of the present state are lost, and each is named.
    Lost(usize),
    /// Only generations or streams lost something.
    Older,
    /// As after a crash: an earlier state, not older than the anchor.
    Earlier,
    /// Opening says no.
    Refused,
}

const WORK: [Op; 13] = [
    Op::Write { device: 0, block: 0, count: 30, seed: 1 },
    Op::Write { device: 1, block: 2, count: 9, seed: 2 },
    Op::Commit,
    Op::Write { device: 0, block: 10, count: 12, seed: 3 },
    Op::Write { device: 0, block: 510, count: 8, seed: 4 },
    Op::Checkpoint,
    Op::Write { device: 0, block: 10, count: 16, seed: 5 },
    Op::Zero { device: 1, block: 4, count: 2 },
    Op::Checkpoint,
    Op::Commit,
    Op::Drop(0),
    Op::Clean,
    Op::Stream(6),
];

/// Flushed writes behind the last root, over three segments; those in the last say that the others were durable.
const TAIL: [Op; 10] = [
    Op::Write { device: 0, block: 100, count: 31, seed: 7 },
    Op::Flush,
    Op::Write { device: 0, block: 110, count: 32, seed: 8 },
    Op::Flush,
    Op::Write { device: 0, block: 120, count: 30, seed: 9 },
    Op::Flush,
    Op::Write { device: 0, block: 140, count: 50, seed: 10 },
    Op::Flush,
    Op::Write { device: 1, block: 0, count: 5, seed: 11 },
    Op::Flush,
];

fn victim(tail: bool, salt: u64) -> Victim {
    let (tape, mut history) = made();
    let mut vault = open(&tape, &history).unwrap();
    let salted = |op| match op {
        Op::Write { device, block, count, seed } => Op::Write { device, block, count, seed: seed + salt },
        other => other,
    };
    for op in WORK {
        history.run(&tape, &mut vault, salted(op)).unwrap();
    }
    vault.close().unwrap();
    let earlier = history.states.len() - 1;
    if tail {
        vault = open(&tape, &history).unwrap();
        TAIL.into_iter().for_each(|op| history.run(&tape, &mut vault, salted(op)).unwrap());
    }
    let anchor = tape.reel().anchor.clone();
    Victim { image: tape.image(), anchor, history, earlier }
}

/// Reads everything of a vault that was tampered with.
fn judge(victim: &Victim, image: Image, what: &str) -> Verdict {
    let files: Vec<String> = image.keys().chain(victim.image.keys()).cloned().collect();
    let tape = Tape::new(image, victim.anchor.clone());
    let vault = match open(&tape, &victim.history) {
        Ok(vault) => vault,
        Err(error) => {
            let text = error.to_string();
            match error {
                Error::Damaged(_) | Error::TailDamaged(_) | Error::WrongKey(_) => {
                    assert!(files.iter().any(|name| text.contains(name.as_str())), "{what}: no file named: {text}");
                }
                Error::Stale { .. } | Error::Incompatible(_) | Error::NotAVault | Error::NoKey(_) => {}
                other => panic!("{what}: {other:?}"),
            }
            return Verdict::Refused;
        }
    };
    let states: Vec<_> = victim.history.states[victim.earlier..].iter().rev().map(|(_, state)| state).collect();
    let mut lost: BTreeSet<(usize, usize)> = BTreeSet::new();
    // Which states agree with every block that could be read.
    let mut agree: Vec<bool> = vec![true; states.len()];
    for device in 0..2 {
        let disk = vault.device(NAMES[device]).unwrap();
        let mut block = vec![0; BLOCK];
        for nth in 0..BLOCKS[device] {
            match disk.read((nth * BLOCK) as u64, &mut block) {
                Ok(()) => {
                    let found = victim.history.known(&block);
                    let token = found.unwrap_or_else(|| panic!("{what}: {device}, {nth} is what nobody wrote"));
                    states
                        .iter()
                        .zip(&mut agree)
                        .for_each(|(state, agree)| *agree &= state.disks[device][nth] == token);
                }
                Err(Error::Damaged(why)) => {
                    let at = (nth * BLOCK) as u64;
                    assert_eq!(why.device.as_deref(), Some(NAMES[device]), "{what}");
                    assert!((why.offset..why.offset + why.length).contains(&at), "{what}: {why} for byte {at}");
                    assert!(files.contains(&why.file), "{what}: {why}");
                    lost.insert((device, nth));
                }
                Err(other) => panic!("{what}: {other}"),
            }
        }
    }
    let state = agree.iter().position(|agree| *agree).unwrap_or_else(|| panic!("{what}: a state that never was"));
    let report = vault.check(&mut |_, _| {}).unwrap();
    let named: BTreeSet<(usize, usize)> = report
        .lost
        .iter()
        .filter(|loss| loss.generation.is_none())
        .flat_map(|loss| {
            let device = NAMES.iter().position(|name| *name == loss.device).unwrap();
            (0..loss.length as usize / BLOCK).map(move |nth| (device, loss.offset as usize / BLOCK + nth))
        })
        .collect();
    assert!(named == lost, "{what}: the check names {named:?}, lost is {lost:?}");
    let kept: Vec<u64> = vault.generations().iter().map(|generation| generation.number).collect();
    assert!(states[state].generations.keys().copied().eq(kept), "{what}: other generations");
    stream(&vault, &report.streams, what);
    match (state, lost.len()) {
        (_, some) if some > 0 => Verdict::Lost(some),
        (0, _) if report.is_sound() => Verdict::Whole,
        (0, _) => Verdict::Older,
        _ => Verdict::Earlier,
    }
}

fn stream(vault: &Vault, lost: &[(String, String)], what: &str) {
    let Ok(reader) = vault.stream_reader("memory") else { return };
    let mut nth = 0;
    let each = |_: u64, data: &[u8]| {
        for found in data.chunks(BLOCK) {
            assert!(harness::model::page(6, nth) == found, "{what}: page {nth} of the stream");
            nth += 1;
        }
        Ok(())
    };
    match reader.read(each) {
        Ok(()) => assert!(nth == 70 && lost.is_empty(), "{what}: {nth} pages, {lost:?}"),
        Err(Error::Damaged(_)) => assert!(!lost.is_empty(), "{what}"),
        Err(other) => panic!("{what}: {other}"),
    }
}

/// Judges many, on all cores, and counts.
fn each(victim: &Victim, cases: &[(String, Image)]) -> BTreeMap<Verdict, Vec<String>> {
    let found = Mutex::new(BTreeMap::<Verdict, Vec<String>>::new());
    on_all_cores(0..cases.len() as u64, |nth| {
        let (what, image) = &cases[nth as usize];
        let verdict = judge(victim, image.clone(), what);
        found.lock().unwrap().entry(verdict).or_default().push(what.clone());
    });
    found.into_inner().unwrap()
}

fn tell(name: &str, found: &BTreeMap<Verdict, Vec<String>>) {
    let counts: Vec<_> = found.iter().map(|(verdict, cases)| format!("{verdict:?} {}", cases.len())).collect();
    println!("{name}: {}", counts.join(", "));
}

fn changed(image: &Image, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Image {
    let mut image = image.clone();
    change(image.get_mut(name).unwrap());
    image
}

/// The last segment of the log: its header is all that says that it follows.
fn last(image: &Image) -> String {
    image.keys().filter(|name| name.starts_with("s-")).max().unwrap().clone()
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_and_costs_what_it_hit() {
    let mut dice = Dice(1);
    for tail in [false, true] {
        let victim = victim(tail, 0);
        let (mut headers, mut slots, mut table) = (Vec::new(), Vec::new(), Vec::new());
        let behind = victim.image.keys().filter(|name| name.starts_with("s-")).nth_back(2).map_or("", String::as_str);
        for (name, bytes) in &victim.image {
            let mut flip = |at: usize| {
                let bit = 1 << dice.below(8);
                (format!("{name} byte {at}"), changed(&victim.image, name, |bytes| bytes[at] ^= bit))
            };
            match &name[..2] {
                "s-" => {
                    // The root knows the older ones: their headers are not needed.
                    let step = if name.as_str() < behind { 9 } else { 1 };
                    headers.extend((0..START.min(bytes.len())).step_by(step).map(&mut flip));
                    for slot in 0..(bytes.len() - START) / SLOT {
                        let within = (slot * 997 + 13) % SLOT;
                        slots.push(flip(START + slot * SLOT + within));
                    }
                }
                "p-" => {
                    headers.extend((0..64).map(&mut flip));
                    let records = 64 + 2112 * harness::paper::u32_at(bytes, 40) as usize;
                    table.extend((64..records + 32).step_by(37).map(&mut flip));
                    slots.extend(
                        (records + 32..bytes.len()).step_by(SLOT).map(|at| flip((at + 77).min(bytes.len() - 1))),
                    );
                }
                _ => headers.extend((0..bytes.len()).map(&mut flip)),
            }
        }
        let name = if tail { "a killed one" } else { "a closed one" };
        let found = each(&victim, &headers);
        tell(&format!("{name}: bits of headers"), &found);
        let last = last(&victim.image);
        for case in found.get(&Verdict::Earlier).into_iter().flatten() {
            assert!(tail && case.starts_with(&last), "{case}: turned back in silence");
        }
        let found = each(&victim, &slots);
        tell(&format!("{name}: bits of slots"), &found);
        for case in found.get(&Verdict::Earlier).into_iter().flatten() {
            assert!(tail && case.starts_with(&last), "{case}: turned back in silence");
        }
        assert!(found.contains_key(&Verdict::Lost(1)) && found.contains_key(&Verdict::Whole));
        // A block, a leaf of the map, or a page of its directory: never more than one device.
        assert!(found.keys().all(|verdict| !matches!(verdict, Verdict::Lost(some) if *some > BLOCKS[0])), "{found:?}");
        tell(&format!("{name}: bits of a pack's table"), &each(&victim, &table));
    }
}

#[test]
fn what_is_moved_mixed_or_taken_from_elsewhere_is_not_read() {
    let (here, there) = (victim(true, 0), victim(true, 1000));
    let mut dice = Dice(2);
    let mut cases = Vec::new();
    let segments: Vec<&String> = here.image.keys().filter(|name| name.starts_with("s-")).collect();
    let slots = |name: &str| (here.image[name].len() - START) / SLOT;
    let place = |slot: usize| START + slot * SLOT..START + (slot + 1) * SLOT;
    for _ in 0..150 {
        let (from, to) = (segments[dice.below(segments.len())], segments[dice.below(segments.len())]);
        let (a, b) = (dice.below(slots(from)), dice.below(slots(to)));
        let slot = here.image[from][place(a)].to_vec();
        cases.push((
            format!("slot {a} of {from} over {b} of {to}"),
            changed(&here.image, to, |bytes| bytes[place(b)].copy_from_slice(&slot)),
        ));
    }
    for name in here.image.keys() {
        // The same file of another vault under the same key, and each file in place of each of its kind.
        if let Some(other) = there.image.get(name) {
            cases.push((
                format!("{name} of another vault"),
                changed(&here.image, name, |bytes| bytes.clone_from(other)),
            ));
            for part in [0..START, 32..80, START..START + SLOT] {
                if part.end <= other.len().min(here.image[name].len()) {
                    let what = format!("{name}: {part:?} of another vault");
                    let other = &other[part.clone()];
                    cases.push((what, changed(&here.image, name, |bytes| bytes[part].copy_from_slice(other))));
                }
            }
        }
        for other in here.image.keys().filter(|other| other[..2] == name[..2] && *other != name) {
            let bytes = here.image[other].clone();
            cases.push((format!("{other} as {name}"), changed(&here.image, name, |to| *to = bytes)));
        }
        let mut without = here.image.clone();
        without.remove(name);
        cases.push((format!("no {name}"), without));
    }
    let found = each(&here, &cases);
    tell("moved and mixed", &found);
    let last = last(&here.image);
    for case in found.get(&Verdict::Earlier).into_iter().flatten() {
        assert!(case.contains(&last), "{case}: turned back in silence");
    }
}

#[test]
fn cut_files_are_noticed_and_lengthened_ones_do_not_matter() {
    let mut dice = Dice(3);
    for tail in [false, true] {
        let victim = victim(tail, 0);
        let (mut cut, mut longer) = (Vec::new(), Vec::new());
        for (name, bytes) in &victim.image {
            for _ in 0..12 {
                let length = dice.below(bytes.len());
                cut.push((
                    format!("{name} cut to {length}"),
                    changed(&victim.image, name, |bytes| bytes.truncate(length)),
                ));
            }
            for more in [1, 100, SLOT, 3 * SLOT + 5] {
                let noise = dice.roll().to_le_bytes();
                let garbage: Vec<u8> = (0..more).map(|i| noise[i % 8] ^ i as u8).collect();
                let what = format!("{name} and {more} bytes more");
                longer.push((what, changed(&victim.image, name, |bytes| bytes.extend(garbage))));
            }
            for again in [0, bytes.len() / 2] {
                let old = bytes[again..].to_vec();
                longer.push((format!("{name} and itself"), changed(&victim.image, name, |bytes| bytes.extend(old))));
            }
        }
        let found = each(&victim, &cut);
        tell("cut", &found);
        let last = last(&victim.image);
        for case in found.get(&Verdict::Earlier).into_iter().flatten() {
            assert!(tail && case.starts_with(&last), "{case}: turned back in silence");
        }
        let found = each(&victim, &longer);
        tell("lengthened", &found);
        assert!(found.keys().all(|verdict| *verdict == Verdict::Whole), "{found:?}");
    }
}

#[test]
fn an_older_state_is_refused_whatever_part_of_it_is_put_back() {
    let (tape, mut history) = made();
    let mut vault = open(&tape, &history).unwrap();
    let mut old = Vec::new();
    for op in WORK.into_iter().chain(TAIL) {
        history.run(&tape, &mut vault, op).unwrap();
        old.push(tape.image());
    }
    vault.close().unwrap();
    let earlier = history.states.len() - 1;
    let victim = Victim { image: tape.image(), anchor: tape.reel().anchor.clone(), history, earlier };
    for (nth, image) in old.iter().enumerate() {
        let tape = Tape::new(image.clone(), victim.anchor.clone());
        let Err(error) = open(&tape, &victim.history) else { panic!("state {nth} was taken for the newest") };
        let text = error.to_string();
        // With part of the log taken away the anchor tells; both states are named.
        assert!(matches!(error, Error::Stale { .. }) && text.contains("found") && text.contains("anchored"), "{text}");
    }
    // Single files of older states, and older files beside the new ones.
    let mut cases = Vec::new();
    for (nth, image) in old.iter().enumerate() {
        for (name, bytes) in image {
            let mut mixed = victim.image.clone();
            mixed.insert(name.clone(), bytes.clone());
            cases.push((format!("{name} of state {nth}"), mixed));
        }
    }
    let found = each(&victim, &cases);
    tell("older files put back", &found);
    assert!(!found.contains_key(&Verdict::Earlier), "{found:?}");
}

#[test]
fn files_that_nobody_asked_for_do_no_harm() {
    let victim = victim(true, 0);
    let names =
        ["s-ffffffffffffffff", "s-0000ffffffffffff", "s-0000000000000000", "s-0000000100000000", "p-ffffffffffffffff"];
    let others =
        ["notes.txt", "s-1", "head.c", "s-00000000000000000", "vault.new", "s-FFFFFFFFFFFFFFFF", "p-000000000000000g"];
    let mut image = victim.image.clone();
    for name in names.into_iter().chain(others) {
        image.insert(name.into(), victim.image[&last(&victim.image)].clone());
    }
    let tape = Tape::new(image, victim.anchor.clone());
    let mut history = victim.history.from(victim.history.states.len() - 1);
    for seed in 0..3 {
        let mut vault = open(&tape, &history).unwrap();
        let found = history.find(&vault, history.states.len() - 1..=history.states.len() - 1);
        assert_eq!(found, history.states.len() - 1);
        history.run(&tape, &mut vault, Op::Write { device: 0, block: 3, count: 70, seed }).unwrap();
        vault.flush().unwrap();
    }
    assert!(tape.image().contains_key("notes.txt") && tape.image().contains_key("s-1"));
}

/// Even a map that is sealed rightly can't pass one block off as another: a slot says itself what it is.
#[test]
fn a_block_is_not_taken_for_another() {
    let (tape, mut history) = made();
    let mut vault = open(&tape, &history).unwrap();
    for op in [Op::Write { device: 0, block: 0, count: 20, seed: 1 }, Op::Checkpoint] {
        history.run(&tape, &mut vault, op).unwrap();
    }
    vault.close().unwrap();
    let earlier = history.states.len() - 1;
    let victim = Victim { image: tape.image(), anchor: tape.reel().anchor.clone(), history, earlier };
    let keys = Keys { epoch: key(1), vault: victim.image["vault"][40..56].try_into().unwrap() };
    let mut swapped = 0;
    for (name, file) in victim.image.iter().filter(|(name, _)| name.starts_with("s-")) {
        for index in 0..((file.len() - START) / SLOT) as u32 {
            let Some(body) = keys.open(file, index).filter(|body| body[0] == 3) else { continue };
            let entry = |nth: usize| 16 + nth * 8..24 + nth * 8;
            let differ = |nth: &usize| body[entry(*nth)] != body[entry(nth + 1)];
            let Some(nth) = (0..20).find(differ) else { continue };
            let mut other = body.clone();
            other[entry(nth)].copy_from_slice(&body[entry(nth + 1)]);
            other[entry(nth + 1)].copy_from_slice(&body[entry(nth)]);
            let image = changed(&victim.image, name, |file| keys.seal(file, index, &other));
            let verdict = judge(&victim, image, &format!("{name} slot {index} with entries {nth} swapped"));
            assert!(matches!(verdict, Verdict::Lost(1 | 2) | Verdict::Whole | Verdict::Older), "{verdict:?}");
            swapped += usize::from(matches!(verdict, Verdict::Lost(_)));
        }
    }
    assert!(swapped > 0);
}
