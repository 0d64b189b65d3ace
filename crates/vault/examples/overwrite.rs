//! What writing over and over costs: `cargo run --release -p twofold-vault --example overwrite -- FOLDER [MIB] [ROUNDS]`.
//!
//! Fills a device, then writes it over at random, 32 blocks and a push at a time, as fast as it goes; the cleaner works beside
//! it. Prints what lies on the disk meanwhile, how long batches took, and what was written to the disk for what was asked.
//! Then it reads the device from end to end, from memory and from the disk.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use twofold_vault::{BLOCK, Device, DeviceSpec, FileAnchor, Folder, Keyring, Options, Vault};

const GIB: f64 = (1u64 << 30) as f64;

/// Bytes on the disk, as the file system counts them.
fn taken(folder: &Path) -> f64 {
    let files = std::fs::read_dir(folder).unwrap();
    files.filter_map(|file| file.ok()?.metadata().ok()).map(|about| about.blocks() * 512).sum::<u64>() as f64
}

/// Bytes that this process has caused to be written so far (proc(5): write_bytes).
fn written() -> f64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
    line.parse::<f64>().unwrap()
}

fn read_all(name: &str, disk: &Device, size: u64) {
    let (start, mut buffer) = (Instant::now(), vec![0; 1 << 20]);
    (0..size >> 20).for_each(|nth| disk.read(nth << 20, &mut buffer).unwrap());
    println!("{name}: {:.0} MiB/s", (size >> 20) as f64 / start.elapsed().as_secs_f64());
}

/// What the files hold goes out of memory.
fn drop_cache(folder: &Path) {
    for file in std::fs::read_dir(folder).unwrap() {
        let file = std::fs::File::open(file.unwrap().path()).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("a folder")).join("overwrite");
    let size = arguments.next().map_or(1024, |text| text.parse::<u64>().unwrap()) << 20;
    let rounds: f64 = arguments.next().map_or(3.0, |text| text.parse().unwrap());
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let (store, ring) = (Arc::new(Folder::new(&folder)), Keyring::new(1, [1; 32]));
    Vault::create(store.clone(), ring.clone(), &[DeviceSpec { name: "disk".into(), size }]).unwrap();
    let anchor = Arc::new(FileAnchor::new(folder.with_extension("anchor")));
    let options = Options { replace_anchor: true, ..Options::default() };
    let vault = Vault::open(store, ring, anchor, options).unwrap();
    let disk = vault.device("disk").unwrap();
    let data: Vec<u8> = (0..1u32 << 20).map(|byte| (byte.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for nth in 0..size >> 20 {
        disk.write(nth << 20, &data).unwrap();
    }
    vault.flush().unwrap();
    read_all("fresh, from memory", &disk, size);
    drop_cache(&folder);
    read_all("fresh, from the disk", &disk, size);

    let (blocks, batches) = (size / BLOCK as u64, (rounds * size as f64) as u64 / BLOCK as u64 / 32);
    let (start, before, mut dice, mut most) = (Instant::now(), written(), 7u64, 0f64);
    let (mut took, mut told) = (Vec::new(), Instant::now());
    for batch in 0..batches {
        let begin = Instant::now();
        for nth in 0..32 {
            dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(11);
            disk.write((dice >> 33) % blocks * BLOCK as u64, &data[nth * BLOCK..(nth + 1) * BLOCK]).unwrap();
        }
        disk.push().unwrap();
        took.push(begin.elapsed());
        if batch % 64 == 0 {
            most = most.max(taken(&folder));
        }
        if told.elapsed() > Duration::from_secs(2) {
            told = Instant::now();
            let (done, seconds) = (batch as f64 * 32.0 * BLOCK as f64, start.elapsed().as_secs_f64());
            let space = vault.space();
            println!(
                "{seconds:5.0} s: {:6.2} GiB written, {:4.0} MiB/s, {:5.2} GiB on the disk, {:4.2} of {:4.2} GiB dead",
                done / GIB,
                done / seconds / f64::from(1 << 20),
                taken(&folder) / GIB,
                space.dead as f64 / GIB,
                (space.dead + space.live) as f64 / GIB,
            );
        }
    }
    vault.flush().unwrap();
    let asked = batches as f64 * 32.0 * BLOCK as f64;
    let seconds = start.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
    println!("{:.2} GiB in {seconds:.1} s: {:.0} MiB/s", asked / GIB, asked / seconds / f64::from(1 << 20));
    println!("batches of 32: half {:?}, 99 % {:?}, 99.9 % {:?}, all {:?}", at(0.5), at(0.99), at(0.999), at(1.0));
    println!(
        "at most {:.2} GiB on the disk for {:.2} GiB; {:.2} written for each byte",
        most / GIB,
        size as f64 / GIB,
        (written() - before) / asked
    );
    std::thread::sleep(Duration::from_secs(5));
    println!("then {:.2} GiB", taken(&folder) / GIB);
    read_all("aged, from memory", &disk, size);
    drop_cache(&folder);
    read_all("aged, from the disk", &disk, size);
    vault.close().unwrap();
    let _ = std::fs::remove_dir_all(&folder);
}
