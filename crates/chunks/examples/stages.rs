//! What each step of publishing costs by itself, in processor seconds of one thread: `stages FILE...`.
//!
//! The files are read into memory once, cut, and each step is then done for all chunks before the next begins.

use std::error::Error;
use std::fs;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use rustix::time::{ClockId, clock_gettime};
use twofold_chunks::cut::{Cutter, Grain};
use twofold_chunks::seal::{Sealing, Secret, id};
use zstd::bulk::Compressor;

fn main() -> Result<(), Box<dyn Error>> {
    let secret = Secret::new(&[7; 32]);
    let files = std::env::args_os().skip(1).map(fs::read).collect::<Result<Vec<_>, _>>()?;
    let total: usize = files.iter().map(Vec::len).sum();
    let digests = step("SHA-256 of the files", || files.iter().map(|file| digest(&SHA256, file)).collect::<Vec<_>>());
    for (name, grain) in [("cut finely, as at first", FINE), ("cut", Grain::IMAGE)] {
        let cutter = Cutter::new(&secret.cut_seed, grain);
        let chunks: Vec<&[u8]> = step(name, || {
            let cut =
                |file| cutter.cut(file, true).0.into_iter().map(|span| &file[span.offset..span.offset + span.size]);
            files.iter().flat_map(|file: &Vec<u8>| cut(file)).collect()
        });
        let data: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        println!("    {} files of {total} bytes, {} chunks of {data} bytes", digests.len(), chunks.len());
        let keys =
            step("keys (BLAKE3 of the data)", || chunks.iter().map(|chunk| secret.key(chunk)).collect::<Vec<_>>());
        for level in [-1, 1, 2, 3, 4, 5, 6, 9] {
            let (mut compressor, mut room) = (Compressor::new(level)?, vec![0; 1 << 20]);
            let stored = step(&format!("zstd {level}"), || {
                let packed = |chunk: &&[u8]| Ok(compressor.compress_to_buffer(chunk, &mut room)?.min(chunk.len()));
                chunks.iter().map(packed).sum::<Result<usize, std::io::Error>>()
            })?;
            println!("    {stored} bytes");
        }
        let mut sealing = Sealing::new()?;
        let sealed = step("sealing whole", || {
            chunks.iter().zip(&keys).map(|(chunk, key)| sealing.seal(chunk, *key)).collect::<Result<Vec<_>, _>>()
        })?;
        step("of that one BLAKE3 of the sealed bytes", || {
            sealed.iter().for_each(|one| assert_eq!(id(&one.bytes), one.id))
        });
        let mut bodies: Vec<Vec<u8>> = sealed.into_iter().map(|one| one.bytes).collect();
        let tags = step("of that AES-256-GCM", || {
            let each = |(body, key): (&mut Vec<u8>, &[u8; 32])| {
                let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key)?);
                key.seal_in_place_separate_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), body)
            };
            bodies.iter_mut().zip(&keys).map(each).collect::<Result<Vec<_>, _>>()
        });
        println!("    {} tags", tags.map_err(|_| "AES-GCM refuses")?.len());
    }
    Ok(())
}

/// What images were cut by at first.
const FINE: Grain = Grain { least: 4, normal: 16, seldom: 24, often: 6 };

fn step<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let spent = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
    };
    let begun = spent();
    let done = work();
    println!("{:6.3} s  {name}", spent() - begun);
    done
}
