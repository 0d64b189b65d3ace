//! A client that says exactly what a test tells it to, right or wrong.
#![allow(dead_code)] // each user takes what it needs

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use twofold_nbd::{Export, Server};

pub const GO: u32 = 7;
pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISCONNECT: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const CACHE: u16 = 5;
pub const ZERO: u16 = 6;
pub const STATUS: u16 = 7;
pub const FUA: u16 = 1;
pub const NO_HOLE: u16 = 2;
pub const DF: u16 = 4;
pub const REQ_ONE: u16 = 8;
pub const FAST_ZERO: u16 = 16;

pub struct Client {
    pub stream: UnixStream,
    pub server: Arc<Server>,
    serving: Option<JoinHandle<std::io::Result<()>>>,
    pub structured: bool,
}

/// One reply: what came of the request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub cookie: u64,
    /// Error number and offset, of each error told.
    pub errors: Vec<(u32, Option<u64>)>,
    pub texts: Vec<String>,
    /// Offset and content, in the order they came; a simple reply's data is at offset 0.
    pub data: Vec<(u64, Vec<u8>)>,
    /// Context id and (length, flags).
    pub status: Vec<(u32, Vec<(u32, u32)>)>,
}

impl Client {
    /// A server of these exports behind a socket pair; the greeting is read and answered.
    pub fn new(exports: Vec<(&str, Arc<dyn Export>)>) -> Self {
        let server = Server::new(32);
        for (name, export) in exports {
            server.insert(name, export);
        }
        Self::of(server)
    }

    pub fn of(server: Arc<Server>) -> Self {
        let mut client = Self::ungreeted(server);
        let mut greeting = [0; 18];
        client.stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\0\x03");
        client.stream.write_all(&3u32.to_be_bytes()).unwrap();
        client
    }

    pub fn ungreeted(server: Arc<Server>) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let twin = server.clone();
        let serving = Some(thread::spawn(move || twin.serve(theirs)));
        Self { stream: ours, server, serving, structured: false }
    }

    /// One export, structured replies, transmission begun.
    pub fn ready(export: Arc<dyn Export>) -> Self {
        Self::new(vec![("disk", export)]).into_transmission("disk", &[])
    }

    pub fn into_transmission(mut self, name: &str, contexts: &[&str]) -> Self {
        assert_eq!(self.option(8, &[]), [(1, vec![])]);
        self.structured = true;
        if !contexts.is_empty() {
            let answers = self.option(10, &queries(name, contexts));
            assert_eq!(answers.len(), contexts.len() + 1, "{answers:?}");
        }
        let answers = self.option(GO, &go(name, &[]));
        assert_eq!(answers.last().unwrap().0, 1, "{answers:?}");
        self
    }

    /// Sends an option; its answers up to the last as (type, data).
    pub fn option(&mut self, code: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut message = b"IHAVEOPT".to_vec();
        message.extend(code.to_be_bytes());
        message.extend((data.len() as u32).to_be_bytes());
        message.extend(data);
        self.stream.write_all(&message).unwrap();
        let mut answers = Vec::new();
        loop {
            assert_eq!(self.u64(), 0x0003_e889_0455_65a9);
            assert_eq!(self.u32(), code);
            let kind = self.u32();
            let length = self.u32();
            let data = self.bytes(length as usize);
            answers.push((kind, data));
            if kind == 1 || kind & 1 << 31 != 0 {
                return answers;
            }
        }
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.bytes(2).try_into().unwrap())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes(4).try_into().unwrap())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes(8).try_into().unwrap())
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends one request and takes its reply.
    pub fn ask(&mut self, command: u16, flags: u16, offset: u64, length: u32, payload: &[u8]) -> Reply {
        self.send(&request(command, flags, 77, offset, length, payload));
        let reply = self.reply(if command == READ { length as usize } else { 0 });
        assert_eq!(reply.cookie, 77);
        reply
    }

    /// The error number that came of a request, 0 for none.
    pub fn error(&mut self, command: u16, flags: u16, offset: u64, length: u32, payload: &[u8]) -> u32 {
        self.ask(command, flags, offset, length, payload).errors.first().map_or(0, |error| error.0)
    }

    /// What a read without errors brought.
    pub fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        let reply = self.ask(READ, 0, offset, length, &[]);
        assert_eq!(reply.errors, []);
        reply.whole(offset, length)
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        assert_eq!(self.error(WRITE, 0, offset, data.len() as u32, data), 0);
    }

    /// Takes one whole reply. `simple` is how much data follows a simple one. Chunks of other requests may not be between.
    pub fn reply(&mut self, simple: usize) -> Reply {
        let mut reply = Reply::default();
        loop {
            match self.u32() {
                0x6744_6698 => {
                    let error = self.u32();
                    reply.cookie = self.u64();
                    if error != 0 {
                        reply.errors.push((error, None));
                    } else if simple > 0 && !self.structured {
                        let data = self.bytes(simple);
                        reply.data.push((0, data));
                    }
                    return reply;
                }
                0x668e_33ef => {
                    assert!(self.structured, "a structured reply that nobody asked for");
                    let (flags, kind) = (self.u16(), self.u16());
                    let cookie = self.u64();
                    assert!(reply.cookie == 0 || reply.cookie == cookie, "interleaved replies");
                    reply.cookie = cookie;
                    let length = self.u32() as usize;
                    self.chunk(kind, length, &mut reply);
                    if flags & 1 != 0 {
                        return reply;
                    }
                }
                other => panic!("no reply: {other:#x}"),
            }
        }
    }

    fn chunk(&mut self, kind: u16, length: usize, reply: &mut Reply) {
        match kind {
            0 => assert_eq!(length, 0),
            1 => {
                assert!(length > 8);
                let offset = self.u64();
                let data = self.bytes(length - 8);
                reply.data.push((offset, data));
            }
            5 => {
                let id = self.u32();
                assert!(length > 4 && length % 8 == 4);
                let extents = (0..(length - 4) / 8).map(|_| (self.u32(), self.u32())).collect();
                reply.status.push((id, extents));
            }
            0x8001 | 0x8002 => {
                let (error, text) = (self.u32(), self.u16());
                let text = self.bytes(text as usize);
                let text = String::from_utf8(text).unwrap();
                let offset = (kind == 0x8002).then(|| self.u64());
                assert_eq!(length, 6 + text.len() + if offset.is_some() { 8 } else { 0 });
                reply.texts.push(text);
                reply.errors.push((error, offset));
            }
            other => panic!("no such chunk: {other:#x}"),
        }
    }

    /// Says no more, and how the server took it. Nothing unread may be left.
    pub fn end(mut self) -> std::io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");
        self.serving.take().unwrap().join().unwrap()
    }

    /// Whether the server leaves in good order by itself.
    pub fn serve_ended(mut self) -> bool {
        self.stream.read_to_end(&mut Vec::new()).unwrap();
        self.serving.take().unwrap().join().unwrap().is_ok()
    }

    /// The server hangs up by itself; what it says of it.
    pub fn hung_up(mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest); // a reset, where it left words of ours unread
        self.serving.take().unwrap().join().unwrap().unwrap_err().to_string()
    }
}

impl Reply {
    /// The data of a read, put together; every byte exactly once.
    pub fn whole(&self, offset: u64, length: u32) -> Vec<u8> {
        let mut whole = vec![None; length as usize];
        for (at, data) in &self.data {
            for (place, byte) in ((*at - offset) as usize..).zip(data) {
                assert_eq!(whole[place].replace(*byte), None, "byte {place} came twice");
            }
        }
        whole.into_iter().map(|byte| byte.expect("a byte that never came")).collect()
    }
}

pub fn request(command: u16, flags: u16, cookie: u64, offset: u64, length: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub fn go(name: &str, wishes: &[u16]) -> Vec<u8> {
    let mut data = string(name);
    data.extend((wishes.len() as u16).to_be_bytes());
    wishes.iter().for_each(|wish| data.extend(wish.to_be_bytes()));
    data
}

pub fn queries(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = string(name);
    data.extend((queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| data.extend(string(query)));
    data
}

pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}
