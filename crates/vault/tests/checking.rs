//! A check holds nobody up, is not confused by what others do meanwhile, and stops when it is told to.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod support;

use std::sync::mpsc::channel;
use std::time::Duration;

use support::{check, content};
use twofold_vault::{BLOCK, Cleaning, Error, SLOT, Store, Vault};

const BLOCKS: u64 = 4000;

fn fill(vault: &Vault, byte: u8, step: usize) {
    let disk = vault.device("disk").unwrap();
    for block in (0..BLOCKS).step_by(step) {
        disk.write(block * BLOCK as u64, &[byte ^ block as u8 | 1; BLOCK]).unwrap();
    }
}

/// Checks, and does `work` on another thread once it is half through; a check that holds up the work fails it.
fn half_way(vault: &Vault, work: impl FnOnce(&Vault) + Send) -> twofold_vault::Report {
    let mut work = Some(work);
    std::thread::scope(|scope| {
        vault
            .check(&mut |done, total| {
                if done * 2 < total {
                    return;
                }
                let Some(work) = work.take() else { return };
                let (told, ended) = channel();
                scope.spawn(move || {
                    work(vault);
                    told.send(()).unwrap();
                });
                ended.recv_timeout(Duration::from_secs(60)).expect("it waits for the check");
            })
            .unwrap()
    })
}

#[test]
fn a_suspend_a_generation_and_the_cleaner_go_on_during_a_check() {
    let (_, _, vault) = support::made(BLOCKS, support::options(256));
    fill(&vault, 1, 1);
    fill(&vault, 2, 3);
    let report = half_way(&vault, |vault| {
        let mut writer = vault.stream_writer("memory", b"state").unwrap();
        writer.write(0, &vec![7; 90 * BLOCK]).unwrap();
        writer.finish(90 * BLOCK as u64).unwrap();
        vault.commit("half-way").unwrap();
        assert!(vault.clean(Cleaning { least_dead: 0.125, most: u64::MAX }).unwrap().removed > 0);
    });
    assert!(report.is_sound(), "{report:?}");
    assert!(vault.streams()[0].current && check(&vault).is_sound());
}

#[test]
fn what_is_overwritten_dropped_used_and_cleaned_meanwhile_is_not_lost() {
    let (_, _, vault) = support::made(BLOCKS, support::options(256));
    fill(&vault, 1, 1);
    let kept = vault.commit("dropped half-way").unwrap();
    fill(&vault, 2, 2);
    let mut writer = vault.stream_writer("memory", b"state").unwrap();
    writer.write(0, &vec![7; 300 * BLOCK]).unwrap();
    writer.finish(300 * BLOCK as u64).unwrap();
    let report = half_way(&vault, |vault| {
        vault.consume("memory").unwrap();
        vault.drop_generation(kept.number).unwrap();
        fill(vault, 3, 1);
        vault.resize("disk", (BLOCKS - 600) * BLOCK as u64).unwrap();
        vault.clean(Cleaning { least_dead: 0.125, most: u64::MAX }).unwrap();
    });
    assert!(report.is_sound(), "{report:?}");
    assert!(check(&vault).is_sound());
}

#[test]
fn it_stops_when_told_to() {
    let (_, _, vault) = support::made(BLOCKS, support::options(256));
    fill(&vault, 1, 1);
    let mut heard = 0;
    let stopped = vault.check_while(&mut |_, _| {
        heard += 1;
        heard < 3
    });
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    assert_eq!(heard, 3);
}

#[test]
fn a_pack_whose_table_is_damaged_is_found_by_its_copy() {
    let (store, anchor, vault) = support::made(BLOCKS, support::options(256));
    fill(&vault, 1, 1);
    fill(&vault, 2, 3);
    vault.clean(Cleaning::default()).unwrap();
    let then = content(&vault);
    vault.close().unwrap();
    let names: Vec<String> = store.list().unwrap().into_iter().filter(|name| name.starts_with("p-")).collect();
    assert!(names.len() > 1);
    for at in [0, 9, 13, 20, 35, 41, 50, 64, 80, 110, 128, 2175] {
        let store = std::sync::Arc::new(store.kill());
        for name in &names {
            let mut bytes = store.bytes(name).unwrap();
            bytes[at] ^= 4;
            store.put(name, bytes);
        }
        let vault = support::open(&store, &anchor, support::options(256)).unwrap();
        assert!(content(&vault) == then, "byte {at}");
        let report = check(&vault);
        assert!(report.is_sound() && report.notes.len() == names.len(), "byte {at}: {report:?}");
        // What the cleaner makes of it is whole again.
        fill(&vault, 3, 2);
        vault.clean(Cleaning { least_dead: 0.125, most: u64::MAX }).unwrap();
        assert!(check(&vault).notes.len() < names.len());
    }
    // The copy too: then what the pack held is lost, and named; the rest is there.
    let name = &names[0];
    let mut bytes = store.bytes(name).unwrap();
    let segments = u32::from_le_bytes(bytes[40..44].try_into().unwrap()) as usize;
    let copy = bytes.len() - 96 - 2112 * segments;
    (bytes[70], bytes[copy + 70]) = (!bytes[70], !bytes[copy + 70]);
    let held = (copy - 96 - 2112 * segments) / SLOT;
    store.put(name, bytes);
    let vault = support::open(&store, &anchor, support::options(256)).unwrap();
    let lost: u64 = check(&vault).lost.iter().map(|loss| loss.length).sum();
    assert!(lost > 0 && lost <= (held * BLOCK) as u64, "{lost} bytes of {held} slots");
}
