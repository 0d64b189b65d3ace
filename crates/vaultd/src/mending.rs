//! Repair in two steps: a plan that names all that is lost and what is safe and changes nothing, then exactly that plan
//! (`docs/protocol.md`, chapter 4: `survey`, `repair`).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use twofold_vault::{Anchor, Damage, Error, FileAnchor, Folder, Options, Report, Store, Vault};

use crate::check;
use crate::far;
use crate::memory::Progress;
use crate::opened::{MEMORY, Place, keyring, path};
use crate::said::{Code, Said};
use crate::service::{Answer, Service};
use crate::verbs::{exactly, parse, place};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Surveying {
    workspace: String,
    keys: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Repairing {
    workspace: String,
    keys: String,
    plan: String,
}

/// What was found, and what it was found in.
struct Found {
    plan: Value,
    report: Report,
    age: bool,
    end: bool,
    /// Where the vault stood.
    at: (u64, String),
    readable: bool,
}

/// Say what a repair would give up. Nothing is changed.
pub fn survey(service: &Service, args: Value, fds: Vec<OwnedFd>, progress: Progress<'_>) -> Result<Answer, Said> {
    let Surveying { workspace, keys } = parse(args)?;
    let place = place(workspace, &keys, exactly(fds)?)?;
    service.free()?;
    far::whole(&place.folder)?;
    let found = look(&place, progress)?;
    Ok(Answer::body(json!({"digest": digest(&found.plan), "plan": found.plan})))
}

/// Give up what the plan with this digest names, and nothing else.
///
/// # Errors
/// `Conflict`: something else would be given up than what was shown; nothing was changed.
pub fn repair(service: &Service, args: Value, fds: Vec<OwnedFd>, progress: Progress<'_>) -> Result<Answer, Said> {
    let Repairing { workspace, keys, plan } = parse(args)?;
    let place = place(workspace, &keys, exactly(fds)?)?;
    service.free()?;
    far::whole(&place.folder)?;
    let found = look(&place, progress)?;
    if digest(&found.plan) != plan {
        return Err(Said::new(Code::Conflict, "What is lost is not what you were shown.")
            .safe("Nothing was changed.")
            .next("Look again, and decide anew:  twofold disk repair"));
    }
    if !found.readable {
        return Err(Said::new(Code::Damaged, "The store is too damaged to be repaired.")
            .safe("Nothing was changed; what can be read is named by  twofold disk repair.")
            .next("Restore the vault's folder from a backup, or import an exported generation."));
    }
    let options = Options { give_up_tail: true, replace_anchor: true, background: false, ..Options::default() };
    let vault = Vault::open(store(&place), keyring(&place.ring)?, anchor(&place), options)?;
    if (vault.info().counter, vault.head()) != found.at {
        return Err(Said::new(Code::Conflict, "The store changed while it was looked at.").next("Try again."));
    }
    let mut done = vault.repair(&found.report)?;
    if found.age || found.end {
        // Whether it was lived already can't be told any more.
        vault.consume(MEMORY)?;
    }
    done.streams.retain(|name| name == MEMORY);
    let anchored = vault.info().anchored.map(|anchored| anchored.to_string());
    vault.close()?;
    Ok(Answer::body(json!({
        "plan": found.plan, "zeroed": done.zeroed, "generations": done.generations,
        "memory": !done.streams.is_empty() || found.age || found.end, "anchored": anchored,
    })))
}

fn store(place: &Place) -> Arc<dyn Store> {
    Arc::new(Folder::new(path(&place.folder)))
}

fn anchor(place: &Place) -> Arc<FileAnchor> {
    Arc::new(FileAnchor::new(format!("{}/{}", path(&place.anchors), place.workspace)))
}

fn look(place: &Place, progress: Progress<'_>) -> Result<Found, Said> {
    let readonly = Options { read_only: true, background: false, ..Options::default() };
    let ring = keyring(&place.ring)?;
    let open = |options: Options| Vault::open(store(place), ring.clone(), anchor(place), options);
    // Whether it is as new as it should be, and whether its end is whole.
    let (mut age, mut end) = (None, None::<Damage>);
    match anchor(place).load() {
        Ok(Some(_)) => {}
        Ok(None) => age = Some("nothing says any more how new it must be: its anchor is lost".to_owned()),
        Err(why) => age = Some(format!("its anchor cannot be read ({why})")),
    }
    match open(readonly.clone()) {
        Ok(vault) => vault.close()?,
        Err(why @ (Error::Stale { .. } | Error::ForeignAnchor)) => age = Some(why.to_string()),
        Err(Error::TailDamaged(what) | Error::Damaged(what)) => end = Some(*what),
        Err(Error::Io(..)) if age.is_some() => {}
        Err(other) => return Err(other.into()),
    }
    // As a repair would open it; else as much of it as can be read.
    let given_up = Options { give_up_tail: true, replace_anchor: true, ..readonly.clone() };
    let (vault, readable) = match open(given_up) {
        Ok(vault) => (vault, true),
        Err(Error::Damaged(_)) => (open(Options { salvage: true, replace_anchor: true, ..readonly })?, false),
        Err(other) => return Err(other.into()),
    };
    let report = vault.check(progress)?;
    let (age_there, end_there) = (age.is_some(), end.is_some());
    let plan = describe(place, &vault, &report, age, end, readable);
    let at = (vault.info().counter, vault.head());
    vault.close()?;
    Ok(Found { plan, report, age: age_there, end: end_there, at, readable })
}

fn describe(
    place: &Place,
    vault: &Vault,
    report: &Report,
    age: Option<String>,
    end: Option<Damage>,
    readable: bool,
) -> Value {
    let devices: Vec<_> = vault
        .devices()
        .iter()
        .map(|info| {
            let lost = check::losses_of(report, &info.name);
            json!({"name": info.name, "size": info.size, "read_only": info.read_only, "lost": lost})
        })
        .collect();
    let why = |number: u64| {
        let all = report.generations.iter().find(|(other, _)| *other == number).map(|(_, why)| why.clone());
        let some =
            || report.lost.iter().find(|loss| loss.generation == Some(number)).map(|loss| loss.damage.to_string());
        all.or_else(some)
    };
    let (mut dropped, mut kept) = (Vec::new(), Vec::new());
    for one in vault.generations() {
        let mut row = json!({"generation": one.number, "time": one.time, "note": one.note});
        match why(one.number) {
            Some(why) => {
                row["why"] = json!(why);
                dropped.push(row);
            }
            None => kept.push(row),
        }
    }
    let stored = vault.streams().iter().any(|info| info.name == MEMORY);
    let broken = report.streams.iter().any(|(name, _)| name == MEMORY);
    let memory = match stored {
        false => "none",
        true if broken || age.is_some() || end.is_some() => "lost",
        true => "safe",
    };
    let end = end.map(|what| json!({"why": what.to_string(), "at_most": behind(&*store(place), &what)}));
    json!({
        "age": age, "end": end, "devices": devices, "generations": dropped, "kept": kept, "memory": memory,
        "repairable": readable, "sound": report.is_sound() && age.is_none() && end.is_none() && readable,
    })
}

/// How many bytes at most lie behind damage at the log's end, in the files that follow it.
fn behind(store: &dyn Store, what: &Damage) -> u64 {
    let names = store.list().unwrap_or_default();
    let first = format!("s-{:016x}", what.segment);
    let length = |name: &String| store.open(name).and_then(|file| file.len()).unwrap_or(0);
    let all: u64 = names.iter().filter(|name| name.starts_with("s-") && **name >= first).map(length).sum();
    all.saturating_sub(u64::from(what.slot) * twofold_vault::SLOT as u64) / twofold_vault::SLOT as u64
        * twofold_vault::BLOCK as u64
}

/// Names a plan exactly. Keys of objects are in order, so the text is unique.
fn digest(plan: &Value) -> String {
    blake3::hash(plan.to_string().as_bytes()).to_hex().to_string()
}
