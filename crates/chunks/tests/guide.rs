//! Cuts besides content's: at edges, and where a former version was cut; and all of the stream comes back whatever they are.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod dice;

use std::collections::{HashMap, HashSet};

use twofold_chunks::cut::{Cutter, Grain};
use twofold_chunks::folder::Row;
use twofold_chunks::guide::Guide;
use twofold_chunks::seal::{LEVEL, Secret};
use twofold_chunks::sealer::Sealer;
use twofold_chunks::{BLOCK, Key, MAX_CHUNK};

use dice::Dice;

trait Disk {
    fn noise(&mut self, blocks: usize) -> Vec<u8>;
    fn disk(&mut self, blocks: usize) -> Vec<u8>;
}

impl Disk for Dice {
    fn noise(&mut self, blocks: usize) -> Vec<u8> {
        (0..blocks * BLOCK / 8).flat_map(|_| self.next().to_le_bytes()).collect()
    }

    /// Noise with holes in it, and an end that is no block's.
    fn disk(&mut self, blocks: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < blocks * BLOCK {
            let data = 1 + self.below(90);
            out.extend(self.noise(data));
            out.resize(out.len() + self.below(9) * BLOCK, 0);
        }
        out.extend(self.noise(1));
        out.truncate(out.len() - 100);
        out
    }
}

fn secret() -> Secret {
    Secret::new(&[1; 32])
}

fn rows(data: &[u8], guide: Guide, window: usize) -> Vec<Row> {
    let mut sealer = Sealer::new(data, secret(), HashMap::new(), guide, LEVEL);
    let mut rows = Vec::new();
    while let Some(pieces) = sealer.next(window).unwrap() {
        rows.extend(pieces.into_iter().map(|piece| piece.row));
    }
    rows
}

/// Each row holds what the stream has there, and what no row holds is zero.
fn covers(data: &[u8], rows: &[Row]) {
    let mut at = 0;
    for row in rows {
        let from = row.offset as usize;
        assert!(from >= at && from % BLOCK == 0 && row.size > 0 && row.size <= MAX_CHUNK);
        assert!(data[at..from].iter().all(|byte| *byte == 0), "a hole is zero");
        at = from + row.size;
        assert!(row.key == secret().key(&data[from..at]), "a key is its plaintext's");
    }
    assert!(data[at..].iter().all(|byte| *byte == 0));
}

fn keys(rows: &[Row]) -> HashSet<Key> {
    rows.iter().map(|row| row.key).collect()
}

fn edges(dice: &mut Dice, data: &[u8], count: usize) -> Vec<u64> {
    (0..count).map(|_| (dice.below(data.len() / BLOCK) * BLOCK) as u64).collect()
}

#[test]
fn without_cuts_of_its_own_it_is_the_cutter() {
    let data = Dice(1).disk(3000);
    let (spans, rest) = Cutter::new(&secret().cut_seed, Grain::IMAGE).cut(&data, true);
    assert_eq!(rest, data.len());
    let plain: Vec<_> =
        rows(&data, Guide::default(), 1 << 20).iter().map(|row| (row.offset as usize, row.size)).collect();
    assert_eq!(plain, spans.iter().map(|span| (span.offset, span.size)).collect::<Vec<_>>());
}

#[test]
fn no_chunk_crosses_an_edge_however_the_stream_comes() {
    for seed in 1..14 {
        let mut dice = Dice(seed);
        let data = dice.disk(1500);
        let edges = edges(&mut dice, &data, 60);
        let found = rows(&data, Guide::new(edges.clone(), Vec::new()), 1 << 20);
        covers(&data, &found);
        for edge in &edges {
            assert!(
                found.iter().all(|row| *edge <= row.offset || *edge >= row.offset + row.size as u64),
                "edge {edge}"
            );
        }
        let again = rows(&data, Guide::new(edges, Vec::new()), 8 << 20);
        assert!(keys(&again) == keys(&found) && again.len() == found.len());
    }
}

#[test]
fn a_version_without_a_change_has_the_same_chunks() {
    let mut dice = Dice(3);
    let data = dice.disk(3000);
    let edges = edges(&mut dice, &data, 200);
    let one = rows(&data, Guide::new(edges, Vec::new()), 2 << 20);
    for window in [1 << 20, 3 << 20] {
        let two = rows(&data, Guide::new(Vec::new(), one.clone()), window);
        assert_eq!(keys(&two), keys(&one), "the edges are followed, and nobody said them again");
    }
}

#[test]
fn a_change_costs_the_chunks_it_lies_in() {
    for seed in 1..9 {
        let mut dice = Dice(seed);
        let data = dice.disk(2500);
        let edges = edges(&mut dice, &data, 150);
        let one = rows(&data, Guide::new(edges, Vec::new()), 2 << 20);
        let mut new = data.clone();
        let mut changes = 0;
        for _ in 0..8 {
            let at = dice.below(new.len() / BLOCK - 80) * BLOCK;
            match dice.below(4) {
                0 => {
                    new.splice(at..at, dice.noise(3)).for_each(drop);
                }
                3 => {
                    new.splice(at..at, dice.noise(40)).for_each(drop); // further than it looks aside
                }
                1 => {
                    new.drain(at..at + 2 * BLOCK).for_each(drop);
                }
                _ => new[at + 17] ^= 1,
            }
            changes += 1;
        }
        let two = rows(&new, Guide::new(Vec::new(), one.clone()), 2 << 20);
        covers(&new, &two);
        for window in [1 << 20, 5 << 20] {
            let other = rows(&new, Guide::new(Vec::new(), one.clone()), window);
            let places = |rows: &[Row]| rows.iter().map(|row| (row.offset, row.size)).collect::<Vec<_>>();
            assert!(places(&other) == places(&two), "seed {seed}: the cuts depend on how much is read at once");
        }
        let fresh: Vec<_> = two.iter().filter(|row| !keys(&one).contains(&row.key)).collect();
        assert!(
            fresh.len() <= 5 * changes,
            "seed {seed}: {} new chunks for {changes} changes of {}",
            fresh.len(),
            two.len()
        );
        let alone = rows(&new, Guide::default(), 2 << 20);
        let without = alone.iter().filter(|row| !keys(&one).contains(&row.key)).count();
        assert!(fresh.len() * 2 < without, "{} against {without} by content alone", fresh.len());
    }
}

#[test]
fn a_former_version_that_lies_is_not_believed() {
    let mut dice = Dice(5);
    let data = dice.disk(800);
    let mut former = rows(&data, Guide::default(), 1 << 20);
    for (nth, row) in former.iter_mut().enumerate() {
        match nth % 4 {
            0 => row.key = [nth as u8; 32],
            1 => row.offset = u64::MAX / 2 - nth as u64,
            2 => row.size = 1 + nth * 13 % MAX_CHUNK,
            _ => {}
        }
    }
    covers(&data, &rows(&data, Guide::new(vec![0, 3, u64::MAX], former), 1 << 20));
}
