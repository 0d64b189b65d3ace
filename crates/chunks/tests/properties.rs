//! Seeded random tests: any bytes come back, any change is noticed, and a change moves few chunks.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod dice;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use twofold_chunks::cut::{Cutter, Grain};
use twofold_chunks::folder::{self, Row};
use twofold_chunks::guide::Guide;
use twofold_chunks::seal::{LEVEL, OVERHEAD, Opening, Sealing, Secret, id};
use twofold_chunks::sealer::Sealer;
use twofold_chunks::{BLOCK, Error, MAX_CHUNK, frames};

use dice::Dice;

trait Disk {
    fn disk(&mut self, blocks: usize) -> Vec<u8>;
}

impl Disk for Dice {
    /// Stretches of noise, of repeats and of zeroes, as disks have them.
    fn disk(&mut self, blocks: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(blocks * BLOCK);
        while out.len() < blocks * BLOCK {
            let size = (1 + self.below(40)) * BLOCK;
            match self.below(4) {
                0 => out.resize(out.len() + size, 0),
                1 => {
                    let byte = self.next() as u8;
                    out.resize(out.len() + size, byte);
                }
                _ => (0..size / 8).for_each(|_| out.extend(self.next().to_le_bytes())),
            }
        }
        out.truncate(blocks * BLOCK);
        out
    }
}

fn secret(seed: u8) -> Secret {
    Secret::new(&[seed; 32])
}

fn room(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn seal(data: &[u8], window: usize) -> (Vec<Row>, Vec<u8>) {
    let mut sealer = Sealer::new(data, secret(1), HashMap::new(), Guide::default(), LEVEL);
    let (mut rows, mut body) = (Vec::new(), Vec::new());
    while let Some(pieces) = sealer.next(window).unwrap() {
        for piece in pieces {
            assert_eq!(piece.stored, piece.bytes.len());
            frames::push(&mut body, &piece.row.id, &piece.bytes);
            rows.push(piece.row);
        }
    }
    assert_eq!(sealer.offset(), data.len() as u64);
    (rows, body)
}

#[test]
fn any_stream_comes_back() {
    let folder = room("round-trip");
    let mut dice = Dice(7);
    for round in 0..40 {
        let blocks = dice.below(700);
        let mut data = dice.disk(blocks);
        data.truncate(data.len().saturating_sub(if round % 2 == 0 { 0 } else { dice.below(BLOCK) }));
        let (rows, body) = seal(&data, 1 << 20);
        folder::store(&folder, &body).unwrap();
        let mut plain = vec![0; data.len()];
        assert!(folder::open(&folder, &rows, 0, &mut plain).unwrap().is_empty());
        assert!(plain == data, "round {round}");
        for row in &rows {
            assert!(row.offset % BLOCK as u64 == 0 && row.size <= MAX_CHUNK);
        }
    }
}

#[test]
fn windows_do_not_change_what_comes_out() {
    let data = Dice(11).disk(4000);
    let (whole, _) = seal(&data, 64 << 20);
    let (pieces, _) = seal(&data, 1 << 20);
    let ids = |rows: &[Row]| rows.iter().map(|row| (row.offset, row.id)).collect::<Vec<_>>();
    assert_eq!(ids(&whole), ids(&pieces));
}

#[test]
fn the_digest_is_the_stream_s_in_any_windows_and_with_known_chunks() {
    let mut data = Dice(17).disk(1500);
    data.truncate(data.len() - 1000);
    let whole = ring::digest::digest(&ring::digest::SHA256, &data);
    for window in [1 << 20, 3 << 20, 64 << 20] {
        let mut known = HashMap::new();
        for _ in ["sealed", "known"] {
            let mut sealer = Sealer::new(&data[..], secret(1), known.clone(), Guide::default(), LEVEL);
            while let Some(pieces) = sealer.next(window).unwrap() {
                known.extend(pieces.into_iter().map(|piece| (piece.row.key, (piece.row.id, piece.stored))));
            }
            assert_eq!(sealer.sha256(), whole.as_ref(), "windows of {window}");
        }
    }
}

#[test]
fn zeroes_are_no_chunks() {
    let mut data = vec![0; 3 << 20];
    assert!(seal(&data, 1 << 20).0.is_empty());
    data[(1 << 20) + 5] = 1;
    let (rows, _) = seal(&data, 1 << 20);
    assert_eq!(rows.iter().map(|row| (row.offset, row.size)).collect::<Vec<_>>(), [(1 << 20, BLOCK)]);
}

#[test]
fn a_short_tail_of_zeroes_takes_nothing_from_the_chunk_before_it() {
    for tail in [1, 100, BLOCK - 1, BLOCK, BLOCK + 1] {
        let mut data = vec![0; BLOCK + tail];
        data[7] = 1;
        let (rows, _) = seal(&data, 1 << 20);
        assert_eq!(rows.iter().map(|row| (row.offset, row.size)).collect::<Vec<_>>(), [(0, BLOCK)]);
    }
}

#[test]
fn an_insertion_moves_few_chunks() {
    let mut dice = Dice(3);
    let noise = |dice: &mut Dice, blocks: usize| {
        (0..blocks * BLOCK / 8).flat_map(|_| dice.next().to_le_bytes()).collect::<Vec<_>>()
    };
    let old = noise(&mut dice, 4096);
    let at = dice.below(4096) * BLOCK;
    let new = [&old[..at], &noise(&mut dice, 3), &old[at..]].concat();
    let ids = |data: &[u8]| seal(data, 4 << 20).0.into_iter().map(|row| row.id).collect::<HashSet<_>>();
    let (before, after) = (ids(&old), ids(&new));
    let fresh = after.difference(&before).count();
    assert!(before.len() > 80, "{} chunks", before.len());
    assert!((1..=6).contains(&fresh), "{fresh} new chunks of {}", after.len());
}

#[test]
fn chunks_have_the_sizes_that_were_wanted() {
    let mut dice = Dice(5);
    let data: Vec<u8> = (0..(64 << 20) / 8).flat_map(|_| dice.next().to_le_bytes()).collect();
    let (spans, _) = Cutter::new(&[9; 32], Grain::IMAGE).cut(&data, true);
    let mean = data.len() / spans.len();
    assert!((144 << 10..=208 << 10).contains(&mean), "mean {mean}");
    assert!(spans[..spans.len() - 1].iter().all(|span| (24 * BLOCK..=MAX_CHUNK).contains(&span.size)));
}

#[test]
fn another_company_gets_other_ids_keys_and_boundaries() {
    let data = Dice(13).disk(64);
    let (one, two) = (secret(1), secret(2));
    let mine = Sealing::new().unwrap().seal(&data[..BLOCK * 4], one.key(&data[..BLOCK * 4])).unwrap();
    let theirs = Sealing::new().unwrap().seal(&data[..BLOCK * 4], two.key(&data[..BLOCK * 4])).unwrap();
    assert!(mine.id != theirs.id && mine.key != theirs.key && one.cut_seed != two.cut_seed);
}

#[test]
fn two_encodings_of_one_plaintext_never_share_a_nonce() {
    // What another zstd would do: the same plaintext, another body. Incompressible data is stored raw, so that sealing half of
    // a plaintext's key with other bytes stands in for it.
    let company = secret(1);
    let mut sealing = Sealing::new().unwrap();
    let key = company.key(b"one plaintext");
    let one = sealing.seal(b"one encoding", key).unwrap();
    let two = sealing.seal(b"another encoding", key).unwrap();
    assert_ne!(one.bytes[..12], two.bytes[..12]);
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let mut dice = Dice(17);
    let company = secret(1);
    let plain: Vec<u8> = (0..6000).map(|n| if n % 3 == 0 { dice.next() as u8 } else { 7 }).collect();
    let sealed = Sealing::new().unwrap().seal(&plain, company.key(&plain)).unwrap();
    let mut opening = Opening::new().unwrap();
    let mut out = vec![0; plain.len()];
    for at in 0..sealed.bytes.len() {
        let mut bad = sealed.bytes.clone();
        bad[at] ^= 1 << dice.below(8);
        assert!(matches!(opening.open(&mut bad.clone(), &sealed.id, &sealed.key, &mut out), Err(Error::NotTheId)));
        // A thief who also names the damaged bytes by their own id still lacks the key.
        let renamed = id(&bad);
        assert!(matches!(opening.open(&mut bad, &renamed, &sealed.key, &mut out), Err(Error::Sealed)), "byte {at}");
        let mut short = sealed.bytes[..at].to_vec();
        let renamed = id(&short);
        assert!(opening.open(&mut short, &renamed, &sealed.key, &mut out).is_err());
    }
    for wrong in [plain.len() - 1, plain.len() + 1, 0, MAX_CHUNK] {
        let mut out = vec![0; wrong];
        assert!(opening.open(&mut sealed.bytes.clone(), &sealed.id, &sealed.key, &mut out).is_err());
    }
    assert!(opening.open(&mut sealed.bytes.clone(), &sealed.id, &sealed.key, &mut out).is_ok());
}

#[test]
fn a_bomb_is_bounded() {
    let company = secret(1);
    let sealed = Sealing::new().unwrap().seal(&vec![0; MAX_CHUNK], company.key(&vec![0; MAX_CHUNK])).unwrap();
    assert!(sealed.bytes.len() < 100 + OVERHEAD);
    let mut out = vec![0; BLOCK];
    let opened = Opening::new().unwrap().open(&mut sealed.bytes.clone(), &sealed.id, &sealed.key, &mut out);
    assert!(matches!(opened, Err(Error::Size)));
}

#[test]
fn frames_from_a_stranger_never_panic() {
    let mut dice = Dice(19);
    let (_, body) = seal(&Dice(23).disk(60), 1 << 20);
    let folder = room("frames");
    for _ in 0..2000 {
        let mut bad = body[..dice.below(body.len().min(9000))].to_vec();
        for _ in 0..dice.below(4) {
            if !bad.is_empty() {
                let at = dice.below(bad.len());
                bad[at] = dice.next() as u8;
            }
        }
        let _ = frames::parse(&bad);
    }
    let mut bad = body.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    assert!(matches!(folder::store(&folder, &bad), Err(Error::NotTheId)));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "nothing of a wrong body is kept");
}

#[test]
fn damage_is_named_and_storing_heals_it() {
    let folder = room("damage");
    let data = Dice(29).disk(300);
    let (rows, body) = seal(&data, 1 << 20);
    let count = rows.iter().map(|row| row.id).collect::<HashSet<_>>().len();
    assert_eq!(folder::store(&folder, &body).unwrap(), count);
    assert_eq!(folder::store(&folder, &body).unwrap(), 0);
    let torn = folder::path(&folder, &rows[0].id);
    std::fs::write(&torn, b"torn").unwrap();
    std::fs::remove_file(folder::path(&folder, &rows[1].id)).unwrap();
    let mut plain = vec![0; data.len()];
    assert_eq!(folder::open(&folder, &rows, 0, &mut plain).unwrap(), [rows[0].id, rows[1].id]);
    folder::store(&folder, &body).unwrap();
    let mut plain = vec![0; data.len()];
    assert!(folder::open(&folder, &rows, 0, &mut plain).unwrap().is_empty());
    assert!(plain == data);
}

#[test]
fn rows_that_overlap_or_lie_outside_are_refused() {
    let folder = room("rows");
    let row = |offset, size| Row { offset, size, id: [0; 32], key: [0; 32] };
    let mut plain = vec![0; 8192];
    for rows in
        [vec![row(0, 4096), row(0, 4096)], vec![row(4096, 8192)], vec![row(u64::MAX, 1)], vec![row(0, usize::MAX)]]
    {
        assert!(folder::open(&folder, &rows, 0, &mut plain).is_err());
    }
    assert!(folder::open(&folder, &[row(0, 4096)], 4096, &mut plain).is_err());
}

#[test]
fn known_chunks_are_not_sealed_again() {
    let data = Dice(31).disk(500);
    let (rows, _) = seal(&data, 4 << 20);
    let known = rows.iter().map(|row| (row.key, (row.id, 77))).collect();
    let mut sealer = Sealer::new(&data[..], secret(1), known, Guide::default(), LEVEL);
    while let Some(pieces) = sealer.next(1 << 20).unwrap() {
        assert!(pieces.iter().all(|piece| piece.bytes.is_empty() && piece.stored == 77));
    }
}
