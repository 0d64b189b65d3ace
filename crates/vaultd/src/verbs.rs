//! The verbs of the control protocol (`docs/protocol.md`, chapter 4): validate, then act.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::args::{
    Absent, Changed, Check, Creating, Device, Generation, Ids, Note, Nothing, Opening, Part, Renewing, Resizing,
    Sealing, Touched, WithCode, Workspace, Wrapped,
};
use crate::device;
use crate::epoch;
use crate::far::{self, Far};
use crate::feed;
use crate::hex;
use crate::hpke;
use crate::image::{Image, ImageArgs};
use crate::keys::Document;
use crate::lease::Shown;
use crate::memory::{Progress, holding};
use crate::mending;
use crate::moving::{self, Talk};
use crate::opened::{Opened, Place};
use crate::part;
use crate::said::{Code, Said};
use crate::secret;
use crate::service::{Answer, Service};
use crate::unlock;
use crate::wire::Request;

/// Carry out a request.
pub fn call(
    service: &Arc<Service>,
    request: Request,
    fds: Vec<OwnedFd>,
    talk: &mut Talk,
    progress: Progress<'_>,
) -> Result<Answer, Said> {
    let Request { verb, args, .. } = request;
    feed::be_patient();
    match verb.as_str() {
        "hello" => {
            none(args)?;
            Ok(Answer::body(json!({"vaultd": env!("CARGO_PKG_VERSION"), "api": 1})))
        }
        "device_key" | "make_keys" | "lock_keys" | "unlock_keys" | "next_epoch" | "rewrap" | "create" | "import"
        | "survey" | "repair" | "open" | "bring"
            if !talk.starter =>
        {
            Err(Said::new(Code::Refused, "Only who started this process may do that."))
        }
        "device_key" => device_key(args, fds),
        "make_keys" => make_keys(args, fds),
        "lock_keys" => lock_keys(args, fds),
        "unlock_keys" => unlock_keys(args, fds),
        "next_epoch" => next_epoch(args, fds),
        "rewrap" => moving::rewrap(args, fds),
        "create" => create(service, args, fds),
        "import" => moving::import(service, args, fds, progress),
        "survey" => mending::survey(service, args, fds, progress),
        "repair" => mending::repair(service, args, fds, progress),
        "open" => open(service, args, fds),
        "digest" => moving::digest(args, fds),
        "bring" => far::bring(args, fds, progress),
        "fill" => {
            none(args)?;
            let opened = service.opened()?;
            far::step(opened.far(), Some(opened.vault()), progress).map(Answer::body)
        }
        "feed" => {
            none(args)?;
            let [stream] = exactly(fds)?;
            if let Some(far) = service.opened()?.far() {
                far.feed.connect(stream)?;
            }
            Ok(Answer::body(json!({})))
        }
        "status" => status(service, args),
        "lease" => {
            let shown: Shown = parse(args)?;
            service.hold(&shown, service.opened()?.workspace())?;
            Ok(Answer::body(json!({})))
        }
        "stop" => {
            none(args)?;
            let why = Said::new(Code::Conflict, "The vault has been closed.");
            service.close(why)?;
            Ok(Answer { body: json!({}), fds: Vec::new(), last: true })
        }
        "begin_export" => moving::begin(&*service.opened()?, talk, args, fds, progress),
        "export_file" => moving::file(&*service.opened()?, talk, args),
        "end_export" => moving::end(talk, args),
        "check" => {
            let Check { data } = parse(args)?;
            service.opened()?.check(data, progress, &talk.gone).map(Answer::body)
        }
        _ => opened(&*service.opened()?, &verb, args, fds, progress),
    }
}

fn opened(vault: &Opened, verb: &str, args: Value, fds: Vec<OwnedFd>, progress: Progress<'_>) -> Result<Answer, Said> {
    match verb {
        "connect" => {
            let Device { device } = parse(args)?;
            Ok(Answer::with(json!({}), vec![vault.connect(&device)?.into()]))
        }
        "freeze" => {
            let Device { device } = parse(args)?;
            vault.freeze(&device).map(|()| Answer::body(json!({})))
        }
        "resize" => {
            let Resizing { device, size, shrink } = parse(args)?;
            vault.resize(&device, size, shrink).map(|()| Answer::body(json!({})))
        }
        "renew" => {
            let Renewing { device, size, read_only } = parse(args)?;
            vault.renew(&device, size, read_only).map(|()| Answer::body(json!({})))
        }
        "flush" => none(args).and_then(|()| vault.flush()).map(|()| Answer::body(json!({}))),
        "clean" | "sweep" => none(args).and_then(|()| vault.clean(verb == "clean")).map(Answer::body),
        "head" => none(args).and_then(|()| vault.head()).map(|head| Answer::body(json!({"head": head}))),
        "commit" => {
            let Note { note } = parse(args)?;
            vault.commit(&note).map(Answer::body)
        }
        "generations" => none(args).map(|()| Answer::body(vault.generations())),
        "forget" | "revert" => {
            let Generation { generation } = parse(args)?;
            let done = if verb == "revert" { vault.revert(generation) } else { vault.forget(generation) };
            done.map(|()| Answer::body(json!({})))
        }
        "changed" => {
            let Changed { device, since, offset } = parse(args)?;
            vault.changed(&device, since, offset).map(Answer::body)
        }
        "upgrade" => moving::upgrade(vault, args),
        "seal_memory" => {
            let Sealing { identity } = parse(args)?;
            let [memory] = exactly(fds)?;
            let bytes = vault.seal_memory(&identity, memory.as_fd(), progress)?;
            Ok(Answer::body(json!({"bytes": bytes})))
        }
        "memory_identity" => {
            none(args)?;
            Ok(Answer::body(json!({"identity": vault.memory_identity()?})))
        }
        "open_memory" => {
            none(args)?;
            let [memory] = exactly(fds)?;
            vault.open_memory(memory.as_fd(), progress).map(|()| Answer::body(json!({})))
        }
        "consume_memory" => none(args).and_then(|()| vault.consume_memory()).map(|()| Answer::body(json!({}))),
        "arrived" => {
            let Ids { ids } = parse(args)?;
            vault.image()?.wants.arrived(&Image::ids(&ids)?);
            Ok(Answer::body(json!({})))
        }
        "absent" => {
            let Absent { ids, why } = parse(args)?;
            vault.image()?.wants.absent(&Image::ids(&ids)?, &why);
            Ok(Answer::body(json!({})))
        }
        "touched" => {
            let Touched { from } = parse(args)?;
            Ok(Answer::body(vault.image()?.touched(from)))
        }
        "begin_epoch" => epoch::begin(vault, args, fds),
        "seal_part" => seal_part(vault, args, fds),
        "open_part" => open_part(vault, args, fds),
        _ => Err(Said::new(Code::Usage, "There is no such verb.")),
    }
}

/// Make or read the device's wrapping key in the folder that came as a descriptor; its public half.
fn device_key(args: Value, fds: Vec<OwnedFd>) -> Result<Answer, Said> {
    none(args)?;
    let [folder] = exactly(fds)?;
    let key = device::read_or_make(folder.as_fd())?;
    Ok(Answer::body(json!({"public": hex::encode(&hpke::public(&key))})))
}

/// A fresh key for a new workspace, wrapped for this device.
fn make_keys(args: Value, fds: Vec<OwnedFd>) -> Result<Answer, Said> {
    let Workspace { workspace } = parse(args)?;
    let [key_file] = exactly(fds)?;
    let device = device::read(File::from(key_file))?;
    let (document, _) = Document::make(&workspace, &device)?;
    Ok(Answer::body(json!({"keys": document.to_text()?})))
}

/// The keys, sealed under a person's unlock code too; only what this device can open is.
fn lock_keys(args: Value, fds: Vec<OwnedFd>) -> Result<Answer, Said> {
    let WithCode { workspace, keys, code } = parse(args)?;
    let code = Zeroizing::new(code);
    let [key_file] = exactly(fds)?;
    Document::open(keys.as_bytes(), &workspace, &device::read(File::from(key_file))?)?;
    Ok(Answer::body(json!({"keys": unlock::lock(&keys, &workspace, &code)?})))
}

fn unlock_keys(args: Value, fds: Vec<OwnedFd>) -> Result<Answer, Said> {
    let WithCode { workspace, keys, code } = parse(args)?;
    let code = Zeroizing::new(code);
    let [key_file] = exactly(fds)?;
    let opened = unlock::unlock(&keys, &workspace, &code)?;
    Document::open(opened.as_bytes(), &workspace, &device::read(File::from(key_file))?)?;
    Ok(Answer::body(json!({"keys": opened})))
}

/// The keys with a fresh epoch: what is written from the next opening on, an older key does not open.
fn next_epoch(args: Value, fds: Vec<OwnedFd>) -> Result<Answer, Said> {
    let Wrapped { workspace, keys } = parse(args)?;
    let [key_file] = exactly(fds)?;
    let device = device::read(File::from(key_file))?;
    let (document, ring) = Document::open(keys.as_bytes(), &workspace, &device)?;
    let (document, _) = document.next(ring, &device)?;
    Ok(Answer::body(json!({"keys": document.to_text()?})))
}

fn create(service: &Arc<Service>, args: Value, fds: Vec<OwnedFd>) -> Result<Answer, Said> {
    let Creating { workspace, keys, devices } = parse(args)?;
    let place = place(workspace, &keys, exactly(fds)?)?;
    service.open(|| {
        Opened::create(&place, &devices)?;
        Opened::open(place, false, Arc::downgrade(service))
    })?;
    Ok(Answer::body(json!({})))
}

fn open(service: &Arc<Service>, args: Value, mut fds: Vec<OwnedFd>) -> Result<Answer, Said> {
    let Opening { workspace, keys, lease, accept, image, feed } = parse(args)?;
    let mut rest = if fds.len() > 3 { fds.split_off(3) } else { Vec::new() };
    let mut place = place(workspace, &keys, exactly(fds)?)?;
    let chunks = image.as_ref().map_or(Ok(0), ImageArgs::descriptors)?;
    if rest.len() < chunks {
        return Err(Said::new(Code::Usage, "The image's descriptors are missing."));
    }
    let mut listeners = rest.split_off(chunks);
    if feed {
        let missing = || Said::new(Code::Usage, "The stream is missing.");
        let stream = (!listeners.is_empty()).then(|| listeners.remove(0)).ok_or_else(missing)?;
        if let Some(far) = &place.far {
            far.feed.connect(stream)?;
        }
    }
    if let Some(image) = image {
        place.image = Some(Image::open(&image, rest, &place.ring, Arc::downgrade(service))?);
    }
    if let Some(lease) = lease {
        service.hold(&lease, &place.workspace)?;
    }
    let opened = service.open(|| Opened::open(place, accept, Arc::downgrade(service)))?;
    let mut listeners = listeners.into_iter().map(UnixListener::from);
    if let Some(control) = listeners.next() {
        service.listen(control)?;
    }
    if let Some(nbd) = listeners.next() {
        opened.listen(nbd)?;
    }
    Ok(Answer::body(json!({"head": opened.head()?})))
}

/// Validate what every opening hands over, and unwrap the keys.
pub fn place(workspace: String, keys: &str, [folder, anchors, key_file]: [OwnedFd; 3]) -> Result<Place, Said> {
    let device = device::read(File::from(key_file))?;
    let (_, ring) = Document::open(keys.as_bytes(), &workspace, &device)?;
    let far = Far::of(&folder)?;
    Ok(Place { workspace, folder, anchors, ring, image: None, far })
}

fn status(service: &Arc<Service>, args: Value) -> Result<Answer, Said> {
    none(args)?;
    let locked = if service.locked {
        "all"
    } else if secret::all_locked() {
        "keys"
    } else {
        "none"
    };
    let mut body = json!({"locked": locked, "lease_left": service.left().map(|left| left.as_secs())});
    body["vault"] = service.opened()?.status()?;
    Ok(Answer::body(body))
}

/// Seal a plain part (first descriptor) into a file (second), which is durable on return; replacing it whole is the caller's.
fn seal_part(vault: &Opened, args: Value, fds: Vec<OwnedFd>) -> Result<Answer, Said> {
    let Part { name, digest } = parse(args)?;
    let [plain, to] = exactly(fds)?;
    let sealed = part::seal(&vault.keys().now(), &name, &digest, &part::whole(plain, part::LARGEST)?)?;
    let mut to = File::from(to);
    to.write_all(&sealed)?;
    to.sync_data()?;
    Ok(Answer::body(json!({"bytes": sealed.len()})))
}

fn open_part(vault: &Opened, args: Value, fds: Vec<OwnedFd>) -> Result<Answer, Said> {
    let Part { name, digest } = parse(args)?;
    let [sealed] = exactly(fds)?;
    let mut untrusted_sealed = part::whole(sealed, part::LARGEST + part::OVERHEAD)?;
    let plain = part::open(&vault.keys().now(), &name, &digest, &mut untrusted_sealed)?;
    Ok(Answer::with(json!({}), vec![holding("twofold-part", plain)?]))
}

/// A verb without arguments.
pub fn none(args: Value) -> Result<(), Said> {
    parse::<Nothing>(args).map(|_| ())
}

/// The arguments of a verb, of the right shape.
pub fn parse<T: DeserializeOwned>(untrusted_args: Value) -> Result<T, Said> {
    let args = if untrusted_args.is_null() { json!({}) } else { untrusted_args };
    serde_json::from_value(args).map_err(|wrong| Said::new(Code::Usage, format!("The arguments are off: {wrong}.")))
}

/// The descriptors of a verb, as many as it takes.
pub fn exactly<const N: usize>(fds: Vec<OwnedFd>) -> Result<[OwnedFd; N], Said> {
    fds.try_into().map_err(|_| Said::new(Code::Usage, format!("The verb takes {N} descriptors.")))
}
