//! The handshake: fixed newstyle option haggling until the client has chosen an export or gone.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::MAX_PAYLOAD;
use crate::export::Export;
use crate::request::Terms;
use crate::wire::{self, Fields, answer, info, option, transmission};

/// The longest name of an export or metadata context, as the specification has it.
pub const MAX_NAME: usize = 4096;
/// Above this an option is taken for an attack and the connection ends; below it, it is skipped if unknown.
const MAX_OPTION: usize = 64 << 10;
/// A client that haggles longer than this isn't one.
const MAX_OPTIONS: usize = 256;
/// Contexts in use at once, and generations offered in a list.
const MAX_CONTEXTS: usize = 16;
const MAX_LISTED: usize = 256;
/// What `status` shows of each part of the disk; and the prefix of ours, followed by a generation's decimal number.
pub const ALLOCATION: &str = "base:allocation";
const NAMESPACE: &str = "twofold:";
pub const CHANGED_SINCE: &str = "twofold:changed-since:";

/// Finds exports by name; the empty name asks for the default one.
pub trait Catalogue {
    fn names(&self) -> Vec<String>;
    fn find(&self, name: &str) -> Option<Arc<dyn Export>>;
}

/// What a metadata context tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    Allocation,
    ChangedSince(u64),
}

impl Context {
    fn name(self) -> String {
        match self {
            Self::Allocation => ALLOCATION.to_owned(),
            Self::ChangedSince(generation) => format!("{CHANGED_SINCE}{generation}"),
        }
    }
}

/// What the client chose; a context's id is its place in the list, from 1.
pub struct Chosen {
    pub export: Arc<dyn Export>,
    pub terms: Terms,
    pub contexts: Vec<Context>,
}

struct Haggle<'a> {
    stream: &'a UnixStream,
    catalogue: &'a dyn Catalogue,
    structured: bool,
    no_zeroes: bool,
    /// The contexts chosen, and for which export.
    contexts: (String, Vec<Context>),
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Haggles until the client has chosen (`Some`) or left in good order (`None`).
pub fn handshake(stream: &UnixStream, catalogue: &dyn Catalogue) -> io::Result<Option<Chosen>> {
    let mut greeting = [0; 18];
    greeting[..8].copy_from_slice(&wire::GREETING.to_be_bytes());
    greeting[8..16].copy_from_slice(&wire::OPTION.to_be_bytes());
    greeting[16..].copy_from_slice(&(wire::FIXED_NEWSTYLE | wire::NO_ZEROES).to_be_bytes());
    let mut writer = stream;
    writer.write_all(&greeting)?;
    let mut untrusted_flags = [0; 4];
    match read(stream, &mut untrusted_flags) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None), // only looked whether we are there
        other => other?,
    }
    let untrusted_flags = u32::from_be_bytes(untrusted_flags);
    if untrusted_flags & !u32::from(wire::FIXED_NEWSTYLE | wire::NO_ZEROES) != 0 {
        return Err(broken("the client asks for a handshake that was not offered"));
    }
    let no_zeroes = untrusted_flags & u32::from(wire::NO_ZEROES) != 0;
    Haggle { stream, catalogue, structured: false, no_zeroes, contexts: (String::new(), Vec::new()) }.run()
}

fn read(mut stream: &UnixStream, buffer: &mut [u8]) -> io::Result<()> {
    stream.read_exact(buffer)
}

impl Haggle<'_> {
    fn run(mut self) -> io::Result<Option<Chosen>> {
        for _ in 0..MAX_OPTIONS {
            let mut untrusted_header = [0; 16];
            match read(self.stream, &mut untrusted_header) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                other => other?,
            }
            let mut fields = Fields(&untrusted_header);
            let (magic, code, length) = (fields.u64(), fields.u32().unwrap_or(0), fields.u32().unwrap_or(u32::MAX));
            if magic != Some(wire::OPTION) {
                return Err(broken("the client sent something that is no option"));
            }
            let length = length as usize;
            if length > MAX_OPTION {
                return Err(broken("the client sent an option beyond all bounds"));
            }
            let mut untrusted_data = vec![0; length];
            read(self.stream, &mut untrusted_data)?;
            match code {
                option::EXPORT_NAME => return self.export_name(&untrusted_data).map(Some),
                option::ABORT => {
                    // The client may be gone already; that is no error.
                    let _ = self.answer(code, answer::ACK, &[]);
                    return Ok(None);
                }
                option::LIST => self.list(&untrusted_data)?,
                option::INFO => drop(self.info(code, &untrusted_data)?),
                option::GO => {
                    if let Some(chosen) = self.info(code, &untrusted_data)? {
                        return Ok(Some(chosen));
                    }
                }
                option::STRUCTURED_REPLY if untrusted_data.is_empty() => {
                    self.structured = true;
                    self.answer(code, answer::ACK, &[])?;
                }
                option::STRUCTURED_REPLY => self.answer(code, answer::INVALID, b"structured replies take no data")?,
                option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_context(code, &untrusted_data)?,
                _ => self.answer(code, answer::UNSUPPORTED, b"no such option here")?,
            }
        }
        Err(broken("the client haggles without end"))
    }

    fn answer(&self, code: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(20 + data.len());
        message.extend_from_slice(&wire::OPTION_REPLY.to_be_bytes());
        message.extend_from_slice(&code.to_be_bytes());
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
        message.extend_from_slice(data);
        let mut stream = self.stream;
        stream.write_all(&message)
    }

    fn terms(&self, export: &dyn Export) -> Terms {
        let minimum = export.minimum_block();
        Terms {
            size: export.size(),
            read_only: export.read_only(),
            minimum_block: if minimum.is_power_of_two() { minimum.min(4096) } else { 512 },
            structured: self.structured,
            fast_zero: export.fast_zero(),
            status: !self.contexts.1.is_empty(),
        }
    }

    fn flags(&self, terms: &Terms, export: &dyn Export) -> u16 {
        let mut flags = transmission::HAS_FLAGS | transmission::FLUSH | transmission::FUA | transmission::CACHE;
        flags |= if terms.read_only {
            transmission::READ_ONLY
        } else {
            transmission::TRIM | transmission::WRITE_ZEROES | transmission::FAST_ZERO
        };
        if terms.structured {
            flags |= transmission::DF;
        }
        if export.multi_conn() {
            flags |= transmission::MULTI_CONN;
        }
        flags
    }

    /// The old way to choose: it knows no error but hanging up.
    fn export_name(&mut self, untrusted_name: &[u8]) -> io::Result<Chosen> {
        let export = std::str::from_utf8(untrusted_name)
            .ok()
            .filter(|name| name.len() <= MAX_NAME)
            .and_then(|name| self.catalogue.find(name).inspect(|_| self.keep_contexts_of(name)))
            .ok_or_else(|| broken("the client asks for an export that isn't there"))?;
        let terms = self.terms(&*export);
        let mut message = [0; 134];
        message[..8].copy_from_slice(&terms.size.to_be_bytes());
        message[8..10].copy_from_slice(&self.flags(&terms, &*export).to_be_bytes());
        let mut stream = self.stream;
        stream.write_all(if self.no_zeroes { &message[..10] } else { &message })?;
        Ok(Chosen { export, terms, contexts: std::mem::take(&mut self.contexts.1) })
    }

    /// Contexts chosen for one export mean nothing for another.
    fn keep_contexts_of(&mut self, name: &str) {
        if self.contexts.0 != name {
            self.contexts.1.clear();
        }
    }

    fn list(&self, untrusted_data: &[u8]) -> io::Result<()> {
        if !untrusted_data.is_empty() {
            return self.answer(option::LIST, answer::INVALID, b"a list takes no data");
        }
        for name in self.catalogue.names() {
            let mut data = u32::try_from(name.len()).unwrap_or(0).to_be_bytes().to_vec();
            data.extend_from_slice(name.as_bytes());
            if let Some(export) = self.catalogue.find(&name) {
                data.extend_from_slice(export.description().as_bytes());
            }
            self.answer(option::LIST, answer::SERVER, &data)?;
        }
        self.answer(option::LIST, answer::ACK, &[])
    }

    fn info(&mut self, code: u32, untrusted_data: &[u8]) -> io::Result<Option<Chosen>> {
        let mut fields = Fields(untrusted_data);
        let name = fields.string();
        let wishes = fields.u16();
        let (Some(name), Some(wishes)) = (name, wishes) else {
            return self.answer(code, answer::INVALID, b"a name and a list of wishes").map(|()| None);
        };
        if fields.0.len() != 2 * usize::from(wishes) {
            return self.answer(code, answer::INVALID, b"a name and a list of wishes").map(|()| None);
        }
        let mut wants = [false; 4];
        while let Some(wish) = fields.u16() {
            if let Some(want) = wants.get_mut(usize::from(wish)) {
                *want = true;
            }
        }
        let Some(export) = self.catalogue.find(name) else {
            return self.answer(code, answer::UNKNOWN, b"no such export").map(|()| None);
        };
        if code == option::GO {
            self.keep_contexts_of(name);
        }
        let terms = self.terms(&*export);
        let mut data = info::EXPORT.to_be_bytes().to_vec();
        data.extend_from_slice(&terms.size.to_be_bytes());
        data.extend_from_slice(&self.flags(&terms, &*export).to_be_bytes());
        self.answer(code, answer::INFO, &data)?;
        if wants[usize::from(info::NAME)] {
            self.answer(code, answer::INFO, &[&info::NAME.to_be_bytes(), name.as_bytes()].concat())?;
        }
        let description = export.description();
        if wants[usize::from(info::DESCRIPTION)] && !description.is_empty() {
            self.answer(code, answer::INFO, &[&info::DESCRIPTION.to_be_bytes(), description.as_bytes()].concat())?;
        }
        let mut data = info::BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [terms.minimum_block, 4096, u32::try_from(MAX_PAYLOAD).unwrap_or(u32::MAX)] {
            data.extend_from_slice(&size.to_be_bytes());
        }
        self.answer(code, answer::INFO, &data)?;
        self.answer(code, answer::ACK, &[])?;
        Ok((code == option::GO).then(|| Chosen { export, terms, contexts: std::mem::take(&mut self.contexts.1) }))
    }

    fn meta_context(&mut self, code: u32, untrusted_data: &[u8]) -> io::Result<()> {
        if !self.structured {
            return self.answer(code, answer::INVALID, b"only with structured replies");
        }
        let mut fields = Fields(untrusted_data);
        let (Some(name), Some(count)) = (fields.string(), fields.u32()) else {
            return self.answer(code, answer::INVALID, b"a name and a list of queries");
        };
        let queries: Option<Vec<&str>> = (0..count).map(|_| fields.string()).collect();
        let Some(queries) = queries.filter(|_| fields.0.is_empty()) else {
            return self.answer(code, answer::INVALID, b"a name and a list of queries");
        };
        let Some(export) = self.catalogue.find(name) else {
            return self.answer(code, answer::UNKNOWN, b"no such export");
        };
        let generations = export.generations();
        let set = code == option::SET_META_CONTEXT;
        let mut contexts = Vec::new();
        if !set && queries.is_empty() {
            matching("base:", false, &generations, &mut contexts);
            matching(NAMESPACE, false, &generations, &mut contexts);
        }
        for query in queries {
            matching(query, set, &generations, &mut contexts);
        }
        if set && contexts.len() > MAX_CONTEXTS {
            return self.answer(code, answer::TOO_BIG, b"fewer contexts at once, please");
        }
        for (place, context) in contexts.iter().enumerate() {
            let id = if set { u32::try_from(place + 1).unwrap_or(0) } else { 0 };
            self.answer(code, answer::META_CONTEXT, &[&id.to_be_bytes(), context.name().as_bytes()].concat())?;
        }
        if set {
            self.contexts = (name.to_owned(), contexts);
        }
        self.answer(code, answer::ACK, &[])
    }
}

/// Adds the contexts that a query names: `exact` ones alone to be used, whole name spaces too to be listed.
fn matching(query: &str, exact: bool, generations: &[u64], contexts: &mut Vec<Context>) {
    let mut add = |context| {
        if !contexts.contains(&context) && contexts.len() <= MAX_LISTED {
            contexts.push(context);
        }
    };
    if query == ALLOCATION || (!exact && query == "base:") {
        add(Context::Allocation);
    } else if !exact && (query == NAMESPACE || query == CHANGED_SINCE) {
        generations.iter().for_each(|generation| add(Context::ChangedSince(*generation)));
    } else if let Some(Ok(generation)) = query.strip_prefix(CHANGED_SINCE).map(str::parse) {
        if generations.contains(&generation) {
            add(Context::ChangedSince(generation));
        }
    }
}
