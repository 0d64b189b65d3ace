//! What going through a vault finds, as `check` answers it.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use twofold_vault::{Damage, Error, Loss, RangeKind, Report, Vault};

use crate::memory::Progress;
use crate::said::Said;

/// Bytes of a device whose map is looked at in one step.
const WINDOW: u64 = 1 << 30;
/// Lost ranges that are named, for each device; more are only counted.
const NAMED: usize = 1000;

/// Go through all devices. With `data` every slot that the present state, the generations and the stored memory need is read
/// and opened; without, the map alone.
///
/// # Errors
/// The disk itself fails. Damage is no error: it is what is reported, by name.
pub fn check(
    vault: &Vault,
    memory: &str,
    data: bool,
    progress: Progress<'_>,
    gone: &AtomicBool,
) -> Result<Value, Said> {
    let (mut devices, mut report) = (Vec::new(), Report::default());
    for info in vault.devices() {
        let stored = map(vault, &info.name, info.size, &mut report)?;
        devices.push((info, stored));
    }
    if data {
        report = vault.check_while(&mut |done, total| {
            progress(done, total);
            !gone.load(Ordering::Relaxed)
        })?;
    }
    let here =
        |name: &str| report.lost.iter().filter(|loss| loss.generation.is_none() && loss.device == name).collect();
    let devices: Vec<_> = devices
        .iter()
        .map(|(info, stored)| json!({"name": info.name, "size": info.size, "stored": stored, "lost": losses(here(&info.name))}))
        .collect();
    let mut generations: Vec<_> =
        report.generations.iter().map(|(number, why)| json!({"generation": number, "why": why})).collect();
    generations.extend(report.lost.iter().filter_map(|loss| {
        let number = loss.generation?;
        Some(json!({"generation": number, "device": loss.device, "offset": loss.offset, "length": loss.length,
            "why": loss.damage.to_string()}))
    }));
    generations.truncate(NAMED);
    Ok(json!({"devices": devices, "generations": generations, "memory": stream(vault, memory, data, &report),
        "notes": report.notes, "verified": report.verified}))
}

/// Read a device's map; what of it is damaged goes to the report. Answers the bytes that were written.
fn map(vault: &Vault, name: &str, size: u64, report: &mut Report) -> Result<u64, Said> {
    let device = vault.device(name)?;
    let (mut stored, mut at) = (0, 0);
    while at < size {
        let end = (at + WINDOW).min(size);
        match device.status(at, end - at, usize::MAX) {
            Ok(ranges) => {
                stored +=
                    ranges.iter().filter(|range| range.kind == RangeKind::Data).map(|range| range.length).sum::<u64>();
                at = end;
            }
            // The rest of the window is looked at from behind the damage.
            Err(Error::Damaged(damage)) => at = lose(report, name, *damage, at, end),
            Err(other) => return Err(other.into()),
        }
    }
    Ok(stored)
}

fn lose(report: &mut Report, name: &str, damage: Damage, at: u64, end: u64) -> u64 {
    let from = damage.offset.clamp(at, end - 1);
    let to = (damage.offset + damage.length).clamp(from + 1, end);
    report.lost.push(Loss { generation: None, device: name.to_owned(), offset: from, length: to - from, damage });
    to
}

/// What is lost of a device's present state.
pub fn losses_of(report: &Report, name: &str) -> Value {
    losses(report.lost.iter().filter(|loss| loss.generation.is_none() && loss.device == name).collect())
}

fn losses(lost: Vec<&Loss>) -> Value {
    let bytes: u64 = lost.iter().map(|loss| loss.length).sum();
    let ranges: Vec<_> = lost
        .iter()
        .take(NAMED)
        .map(|loss| json!({"offset": loss.offset, "length": loss.length, "why": loss.damage.to_string()}))
        .collect();
    json!({"bytes": bytes, "ranges": ranges})
}

/// `none`, `stored` (not read), `outdated`, `whole`, or what is wrong with it.
fn stream(vault: &Vault, name: &str, data: bool, report: &Report) -> Value {
    match vault.streams().into_iter().find(|info| info.name == name) {
        None => json!("none"),
        Some(info) if !info.current => json!("outdated"),
        Some(_) if !data => json!("stored"),
        Some(_) => match report.streams.iter().find(|(other, _)| other == name) {
            Some((_, why)) => json!(why),
            None => json!("whole"),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use twofold_vault::{BLOCK, DeviceSpec, Keyring, MemoryAnchor, Options, memory::Memory};

    use super::*;

    #[test]
    fn it_stops_once_nobody_is_there_to_hear_of_it() {
        let (store, ring) = (Arc::new(Memory::new()), Keyring::new(1, [1; 32]));
        let device = DeviceSpec { name: "disk".into(), size: 8 << 20 };
        Vault::create(store.clone(), ring.clone(), &[device]).unwrap();
        let options = Options { background: false, reserve: 0, ..Options::default() };
        let vault = Vault::open(store, ring, Arc::new(MemoryAnchor::default()), options).unwrap();
        vault.device("disk").unwrap().write(0, &vec![7; 2000 * BLOCK]).unwrap();
        let gone = AtomicBool::new(false);
        let mut heard = 0;
        assert!(check(&vault, "memory", true, &mut |_, _| heard += 1, &gone).is_ok());
        assert!(heard > 2);
        heard = 0;
        let hang_up = &mut |_, _| {
            heard += 1;
            gone.store(true, Ordering::Relaxed);
        };
        assert!(check(&vault, "memory", true, hang_up, &gone).is_err());
        assert_eq!(heard, 1);
    }
}
