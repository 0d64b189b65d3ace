//! A guest as a peer: smoltcp with an Ethernet card, at the other end of QEMU's stream; and a world of our own making.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant as Tick;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Cidr};
use twofold_netd::link::{GATEWAY, GUEST};
use twofold_netd::policy::{self, Place};
use twofold_netd::service::{Service, start};
use twofold_netd::world::{Nameless, World};

pub const MAC: EthernetAddress = EthernetAddress([0x52, 0x54, 0, 0x74, 0x66, 2]);
const PATIENCE: Duration = Duration::from_secs(5);
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// Names as a table; 127.7.x.x counts as public, 127.8.x.x as private, so that servers of ours can play both.
#[derive(Clone, Default)]
pub struct Lab(pub Arc<Mutex<HashMap<String, Vec<Ipv4Addr>>>>);

impl Lab {
    pub fn new(names: &[(&str, &str)]) -> Self {
        let lab = Self::default();
        for (name, address) in names {
            lab.0.lock().unwrap().entry((*name).into()).or_default().push(address.parse().unwrap());
        }
        lab
    }
}

impl World for Lab {
    fn resolve(&self, name: &str) -> Result<Vec<Ipv4Addr>, Nameless> {
        self.0.lock().unwrap().get(name).cloned().ok_or(Nameless::Unknown)
    }

    fn place(&self, address: Ipv4Addr) -> Place {
        match address.octets() {
            [127, 7, ..] => Place::Public,
            [127, 8, ..] => Place::Private,
            _ => policy::place(address),
        }
    }
}

/// The process, in a thread.
pub struct Process {
    pub folder: PathBuf,
    control: UnixStream,
    thread: Option<JoinHandle<()>>,
}

pub fn opening(policy: &str, alone: u64) -> String {
    format!("{{\"id\":1,\"do\":\"open\",\"args\":{{\"guest\":\"{MAC}\",\"alone\":{alone},\"policy\":{policy}}},\"fds\":2}}\n").replace(&MAC.to_string(), &MAC.to_string().replace('-', ":"))
}

/// Sockets in a folder of their own, and the first line sent with them.
pub fn send_opening(ours: &UnixStream, policy: &str, alone: u64) -> PathBuf {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("twofold-netd-{}-{number}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let sockets =
        [UnixListener::bind(folder.join("link")).unwrap(), UnixListener::bind(folder.join("control")).unwrap()];
    let fds = [rustix::fd::AsFd::as_fd(&sockets[0]), rustix::fd::AsFd::as_fd(&sockets[1])];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    assert!(rights.push(SendAncillaryMessage::ScmRights(&fds)));
    let line = opening(policy, alone);
    sendmsg(ours, &[std::io::IoSlice::new(line.as_bytes())], &mut rights, SendFlags::empty()).unwrap();
    folder
}

pub fn read_line(mut stream: &UnixStream) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

impl Process {
    pub fn new(policy: &str, lab: Lab) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let folder = send_opening(&ours, policy, 60);
        let wanted = start(&theirs).unwrap().unwrap();
        let mut service = Service::new(wanted, lab, false).unwrap();
        service.converse(theirs);
        let thread = thread::spawn(move || service.run().unwrap());
        assert_eq!(read_line(&ours), r#"{"id":1,"ok":{}}"#);
        Self { folder, control: ours, thread: Some(thread) }
    }

    pub fn call(&self, verb: &str, args: &str) -> String {
        (&self.control).write_all(format!("{{\"id\":7,\"do\":\"{verb}\",\"args\":{args}}}\n").as_bytes()).unwrap();
        read_line(&self.control)
    }

    pub fn set(&self, policy: &str) {
        assert_eq!(self.call("policy", &format!("{{\"policy\":{policy}}}")), r#"{"id":7,"ok":{}}"#);
    }

    pub fn guest(&self) -> Guest {
        Guest::new(UnixStream::connect(self.folder.join("link")).unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = (&self.control).write_all(b"{\"id\":9,\"do\":\"stop\"}\n");
            let ended = thread.join();
            std::fs::remove_dir_all(&self.folder).unwrap();
            assert!(ended.is_ok() || thread::panicking());
        }
    }
}

/// The guest's network card.
pub struct Card {
    stream: UnixStream,
    bytes: Vec<u8>,
    unsent: Vec<u8>,
    frames: VecDeque<Vec<u8>>,
    /// All that came, for tests that look at frames themselves.
    pub seen: Vec<Vec<u8>>,
    pub keep: bool,
}

impl Card {
    pub fn send(&mut self, frame: &[u8]) {
        self.unsent.extend_from_slice(&u32::try_from(frame.len()).unwrap().to_be_bytes());
        self.unsent.extend_from_slice(frame);
    }

    fn turn(&mut self) {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(failed) if failed.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => self.unsent.clear(),
            }
        }
        let mut room = vec![0; 64 << 10];
        while let Ok(length @ 1..) = self.stream.read(&mut room) {
            self.bytes.extend_from_slice(&room[..length]);
        }
        let mut at = 0;
        while let Some(head) = self.bytes[at..].first_chunk::<4>() {
            let length = u32::from_be_bytes(*head) as usize;
            let Some(frame) = self.bytes.get(at + 4..at + 4 + length) else { break };
            if self.keep {
                self.seen.push(frame.to_vec());
            }
            self.frames.push_back(frame.to_vec());
            at += 4 + length;
        }
        self.bytes.drain(..at);
    }
}

pub struct Taken(Vec<u8>);
pub struct Given<'a>(&'a mut Vec<u8>);

impl phy::RxToken for Taken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Given<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        self.0.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        let at = self.0.len();
        self.0.resize(at + length, 0);
        f(&mut self.0[at..])
    }
}

impl Device for Card {
    type RxToken<'b> = Taken;
    type TxToken<'b> = Given<'b>;

    fn receive(&mut self, _: Tick) -> Option<(Taken, Given<'_>)> {
        Some((Taken(self.frames.pop_front()?), Given(&mut self.unsent)))
    }

    fn transmit(&mut self, _: Tick) -> Option<Given<'_>> {
        (self.unsent.len() < 256 << 10).then_some(Given(&mut self.unsent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut able = DeviceCapabilities::default();
        able.medium = Medium::Ethernet;
        able.max_transmission_unit = 1514;
        able
    }
}

pub struct Guest {
    pub card: Card,
    pub interface: Interface,
    pub sockets: SocketSet<'static>,
    began: Instant,
    port: u16,
}

#[derive(Debug, PartialEq)]
pub enum Tried {
    Open,
    Reset,
    Nothing,
}

impl Guest {
    pub fn new(stream: UnixStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        let mut card = Card {
            stream,
            bytes: Vec::new(),
            unsent: Vec::new(),
            frames: VecDeque::new(),
            seen: Vec::new(),
            keep: false,
        };
        let mut config = Config::new(HardwareAddress::Ethernet(MAC));
        config.random_seed = u64::from(NUMBER.fetch_add(1, Ordering::Relaxed) as u32);
        let mut interface = Interface::new(config, &mut card, Tick::ZERO);
        interface.update_ip_addrs(|all| all.push(IpCidr::Ipv4(Ipv4Cidr::new(GUEST, 29))).unwrap());
        interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        let port = 20_000 + u16::try_from(NUMBER.fetch_add(1, Ordering::Relaxed) % 1000).unwrap() * 40;
        Self { card, interface, sockets: SocketSet::new(Vec::new()), began: Instant::now(), port }
    }

    pub fn turn(&mut self) {
        self.card.turn();
        let now = Tick::from_micros(i64::try_from(self.began.elapsed().as_micros()).unwrap());
        self.interface.poll(now, &mut self.card, &mut self.sockets);
        self.card.turn();
    }

    /// Turn until it is so; false after `patience`.
    pub fn within(&mut self, patience: Duration, mut so: impl FnMut(&mut Self) -> bool) -> bool {
        let end = Instant::now() + patience;
        loop {
            self.turn();
            if so(self) {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_micros(200));
        }
    }

    pub fn until(&mut self, so: impl FnMut(&mut Self) -> bool) {
        assert!(self.within(PATIENCE, so), "in vain");
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn begin(&mut self, to: Ipv4Addr, port: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 32 << 10]);
        let handle = self.sockets.add(tcp::Socket::new(buffer(), buffer()));
        self.port = if self.port > 60_000 { 20_000 } else { self.port + 1 };
        let from = self.port;
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.set_ack_delay(None);
        socket.connect(self.interface.context(), (to, port), from).unwrap();
        handle
    }

    /// Try to connect; what became of it.
    pub fn connect(&mut self, to: Ipv4Addr, port: u16) -> (SocketHandle, Tried) {
        let handle = self.begin(to, port);
        let settled = self.within(Duration::from_secs(3), |guest| {
            matches!(guest.tcp(handle).state(), tcp::State::Established | tcp::State::Closed | tcp::State::CloseWait)
        });
        let tried = match (settled, self.tcp(handle).state()) {
            (true, tcp::State::Closed) => Tried::Reset,
            (true, _) => Tried::Open,
            _ => Tried::Nothing,
        };
        (handle, tried)
    }

    pub fn try_tcp(&mut self, to: Ipv4Addr, port: u16) -> Tried {
        let (handle, tried) = self.connect(to, port);
        self.tcp(handle).abort();
        self.turn();
        self.sockets.remove(handle);
        tried
    }

    /// Send, and get as much back.
    pub fn echo(&mut self, handle: SocketHandle, data: &[u8]) -> bool {
        let (mut sent, mut back) = (0, Vec::new());
        let ended = self.within(PATIENCE, |guest| {
            let socket = guest.tcp(handle);
            if socket.can_send() && sent < data.len() {
                sent += socket.send_slice(&data[sent..]).unwrap();
            }
            while socket.can_recv() {
                socket
                    .recv(|bytes| {
                        back.extend_from_slice(bytes);
                        (bytes.len(), ())
                    })
                    .unwrap();
            }
            back.len() >= data.len() || !socket.may_recv()
        });
        ended && back == data
    }

    pub fn bind_udp(&mut self) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 16 << 10]);
        let handle = self.sockets.add(udp::Socket::new(buffer(), buffer()));
        self.port += 1;
        self.sockets.get_mut::<udp::Socket<'_>>(handle).bind(self.port).unwrap();
        handle
    }

    pub fn udp(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// A datagram's answer, if one comes soon.
    pub fn datagram(&mut self, handle: SocketHandle, to: Ipv4Addr, port: u16, data: &[u8]) -> Option<Vec<u8>> {
        self.udp(handle).send_slice(data, (to, port)).unwrap();
        let mut answer = None;
        self.within(Duration::from_millis(400), |guest| {
            answer = guest.udp(handle).recv().ok().map(|(bytes, _)| bytes.to_vec());
            answer.is_some()
        });
        answer
    }

    /// Ask our DNS: the outcome's code, and the addresses.
    pub fn ask(&mut self, name: &str, kind: u16) -> (u8, Vec<Ipv4Addr>) {
        let handle = self.bind_udp();
        let answer = self.datagram(handle, GATEWAY, 53, &question(name, kind)).expect("an answer");
        self.sockets.remove(handle);
        assert_eq!(answer[..2], [0xab, 0xcd]);
        let count = usize::from(answer[7]);
        let records = &answer[answer.len() - 16 * count..];
        (answer[3] & 15, records.chunks(16).map(|each| Ipv4Addr::new(each[12], each[13], each[14], each[15])).collect())
    }
}

pub fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut made = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        made.push(u8::try_from(label.len()).unwrap());
        made.extend_from_slice(label.as_bytes());
    }
    made.push(0);
    made.extend_from_slice(&kind.to_be_bytes());
    made.extend_from_slice(&[0, 1]);
    made
}

/// A server that sends back what it gets; each connection a thread. Returns its port and how many came.
pub fn echoing(at: &str) -> (u16, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind((at, 0)).unwrap();
    // The library's queue of 128 drops the SYNs of a crowd, and the kernel tries them again after 1, 3, 7, 15 seconds.
    rustix::net::listen(&listener, 4096).unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            let Ok(mut stream) = stream else { continue };
            thread::spawn(move || {
                let mut twin = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut stream, &mut twin);
                let _ = twin.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    (port, count)
}

pub fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}
