//! How fast a vault is without NBD: `cargo run --release -p twofold-vault --example speed -- FOLDER [MIB]`.
//!
//! Prints one line a figure. Batches of 32 blocks as a server makes them: 32 writes and one push, 32 reads. One thread.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use twofold_vault::{BLOCK, Device, DeviceSpec, FileAnchor, Folder, Keyring, Options, Vault};

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}

fn figure(name: &str, count: u64, bytes: u64, work: impl FnOnce()) {
    let (start, before) = (Instant::now(), cpu());
    work();
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu() - before);
    let mib = (count * bytes) as f64 / wall / f64::from(1 << 20);
    println!(
        "{name:28} {:>9.0}/s  {mib:>7.0} MiB/s  {:>9.0}/s of one core's time",
        count as f64 / wall,
        count as f64 / cpu
    );
}

/// Seconds of processor time of this process so far.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: Vec<f64> =
        stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|word| word.parse().ok()).collect();
    (ticks[10] + ticks[11]) / 100.0
}

fn random_writes(disk: &Device, dice: &mut Dice, data: &[u8], count: u64, blocks: u64) {
    for _ in 0..count / 32 {
        for nth in 0..32 {
            let block = dice.below(blocks) * BLOCK as u64;
            disk.write(block, &data[nth * BLOCK..(nth + 1) * BLOCK]).unwrap();
        }
        disk.push().unwrap();
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("a folder"));
    let mib: u64 = arguments.next().map_or(1024, |text| text.parse().unwrap());
    let size = mib << 20;
    let path = folder.join("speed");
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    let (store, ring) = (Arc::new(Folder::new(path.join("."))), Keyring::new(1, [1; 32]));
    Vault::create(store.clone(), ring.clone(), &[DeviceSpec { name: "disk".into(), size }]).unwrap();
    let anchor = Arc::new(FileAnchor::new(folder.join("speed.anchor")));
    let options = Options { replace_anchor: true, ..Options::default() };
    let vault = Vault::open(store, ring, anchor, options).unwrap();
    let disk = vault.device("disk").unwrap();
    let mut dice = Dice(7);
    let data: Vec<u8> = (0..1 << 20).map(|_| dice.below(256) as u8).collect();
    let (blocks, many) = (size / BLOCK as u64, size / BLOCK as u64);
    let mut buffer = vec![0; 1 << 20];

    figure("write 1 MiB in sequence", mib, 1 << 20, || {
        for nth in 0..mib {
            disk.write(nth << 20, &data).unwrap();
            disk.push().unwrap();
        }
    });
    figure("  and a flush", 1, 0, || vault.flush().unwrap());
    figure("read 1 MiB in sequence", mib, 1 << 20, || {
        (0..mib).for_each(|nth| disk.read(nth << 20, &mut buffer).unwrap())
    });
    figure("write 4 KiB at random", many, 4096, || random_writes(&disk, &mut dice, &data, many, blocks));
    figure("  and a flush", 1, 0, || vault.flush().unwrap());
    figure("read 4 KiB at random", many, 4096, || {
        for _ in 0..many {
            disk.read(dice.below(blocks) * BLOCK as u64, &mut buffer[..BLOCK]).unwrap();
        }
    });
    figure("try_read 4 KiB at random", many, 4096, || {
        for _ in 0..many {
            // WouldBlock where the system has dropped the page.
            let _ = disk.try_read(dice.below(blocks) * BLOCK as u64, &mut buffer[..BLOCK]);
        }
    });
    figure("write 4 KiB and flush", 300, 4096, || {
        for _ in 0..300 {
            disk.write(dice.below(blocks) * BLOCK as u64, &data[..BLOCK]).unwrap();
            disk.flush().unwrap();
        }
    });
    let start = Instant::now();
    vault.close().unwrap();
    println!("close {:.3} s", start.elapsed().as_secs_f64());
    let _ = std::fs::remove_dir_all(&path);
    let _ = std::fs::remove_file(folder.join("speed.anchor"));
}
