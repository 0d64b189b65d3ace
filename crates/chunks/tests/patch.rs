//! Patches: what comes out is what the index names, or nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;

use twofold_chunks::folder::{Row, path, read, store};
use twofold_chunks::frames::push;
use twofold_chunks::seal::{LEVEL, Sealed, Secret, id};
use twofold_chunks::sealer::Sealer;
use twofold_chunks::{Error, patch};

struct Home(PathBuf);

impl Home {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("twofold-patch-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn keep(&self, name: &[u8; 32], bytes: &[u8]) {
        let mut frame = Vec::new();
        push(&mut frame, name, bytes);
        store(&self.0, &frame).unwrap();
    }

    fn has(&self, row: &Row) -> bool {
        path(&self.0, &row.id).exists()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn secret() -> Secret {
    Secret::new(&[7; 32])
}

fn random(size: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as u8
    };
    (0..size).map(|_| next()).collect()
}

/// The rows of `plain`, and its chunks; kept in `home` if there is one.
fn cut(plain: &[u8], home: Option<&Home>) -> Vec<Row> {
    cut_at(plain, home, LEVEL)
}

fn cut_at(plain: &[u8], home: Option<&Home>, level: u8) -> Vec<Row> {
    let mut sealer = Sealer::new(plain, secret(), Default::default(), Default::default(), level);
    let mut rows = Vec::new();
    while let Some(pieces) = sealer.next(16 << 20).unwrap() {
        for piece in pieces {
            if let Some(home) = home {
                home.keep(&piece.row.id, &piece.bytes);
            }
            rows.push(piece.row);
        }
    }
    rows
}

/// A file, and the same with bytes put in at a third and one other in each block.
fn pair() -> (Vec<u8>, Vec<u8>) {
    let one = random(700_000, 3);
    let mut two = one.clone();
    two.splice(200_000..200_000, [9; 16]);
    two.truncate(one.len());
    two.iter_mut().step_by(4096).for_each(|byte| *byte ^= 1);
    (one, two)
}

fn made(home: &Home) -> (Vec<Row>, Vec<Row>, Sealed, Vec<u8>) {
    let (one, two) = pair();
    let (old, new) = (cut(&one, Some(home)), cut(&two, None));
    let sealed = patch::make(&home.0, &old, &new, &two, LEVEL).unwrap().unwrap();
    (old, new, sealed, two)
}

#[test]
fn chunks_that_were_sealed_harder_come_out_of_a_patch_that_says_so() {
    let home = Home::new("harder");
    let one: Vec<u8> = random(60_000, 5).into_iter().flat_map(|byte| [byte % 7, byte % 5, 0, byte % 3, 1, 2]).collect();
    let mut two = one.clone();
    two.iter_mut().step_by(4096).for_each(|byte| *byte ^= 1);
    let (old, new) = (cut_at(&one, Some(&home), 14), cut_at(&two, None, 14));
    assert_ne!(new[0].id, cut(&two, None)[0].id, "another level gives other bytes");
    for (level, come) in [(14, new.len()), (LEVEL, 0)] {
        let sealed = patch::make(&home.0, &old, &new, &two, level).unwrap().unwrap();
        home.keep(&sealed.id, &sealed.bytes);
        assert_eq!(patch::apply(&home.0, &sealed.id, &old, &new).unwrap(), come);
    }
}

#[test]
fn a_patch_brings_the_very_chunks_and_is_small() {
    let home = Home::new("whole");
    let (old, new, sealed, two) = made(&home);
    assert!(new.iter().all(|row| !home.has(row)), "the new version shares nothing with the old one");
    assert!(sealed.bytes.len() < 4096, "{} bytes", sealed.bytes.len());
    assert_eq!(sealed.id, id(&sealed.bytes));
    home.keep(&sealed.id, &sealed.bytes);
    assert_eq!(patch::apply(&home.0, &sealed.id, &old, &new).unwrap(), new.len());
    let there = Home::new("other");
    cut(&two, Some(&there));
    for row in &new {
        assert_eq!(read(&home.0, &[row.id]).unwrap(), read(&there.0, &[row.id]).unwrap());
    }
    assert_eq!(patch::make(&home.0, &old, &new, &two, LEVEL).unwrap().unwrap(), sealed, "sealing is deterministic");
}

#[test]
fn a_chunk_that_comes_out_otherwise_is_not_kept() {
    let home = Home::new("other-id");
    let (old, mut new, sealed, _) = made(&home);
    home.keep(&sealed.id, &sealed.bytes);
    let right = new[1].clone();
    new[1].id[0] ^= 1; // as if it had been compressed otherwise when it was published
    assert_eq!(patch::apply(&home.0, &sealed.id, &old, &new).unwrap(), new.len() - 1);
    assert!(!home.has(&new[1]) && !home.has(&right) && home.has(&new[0]));
}

#[test]
fn what_is_damaged_or_another_s_brings_nothing() {
    let home = Home::new("damaged");
    let (old, new, sealed, _) = made(&home);
    let apply = |old: &[Row], new: &[Row]| patch::apply(&home.0, &sealed.id, old, new);
    assert!(matches!(apply(&old, &new), Err(Error::Io(_))), "it is not there");
    home.keep(&sealed.id, &sealed.bytes);
    assert!(matches!(apply(&old[1..], &new), Err(Error::Sealed)), "other old chunks");
    assert!(matches!(apply(&old, &new[1..]), Err(Error::Sealed)), "other new chunks");
    let mut longer = new.clone();
    longer[0].size += 4096;
    assert!(matches!(apply(&old, &longer), Err(Error::Size)));
    let mut shorter = new.clone();
    shorter[0].size -= 4096;
    assert!(matches!(apply(&old, &shorter), Err(Error::Size)));
    let mut empty = new.clone();
    empty.iter_mut().for_each(|row| row.size = usize::MAX);
    assert!(matches!(apply(&old, &empty), Err(Error::Size)));
    assert!(matches!(apply(&old, &[]), Err(Error::Size)));
    let file = path(&home.0, &sealed.id);
    for at in [0, 20, sealed.bytes.len() - 1] {
        let mut bad = sealed.bytes.clone();
        bad[at] ^= 1;
        fs::write(&file, &bad).unwrap();
        assert!(matches!(apply(&old, &new), Err(Error::NotTheId)));
    }
    fs::write(&file, &sealed.bytes).unwrap();
    fs::write(path(&home.0, &old[0].id), b"torn").unwrap();
    assert!(matches!(apply(&old, &new), Err(Error::NotTheId)));
    assert!(new.iter().all(|row| !home.has(row)));
}

#[test]
fn what_does_not_fit_is_refused_or_not_made() {
    let home = Home::new("fit");
    let (one, two) = (random(1 << 20, 1), random(1 << 20, 2));
    let (old, new) = (cut(&one, Some(&home)), cut(&two, None));
    assert!(
        patch::make(&home.0, &old, &new, &two, LEVEL).unwrap().is_none(),
        "nothing in common: too long for a chunk"
    );
    assert!(matches!(patch::make(&home.0, &old, &new, &two[1..], LEVEL), Err(Error::Size)));
    assert!(matches!(patch::make(&home.0, &[], &new, &two, LEVEL), Err(Error::Size)));
    let many: Vec<_> = (0..5).flat_map(|_| old.clone()).collect();
    assert!(matches!(patch::make(&home.0, &many, &new, &two, LEVEL), Err(Error::Size)));
}
