//! Damage is an error on exactly what is damaged, and `check` names it; the rest stays readable.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::sync::Arc;

use support::{check, ring};
use twofold_vault::memory::Memory;
use twofold_vault::{Anchor, BLOCK, Error, Keyring, MemoryAnchor, Options, SLOT, Store, Vault};

const BLOCKS: u64 = 700;

fn options() -> Options {
    support::options(1024)
}

fn made() -> (Arc<Memory>, Arc<MemoryAnchor>, Vault) {
    support::made(BLOCKS, options())
}

fn open(store: &Arc<Memory>, anchor: &Arc<MemoryAnchor>) -> Result<Vault, Error> {
    support::open(store, anchor, options())
}

fn fill(vault: &Vault) {
    let disk = vault.device("disk").unwrap();
    for block in 0..BLOCKS {
        disk.write(block * BLOCK as u64, &[block as u8 + 1; BLOCK]).unwrap();
    }
}

/// Flips one bit of a slot.
fn flip(store: &Memory, segment: u64, slot: usize) {
    let name = format!("s-{segment:016x}");
    let mut bytes = store.bytes(&name).unwrap();
    bytes[256 + slot * SLOT + 1000] ^= 1;
    store.put(&name, bytes);
}

/// A slot of a segment that holds a leaf of the map: more than a block is lost with it.
fn leaf(store: &Memory, anchor: &Arc<MemoryAnchor>, segment: u64) -> usize {
    let slots = (store.bytes(&format!("s-{segment:016x}")).unwrap().len() - 256) / SLOT;
    let is_leaf = |slot: &usize| {
        let store = Arc::new(store.kill());
        flip(&store, segment, *slot);
        open(&store, anchor).is_ok_and(|vault| check(&vault).lost.iter().any(|loss| loss.length > BLOCK as u64))
    };
    (0..slots).find(is_leaf).unwrap()
}

#[test]
fn what_is_written_over_a_damaged_leaf_outlives_checkpoints() {
    let (store, anchor, vault) = made();
    fill(&vault);
    vault.commit("another segment").unwrap();
    vault.checkpoint().unwrap();
    vault.close().unwrap();
    flip(&store, 3, leaf(&store, &anchor, 3));
    let mut found = [0; BLOCK];
    for round in 1..4 {
        let vault = open(&store, &anchor).unwrap();
        let disk = vault.device("disk").unwrap();
        disk.write(round * BLOCK as u64, &[99; BLOCK]).unwrap();
        // The leaf can't be stored anew: what is newer than it stays where it is.
        vault.checkpoint().unwrap();
        vault.close().unwrap();
        let vault = open(&store, &anchor).unwrap();
        let disk = vault.device("disk").unwrap();
        for block in 1..=round {
            disk.read(block * BLOCK as u64, &mut found).unwrap();
            assert_eq!(found, [99; BLOCK]);
        }
        assert!(matches!(disk.read(9 * BLOCK as u64, &mut found), Err(Error::Damaged(_))));
    }
}

#[test]
fn a_damaged_block_is_named_and_the_rest_is_read() {
    let (store, anchor, vault) = made();
    fill(&vault);
    vault.commit("kept").unwrap();
    vault.close().unwrap();
    assert!(check(&open(&store, &anchor).unwrap()).is_sound());
    flip(&store, 2, 41);
    let vault = open(&store, &anchor).unwrap();
    let disk = vault.device("disk").unwrap();
    let mut buffer = vec![0; BLOCK];
    for block in 0..BLOCKS {
        match disk.read(block * BLOCK as u64, &mut buffer) {
            Ok(()) => assert!(block != 41 && buffer == [block as u8 + 1; BLOCK]),
            Err(Error::Damaged(what)) => {
                assert_eq!((block, what.segment, what.slot, what.offset, what.length), (41, 2, 41, 41 << 12, 4096));
            }
            Err(other) => panic!("{other}"),
        }
    }
    let report = check(&vault);
    // In the present state, and in the generation that shares the slot.
    assert_eq!(report.lost.len(), 2);
    assert!(report.lost.iter().all(|loss| (loss.offset, loss.length) == (41 << 12, 4096)));
    assert_eq!(report.verified, (BLOCKS - 1) * SLOT as u64);
    // Written anew, it is there again, and the generation still says what it lost.
    disk.write(41 << 12, &[1; BLOCK]).unwrap();
    disk.read(41 << 12, &mut buffer).unwrap();
    let lost = check(&vault).lost;
    assert!(lost.len() == 1 && lost[0].generation == Some(1));
}

#[test]
fn every_slot_damaged_in_turn_costs_what_it_held_and_never_lies() {
    let (store, anchor, vault) = made();
    fill(&vault);
    vault.checkpoint().unwrap();
    vault.close().unwrap();
    let slots = (store.bytes("s-0000000000000002").unwrap().len() - 256) / SLOT;
    let mut refused = 0;
    for slot in (0..slots).filter(|slot| slot % 9 == 0 || *slot >= BLOCKS as usize) {
        let store = Arc::new(store.kill());
        flip(&store, 2, slot);
        let anchor = Arc::new(MemoryAnchor::new(anchor.load().unwrap()));
        let Ok(vault) = open(&store, &anchor) else {
            refused += 1;
            continue;
        };
        let disk = vault.device("disk").unwrap();
        let mut lost = 0;
        let mut buffer = vec![0; BLOCK];
        for block in 0..BLOCKS {
            match disk.read(block * BLOCK as u64, &mut buffer) {
                Ok(()) => assert!(buffer == [block as u8 + 1; BLOCK]),
                Err(Error::Damaged(_)) => lost += BLOCK as u64,
                Err(other) => panic!("{other}"),
            }
        }
        let report = check(&vault);
        assert_eq!(report.lost.iter().map(|loss| loss.length).sum::<u64>(), lost, "slot {slot}");
    }
    // The root itself: with the head that names it the vault can't be said to be the newest.
    assert!(refused == 1, "{refused} slots made the vault unreadable");
}

#[test]
fn a_root_that_a_head_names_is_missed_also_without_an_anchor() {
    let (store, _, vault) = made();
    fill(&vault);
    vault.checkpoint().unwrap();
    let torn = Arc::new(store.kill());
    let last = (1..9).filter(|number| torn.bytes(&format!("s-{number:016x}")).is_some()).max().unwrap();
    let slots = (torn.bytes(&format!("s-{last:016x}")).unwrap().len() - 256) / SLOT;
    flip(&torn, last, slots - 1);
    let how = |salvage| Options { replace_anchor: true, salvage, ..options() };
    let refused = support::open(&torn, &Arc::default(), how(false));
    assert!(matches!(refused, Err(Error::Damaged(_))), "{:?}", refused.err());
    assert!(!check(&support::open(&torn, &Arc::default(), how(true)).unwrap()).notes.is_empty());
}

#[test]
fn damage_behind_the_root_is_told_from_a_power_cut() {
    let (store, anchor, vault) = made();
    let disk = vault.device("disk").unwrap();
    for block in 0..6 {
        disk.write(block * BLOCK as u64, &[1; BLOCK]).unwrap();
        vault.flush().unwrap();
    }
    disk.write(9 * BLOCK as u64, &[1; BLOCK]).unwrap();
    disk.push().unwrap();
    // The last slot was never flushed: that it is gone is a power cut.
    let cut = Arc::new(store.kill());
    flip(&cut, 2, 6);
    let vault = open(&cut, &anchor).unwrap();
    assert_eq!(vault.device("disk").unwrap().status(0, 40960, 9).unwrap()[0].length, 6 * BLOCK as u64);
    // The third was: later slots say so.
    let torn = Arc::new(store.kill());
    flip(&torn, 2, 2);
    let Err(Error::TailDamaged(what)) = open(&torn, &anchor) else { panic!("not told") };
    assert_eq!((what.segment, what.slot), (2, 2));
    let salvaged = Vault::open(torn, ring(), anchor, Options { salvage: true, replace_anchor: true, ..options() });
    assert!(salvaged.unwrap().device("disk").unwrap().write(0, &[0; BLOCK]).is_err());
}

#[test]
fn an_older_state_is_refused_and_a_lost_anchor_replaced_on_purpose() {
    let (store, anchor, vault) = made();
    let old = Arc::new(store.kill());
    fill(&vault);
    vault.close().unwrap();
    assert!(matches!(open(&old, &anchor), Err(Error::Stale { .. })));
    let nothing = Arc::new(MemoryAnchor::default());
    assert!(matches!(open(&store, &nothing), Err(Error::AnchorLost)));
    let on_purpose = Options { replace_anchor: true, ..options() };
    Vault::open(store.clone(), ring(), nothing.clone(), on_purpose).unwrap().close().unwrap();
    open(&store, &nothing).unwrap();
}

#[test]
fn without_its_heads_the_newest_root_is_found() {
    let (store, anchor, vault) = made();
    fill(&vault);
    vault.close().unwrap();
    store.remove("head.a").unwrap();
    store.remove("head.b").unwrap();
    assert!(check(&open(&store, &anchor).unwrap()).is_sound());
}

#[test]
fn a_new_epoch_keeps_the_old_and_is_closed_to_the_old_key() {
    let (store, anchor, vault) = made();
    fill(&vault);
    let both = Keyring::new(2, [8; 32]).with(1, [7; 32]);
    vault.set_keyring(both.clone()).unwrap();
    vault.device("disk").unwrap().write(0, &[9; BLOCK]).unwrap();
    vault.close().unwrap();
    assert!(matches!(open(&store, &anchor), Err(Error::NoKey(2) | Error::WrongKey(_))));
    let vault = Vault::open(store, both, anchor, options()).unwrap();
    assert!(check(&vault).is_sound());
    let mut first = [0; 1];
    vault.device("disk").unwrap().read(0, &mut first).unwrap();
    assert_eq!(first, [9]);
}

#[test]
fn a_repair_gives_up_what_is_lost_and_nothing_else() {
    let (store, anchor, vault) = made();
    fill(&vault);
    vault.commit("kept").unwrap();
    vault.checkpoint().unwrap();
    vault.close().unwrap();
    // A block, and a leaf of the map: the generation is in segment 2, what the checkpoint stored in segment 3.
    flip(&store, 2, 41);
    flip(&store, 3, leaf(&store, &anchor, 3));
    let vault = open(&store, &anchor).unwrap();
    let before = check(&vault);
    assert!(!before.is_sound());
    let lost: u64 = before.lost.iter().filter(|loss| loss.generation.is_none()).map(|loss| loss.length).sum();
    let done = vault.repair(&before).unwrap();
    assert_eq!(done.zeroed, lost);
    assert!(check(&vault).is_sound());
    vault.clean(twofold_vault::Cleaning { least_dead: 0.125, most: u64::MAX }).unwrap();
    vault.close().unwrap();
    let vault = open(&store, &anchor).unwrap();
    assert!(check(&vault).is_sound());
    let data = support::content(&vault);
    let zeroed = data.chunks(BLOCK).filter(|block| block.iter().all(|byte| *byte == 0)).count();
    assert_eq!(zeroed as u64 * BLOCK as u64, lost);
}

#[test]
fn a_damaged_end_is_given_up_on_purpose_and_then_it_goes_on() {
    let (store, anchor, vault) = made();
    let disk = vault.device("disk").unwrap();
    for block in 0..6 {
        disk.write(block * BLOCK as u64, &[1; BLOCK]).unwrap();
        vault.flush().unwrap();
    }
    let torn = Arc::new(store.kill());
    flip(&torn, 2, 2);
    assert!(matches!(open(&torn, &anchor), Err(Error::TailDamaged(_))));
    let given_up = Options { give_up_tail: true, replace_anchor: true, ..options() };
    let vault = Vault::open(torn.clone(), ring(), anchor.clone(), given_up).unwrap();
    assert!(!check(&vault).notes.is_empty());
    let report = check(&vault);
    vault.repair(&report).unwrap();
    vault.close().unwrap();
    let vault = open(&torn, &anchor).unwrap();
    let kept = vault.device("disk").unwrap().status(0, 40960, 1).unwrap();
    assert_eq!(kept[0].length, 2 * BLOCK as u64);
    vault.device("disk").unwrap().write(0, &[2; BLOCK]).unwrap();
    vault.close().unwrap();
    open(&torn, &anchor).unwrap();
}
