//! Generations that go elsewhere and come from there (`docs/protocol.md`, chapters 4 and 5): what is to be copied, who may
//! open it there, and beginning from it here.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use serde::Deserialize;
use serde_json::{Value, json};
use twofold_vault::{Error, Export, Features, FileAnchor, Generation, Manifest, Options, Store, Vault};

use crate::device;
use crate::far::{Far, away};
use crate::hex;
use crate::keys::Document;
use crate::memory::{Progress, holding};
use crate::opened::{MEMORY, Opened, Place, RESERVE, format, keyring, path};
use crate::part::whole;
use crate::said::{Code, Said};
use crate::service::{Answer, Service};
use crate::verbs::{exactly, none, parse, place};

/// Bytes of a manifest.
const LARGEST: usize = 64 << 20;
/// Exports that one conversation may have under way.
const MOST: usize = 4;
/// Read in one step.
const STEP: usize = 1 << 20;

/// What one conversation has: its rights, and the generations that are being copied, which end with it.
pub struct Talk {
    /// Whether it is the one that started this process.
    pub starter: bool,
    /// It has hung up: long work that is for it alone may stop.
    pub gone: Arc<AtomicBool>,
    exports: BTreeMap<u64, Export>,
    count: u64,
}

impl Talk {
    /// Nothing is being copied yet.
    pub fn new(starter: bool) -> Self {
        Self { starter, gone: Arc::default(), exports: BTreeMap::new(), count: 0 }
    }

    fn export(&self, number: u64) -> Result<&Export, Said> {
        self.exports.get(&number).ok_or_else(|| Said::new(Code::NotFound, "No such export is under way here."))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Beginning {
    /// None: commit one now.
    #[serde(default)]
    generation: Option<u64>,
    #[serde(default)]
    note: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Copied {
    export: u64,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ending {
    export: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Length {
    length: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rewrapping {
    workspace: String,
    keys: String,
    /// Whether the company's policy lets keys leave.
    allowed: bool,
    #[serde(rename = "for")]
    public: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Importing {
    workspace: String,
    keys: String,
    /// The files stay where they are for now; a stream that they can be asked for on comes last.
    #[serde(default)]
    far: bool,
}

/// A row of a manifest, as it came.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    length: u64,
    digest: String,
}

/// What of a manifest the vault itself needs, as it came.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    vault: String,
    made: u64,
    generation: u64,
    epoch: u32,
    root: String,
    pieces: u32,
    files: Vec<Row>,
}

/// Pin a generation's files and say what they are. With a descriptor: of an earlier manifest's `files`, whose digests need not
/// be computed again.
pub fn begin(
    vault: &Opened,
    talk: &mut Talk,
    args: Value,
    fds: Vec<OwnedFd>,
    progress: Progress<'_>,
) -> Result<Answer, Said> {
    let Beginning { generation, note } = parse(args)?;
    if talk.exports.len() >= MOST {
        return Err(Said::new(Code::Conflict, "Too many exports are under way here."));
    }
    let mut known = HashMap::new();
    if !fds.is_empty() {
        let [earlier] = exactly(fds)?;
        for Row { name, length, digest } in rows(&whole(earlier, LARGEST)?)? {
            known.insert((name, length), digest32(&digest)?);
        }
    }
    let (export, about) = export(vault.vault(), generation, &note, &known, progress)?;
    let made = export.manifest();
    let mut body = json!({
        "export": talk.count, "vault": hex::encode(&made.vault), "made": made.made, "generation": made.generation,
        "time": about.time, "note": about.note, "epoch": made.epoch, "root": format!("{:016x}", made.root),
        "pieces": made.pieces,
    });
    let files: Vec<_> = made
        .files
        .iter()
        .map(|file| json!({"name": file.name, "length": file.length, "digest": hex::encode(&file.digest)}))
        .collect();
    body["length"] = json!(made.files.iter().map(|file| file.length).sum::<u64>());
    let files = holding("twofold-manifest", Value::from(files).to_string().as_bytes())?;
    talk.exports.insert(talk.count, export);
    talk.count += 1;
    Ok(Answer::with(body, vec![files]))
}

/// One of the pinned files, to read any range of.
pub fn file(vault: &Opened, talk: &Talk, args: Value) -> Result<Answer, Said> {
    let Copied { export, name } = parse(args)?;
    let files = &talk.export(export)?.manifest().files;
    let Some(file) = files.iter().find(|file| file.name == name) else {
        return Err(Said::new(Code::NotFound, "The generation has no such file."));
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let opened = openat(vault.folder(), &file.name, flags, Mode::empty()).map_err(|why| match vault.far() {
        Some(_) if why == Errno::NOENT => away("it is still with the server"),
        _ => why.into(),
    })?;
    Ok(Answer::with(json!({"length": file.length}), vec![opened]))
}

/// The cleaner may have the files again.
pub fn end(talk: &mut Talk, args: Value) -> Result<Answer, Said> {
    let Ending { export } = parse(args)?;
    talk.export(export)?;
    talk.exports.remove(&export);
    Ok(Answer::body(json!({})))
}

/// The BLAKE3 of a file's first bytes: for who copies, and has no such library.
pub fn digest(args: Value, fds: Vec<OwnedFd>) -> Result<Answer, Said> {
    let Length { length } = parse(args)?;
    let [file] = exactly(fds)?;
    let (mut from, mut hasher) = (File::from(file).take(length), blake3::Hasher::new());
    let (mut buffer, mut done) = (vec![0; STEP], 0);
    loop {
        match from.read(&mut buffer)? {
            0 => break,
            some => {
                hasher.update(&buffer[..some]);
                done += some as u64;
            }
        }
    }
    if done < length {
        return Err(Said::new(Code::Damaged, "The file is shorter than it should be."));
    }
    Ok(Answer::body(json!({"digest": hasher.finalize().to_hex().as_str()})))
}

/// The keys, wrapped for another device's public key and for it alone.
///
/// # Errors
/// `Refused`: the policy does not give the right to it.
pub fn rewrap(args: Value, fds: Vec<OwnedFd>) -> Result<Answer, Said> {
    let Rewrapping { workspace, keys, allowed, public } = parse(args)?;
    let [key_file] = exactly(fds)?;
    if !allowed {
        return Err(Said::new(Code::Refused, "The company does not allow this workspace's keys to leave this device.")
            .safe("No key was given out.")
            .next("Ask your administrator for a policy with keys_leave."));
    }
    let device = device::read(File::from(key_file))?;
    let (document, ring) = Document::open(keys.as_bytes(), &workspace, &device)?;
    let document = document.rewrap(&ring, &digest32(&public)?)?;
    Ok(Answer::body(json!({"keys": document.to_text()?})))
}

/// Make a vault of the files in a folder and the manifest that names them, and begin the keys' newest epoch in it. The caller
/// has checked whose the manifest is.
pub fn import(service: &Service, args: Value, mut fds: Vec<OwnedFd>, progress: Progress<'_>) -> Result<Answer, Said> {
    let Importing { workspace, keys, far } = parse(args)?;
    let stream = if far { fds.pop() } else { None };
    let record = if fds.len() == 4 { fds.pop() } else { None };
    let Some(record) = record else { return Err(Said::new(Code::Usage, "The verb takes 4 or 5 descriptors.")) };
    let record = whole(record, LARGEST)?;
    let manifest = manifest(&record)?;
    let mut place = place(workspace, &keys, exactly(fds)?)?;
    if place.ring.current() <= manifest.epoch {
        return Err(Said::new(Code::Usage, "A generation goes on elsewhere under a new epoch alone."));
    }
    service.free()?;
    if let Some(stream) = stream {
        Far::note(&place.folder, &record)?;
        place.far = Far::of(&place.folder)?;
        if let Some(far) = &place.far {
            far.feed.connect(stream)?;
        }
    }
    bring(&place, &manifest, progress).map(Answer::body)
}

/// A generation, or one made now, with its files pinned.
fn export(
    vault: &Vault,
    generation: Option<u64>,
    note: &str,
    known: &HashMap<(String, u64), [u8; 32]>,
    progress: Progress<'_>,
) -> Result<(Export, Generation), Said> {
    // Between the commit and the export the cleaner must not rewrite its files.
    let _hold = vault.hold();
    let about = match generation {
        None => vault.commit(note)?,
        Some(number) => {
            let found = vault.generations().into_iter().find(|one| one.number == number);
            found.ok_or_else(|| Said::new(Code::NotFound, format!("The vault has no generation {number}.")))?
        }
    };
    let known = |name: &str, length: u64| known.get(&(name.to_owned(), length)).copied();
    match vault.export(about.number, known, progress) {
        Ok(export) => Ok((export, about)),
        Err(Error::Invalid(_)) => Err(Said::new(
            Code::Conflict,
            format!("Generation {} was compacted since, and can't be copied by itself any more.", about.number),
        )
        .safe("It is whole, and can still be rolled back to.")
        .next("Copy the newest state instead: it has all older generations in it.")),
        Err(other) => Err(other.into()),
    }
}

/// Files in a folder become a vault, which goes on under the newest epoch from its first byte on. Suspended memory is forgotten:
/// whether it was lived elsewhere can't be told.
fn bring(place: &Place, manifest: &Manifest, progress: Progress<'_>) -> Result<Value, Said> {
    let store = place.store();
    if place.far.is_none() {
        verify(&store, manifest, progress)?;
    }
    Vault::import(&store, &keyring(&place.ring)?, manifest)?;
    let anchor = Arc::new(FileAnchor::new(format!("{}/{}", path(&place.anchors), place.workspace)));
    let options = Options { replace_anchor: true, background: false, reserve: RESERVE, ..Options::default() };
    let vault = Vault::open(store, keyring(&place.ring)?, anchor, options)?;
    let memory = vault.streams().iter().any(|info| info.name == MEMORY);
    if memory {
        vault.consume(MEMORY)?;
    }
    vault.set_keyring(keyring(&place.ring)?)?;
    let body = json!({"generation": manifest.generation, "epoch": place.ring.current(), "head": vault.head(), "memory": memory});
    vault.close()?;
    Ok(body)
}

fn rows(untrusted_rows: &[u8]) -> Result<Vec<Row>, Said> {
    serde_json::from_slice(untrusted_rows).map_err(|_| Said::bad("This is no list of a generation's files."))
}

/// A record of a generation, as `import` takes it.
pub fn manifest(untrusted_record: &[u8]) -> Result<Manifest, Said> {
    let off = || Said::bad("This is no record of a generation.");
    let record: Record = serde_json::from_slice(untrusted_record).map_err(|_| off())?;
    let mut files = Vec::new();
    for Row { name, length, digest } in record.files {
        let digits = name.strip_prefix("s-").or_else(|| name.strip_prefix("p-")).filter(|digits| digits.len() == 16);
        if !digits.is_some_and(|digits| digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))) {
            return Err(off());
        }
        files.push(twofold_vault::File { name, length, digest: digest32(&digest)? });
    }
    let mut vault = [0; 16];
    hex::decode_into(&record.vault, &mut vault)?;
    let mut root = [0; 8];
    hex::decode_into(&record.root, &mut root)?;
    let (root, made, generation) = (u64::from_be_bytes(root), record.made, record.generation);
    Ok(Manifest { vault, made, generation, epoch: record.epoch, root, pieces: record.pieces, files })
}

fn digest32(untrusted_hex: &str) -> Result<[u8; 32], Said> {
    let mut out = [0; 32];
    hex::decode_into(untrusted_hex, &mut out)?;
    Ok(out)
}

/// Verify every file of a manifest.
fn verify(store: &Arc<dyn Store>, manifest: &Manifest, progress: Progress<'_>) -> Result<(), Said> {
    let total = manifest.files.iter().map(|file| file.length).sum();
    let mut done = 0;
    for file in &manifest.files {
        twofold_vault::verify(&**store, file).map_err(|why| match why {
            Error::Damaged(_) => Said::new(
                Code::Damaged,
                format!(
                    "{} is not the file that the generation's record names; it is another one, or damaged.",
                    file.name
                ),
            )
            .safe("Nothing of it was used.")
            .next("Copy the folder again from where it came, or export anew."),
            other => other.into(),
        })?;
        done += file.length;
        progress(done, total);
    }
    Ok(())
}

/// Give the vault the newest form that this version knows, in place.
pub fn upgrade(vault: &Opened, args: Value) -> Result<Answer, Said> {
    none(args)?;
    let upgraded = vault.vault().upgrade(&Features::KNOWN)?;
    Ok(Answer::body(json!({"upgraded": upgraded, "format": format(&vault.vault().info())})))
}
