//! How long an opening takes after a crash, and the memory it needs:
//! `cargo run --release -p twofold-vault --example opening -- FOLDER make SIZE_GIB WRITTEN_GIB`, then `… FOLDER open`.
//!
//! `make` writes single blocks at random over the whole device and then ends without closing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use twofold_vault::{BLOCK, DeviceSpec, FileAnchor, Folder, Keyring, Options, Vault};

fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = PathBuf::from(&arguments[0]);
    let (path, anchor) = (folder.join("opening"), Arc::new(FileAnchor::new(folder.join("opening.anchor"))));
    let ring = Keyring::new(1, [1; 32]);
    let store = Arc::new(Folder::new(&path));
    if arguments[1] == "make" {
        let (size, written): (u64, u64) = (arguments[2].parse().unwrap(), arguments[3].parse().unwrap());
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Vault::create(store.clone(), ring.clone(), &[DeviceSpec { name: "disk".into(), size: size << 30 }]).unwrap();
        let options = Options { replace_anchor: true, ..Options::default() };
        let vault = Vault::open(store, ring, anchor, options).unwrap();
        let disk = vault.device("disk").unwrap();
        let (blocks, start) = (size << 18, Instant::now());
        let mut dice = 7u64;
        let mut data = [0; BLOCK];
        for nth in 0..written << 18 {
            dice ^= dice >> 12;
            dice ^= dice << 25;
            dice ^= dice >> 27;
            let block = dice.wrapping_mul(0x2545_f491_4f6c_dd1d) % blocks;
            data[..8].copy_from_slice(&block.to_le_bytes());
            data[8..16].copy_from_slice(&nth.to_le_bytes());
            disk.write(block * BLOCK as u64, &data).unwrap();
            if nth % 32 == 31 {
                disk.push().unwrap();
            }
        }
        disk.flush().unwrap();
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{written} GiB at random in {seconds:.0} s, {:.0} MiB/s, {} MiB resident at most, tail {} MiB",
            written as f64 * 1024.0 / seconds,
            memory("VmHWM"),
            vault.info().tail >> 20
        );
        std::process::exit(0);
    }
    let start = Instant::now();
    let vault = Vault::open(store, ring, anchor, Options::default()).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!("opened in {seconds:.3} s, {} MiB resident, {} MiB at most", memory("VmRSS"), memory("VmHWM"));
    let disk = vault.device("disk").unwrap();
    let (mut buffer, start) = (vec![0; BLOCK], Instant::now());
    for nth in 0..2000u64 {
        disk.read(nth * 7919 % (disk.size() >> 12) * BLOCK as u64, &mut buffer).unwrap();
    }
    println!("2000 first reads in {:.3} s; {:?}", start.elapsed().as_secs_f64(), vault.info().map_memory >> 20);
    std::process::exit(0);
}
