//! Where chunks begin and end: decided by content at each 4 KiB block, so that a change moves only the chunks around it.
//!
//! The idea is FastCDC's (Xia et al., ATC '16), with its two thresholds around the wanted mean, evaluated once a block instead
//! of once a byte: disk images move data by whole blocks. Runs of zero blocks are holes and belong to no chunk. The decision
//! is seeded by the company's secret, so that the sizes of chunks do not tell an outsider which known file they hold.

use crate::{BLOCK, MAX_CHUNK};

/// As many zero blocks in a row end a chunk; fewer stay inside it.
const HOLE: usize = 4;
const MAX: usize = MAX_CHUNK / BLOCK;

/// How long chunks become, in blocks. A reader asks for none of it: only who cuts alike finds alike.
#[derive(Clone, Copy, Debug)]
pub struct Grain {
    /// The least before content may end a chunk.
    pub least: usize,
    /// From here on it ends more easily.
    pub normal: usize,
    /// One block in so many ends a chunk before that.
    pub seldom: u64,
    /// One block in so many ends it from there on.
    pub often: u64,
}

impl Grain {
    /// What images are cut by (docs/decisions/0031-full-publish.md has what others gave).
    pub const IMAGE: Self = Self { least: 24, normal: 44, seldom: 64, often: 8 };
}

/// A chunk's place, in bytes from the start of the data that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first byte; a multiple of [`BLOCK`].
    pub offset: usize,
    /// The number of bytes; a multiple of [`BLOCK`] unless the data ends here.
    pub size: usize,
}

/// Decides by content, under a seed.
#[derive(Clone)]
pub struct Cutter {
    seeds: [u64; 4],
    grain: Grain,
}

impl Cutter {
    /// A cutter whose decisions no one can predict without `seed`.
    #[must_use]
    pub fn new(seed: &[u8; 32], grain: Grain) -> Self {
        let mut seeds = [0; 4];
        for (word, bytes) in seeds.iter_mut().zip(seed.chunks_exact(8)) {
            *word = word_of(bytes);
        }
        Self { seeds, grain }
    }

    /// Cut `data`. Returns the chunks that are decided and where the undecided rest begins; at `end` of the input all of it is
    /// decided. Before the end, `data` must be whole blocks; feeding the rest again with more behind it gives the same chunks
    /// as feeding everything at once.
    #[must_use]
    pub fn cut(&self, data: &[u8], end: bool) -> (Vec<Span>, usize) {
        let mut spans = Vec::new();
        let mut at = past_holes(data, 0);
        while let Some((span, next)) = self.one(data, at, end, usize::MAX) {
            spans.push(span);
            at = past_holes(data, next);
        }
        (spans, at)
    }

    /// The chunk that begins at `at`, which is no hole, and where to go on; it ends at `stop` if not before. None while that is
    /// undecided, and where there is no more data.
    #[must_use]
    pub fn one(&self, data: &[u8], at: usize, end: bool, stop: usize) -> Option<(Span, usize)> {
        let Grain { least, normal, seldom, often } = self.grain;
        let (seldom, often) = (u64::MAX / seldom, u64::MAX / often);
        let (start, mut at) = (at, at);
        let (mut blocks, mut zeroes, mut solid) = (0, 0, start);
        while at < data.len() {
            let here = block(data, at);
            at += here.len();
            blocks += 1;
            if is_zero(here) {
                zeroes += 1;
            } else {
                zeroes = 0;
                solid = at;
            }
            let bar = if blocks < least {
                0
            } else if blocks < normal {
                seldom
            } else {
                often
            };
            let here_by_content = zeroes == 0 && bar > 0 && self.digest(here) < bar;
            if zeroes == HOLE || blocks == MAX || at >= stop || here_by_content {
                return Some((Span { offset: start, size: solid - start }, at));
            }
        }
        (end && solid > start).then(|| (Span { offset: start, size: solid - start }, at))
    }

    /// Four lanes of multiply and fold over the whole block: fast, seeded, and not meant to resist more than a guess.
    fn digest(&self, block: &[u8]) -> u64 {
        let mut lanes = self.seeds;
        let mut groups = block.chunks_exact(32);
        for group in &mut groups {
            for (lane, bytes) in lanes.iter_mut().zip(group.chunks_exact(8)) {
                *lane = fold(*lane ^ word_of(bytes), 0x9e37_79b9_7f4a_7c15);
            }
        }
        let tail = groups
            .remainder()
            .iter()
            .fold(block.len() as u64, |sum, byte| fold(sum ^ u64::from(*byte), 0xd6e8_feb8_6659_fd93));
        lanes.iter().fold(tail, |sum, lane| fold(sum ^ lane, 0xa076_1d64_78bd_642f))
    }
}

/// Where the next data is from `at` on, or the end.
#[must_use]
pub fn past_holes(data: &[u8], mut at: usize) -> usize {
    while at < data.len() && is_zero(block(data, at)) {
        at = (at + BLOCK).min(data.len());
    }
    at
}

fn block(data: &[u8], at: usize) -> &[u8] {
    &data[at..data.len().min(at + BLOCK)]
}

fn is_zero(block: &[u8]) -> bool {
    let words = block.chunks_exact(16);
    words.remainder().iter().all(|byte| *byte == 0) && words.into_iter().all(|word| word == [0; 16])
}

fn word_of(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

fn fold(word: u64, by: u64) -> u64 {
    let wide = u128::from(word) * u128::from(by);
    #[allow(clippy::cast_possible_truncation)] // both halves are taken
    let folded = (wide as u64) ^ ((wide >> 64) as u64);
    folded.rotate_left(23) ^ word
}
