//! TCP: smoltcp speaks it with the guest, the host's own sockets with the world, and bytes are passed between the two.
//!
//! A connection is made outside first; only then is the guest's SYN given to smoltcp, with a socket that listens for it. Where the
//! policy or the world says no, it is given to smoltcp without one, which answers with a reset.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as Tick;
use smoltcp::wire::{EthernetProtocol, HardwareAddress, IpCidr, Ipv4Cidr, TcpPacket};

use crate::link::{GATEWAY, MTU, Out};

/// Connections at once; a SYN above that is dropped, and the guest tries again.
pub const MOST: usize = 1024;
const BUFFER: usize = 64 << 10;
const CONNECTING: Duration = Duration::from_secs(20);
/// A guest that is silent for so long has gone: it was reset, or its connection was lost with a former process of ours.
const SILENT: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(180);
const ASKED: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(60);

/// The guest's port, the address and the port that it connects to.
pub type Key = (u16, Ipv4Addr, u16);

/// Why a connection was allowed: the name that led to its address, or none where a range did.
pub type Why = Option<String>;

#[derive(Debug)]
enum Stage {
    Connecting { syn: Vec<u8>, until: Instant },
    Open(Open),
}

#[derive(Debug)]
struct Open {
    handle: SocketHandle,
    /// The world will send no more, the guest will send no more, the world takes no more for now.
    world_ended: bool,
    guest_ended: bool,
    blocked: bool,
}

#[derive(Debug)]
struct Flow {
    world: TcpStream,
    why: Why,
    stage: Stage,
}

/// All connections of the guest.
pub struct Tcp {
    interface: Interface,
    sockets: SocketSet<'static>,
    flows: HashMap<Key, Flow>,
    packets: VecDeque<Vec<u8>>,
    began: Instant,
}

impl std::fmt::Debug for Tcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tcp").field("flows", &self.flows.len()).finish_non_exhaustive()
    }
}

impl Tcp {
    /// None yet. `seed` makes sequence numbers that nobody can guess.
    pub fn new(now: Instant, seed: u64) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let (mut packets, mut none) = (VecDeque::new(), Out::new(crate::link::OURS));
        let mut interface = Interface::new(config, &mut Packets { packets: &mut packets, out: &mut none }, Tick::ZERO);
        interface.set_any_ip(true);
        interface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(GATEWAY, 32)));
        });
        // With `any_ip`: every address is ours to answer for.
        let _ = interface.routes_mut().add_default_ipv4_route(GATEWAY);
        Self { interface, sockets: SocketSet::new(Vec::new()), flows: HashMap::new(), packets, began: now }
    }

    /// Connections there are.
    pub fn count(&self) -> usize {
        self.flows.len()
    }

    /// Whether packets wait that could not be taken, since answers wait too.
    pub fn behind(&self) -> bool {
        !self.packets.is_empty()
    }

    /// A TCP packet of the guest's, its IPv4 header in front, checked. `allowed` is asked once for each new connection.
    pub fn packet(
        &mut self,
        now: Instant,
        to: Ipv4Addr,
        untrusted_packet: &[u8],
        allowed: impl FnOnce(u16) -> Option<Why>,
    ) {
        let Ok(tcp) = TcpPacket::new_checked(&untrusted_packet[20..]) else { return };
        let key = (tcp.src_port(), to, tcp.dst_port());
        if tcp.syn() && !tcp.ack() && !tcp.rst() {
            self.drop_ended(&key);
            match self.flows.get(&key).map(|flow| &flow.stage) {
                Some(Stage::Connecting { .. }) => return, // once more, since we have not answered yet
                Some(Stage::Open(_)) => {}
                None => {
                    if let Some(why) = allowed(key.2) {
                        if self.flows.len() >= MOST {
                            return;
                        }
                        if let Ok(world) = begin(to, key.2) {
                            let stage = Stage::Connecting { syn: untrusted_packet.to_vec(), until: now + CONNECTING };
                            self.flows.insert(key, Flow { world, why, stage });
                            return;
                        }
                    }
                }
            }
        }
        self.packets.push_back(untrusted_packet.to_vec());
    }

    /// A port may be used again before its last connection is quite forgotten.
    fn drop_ended(&mut self, key: &Key) {
        let Some(Flow { stage: Stage::Open(open), .. }) = self.flows.get(key) else { return };
        if matches!(self.sockets.get::<Socket<'_>>(open.handle).state(), State::TimeWait | State::Closed) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(Flow { stage: Stage::Open(open), .. }) = self.flows.remove(key) {
            self.sockets.remove(open.handle);
        }
    }

    /// What is to be waited for, outside.
    pub fn waits(&self) -> impl Iterator<Item = (Key, BorrowedFd<'_>, bool, bool)> {
        self.flows.iter().filter_map(|(key, flow)| {
            let (read, write) = match &flow.stage {
                Stage::Connecting { .. } => (false, true),
                Stage::Open(open) => {
                    let socket = self.sockets.get::<Socket<'_>>(open.handle);
                    (socket.can_send() && !open.world_ended, open.blocked)
                }
            };
            (read || write).then(|| (*key, flow.world.as_fd(), read, write))
        })
    }

    /// A connection's outside is ready.
    pub fn ready(&mut self, key: &Key) {
        let Some(flow) = self.flows.get_mut(key) else { return };
        match &mut flow.stage {
            Stage::Connecting { syn, .. } => {
                let syn = std::mem::take(syn);
                let there = matches!(sockopt::socket_error(&flow.world), Ok(Ok(())));
                let listening = there.then(|| listening(key)).flatten();
                self.packets.push_back(syn);
                match listening {
                    Some(socket) => {
                        let handle = self.sockets.add(socket);
                        let open = Open { handle, world_ended: false, guest_ended: false, blocked: false };
                        flow.stage = Stage::Open(open);
                    }
                    None => {
                        self.flows.remove(key);
                    }
                }
            }
            Stage::Open(open) => {
                open.blocked = false;
                let socket = self.sockets.get_mut::<Socket<'_>>(open.handle);
                if !open.world_ended {
                    from_world(socket, &mut flow.world, open);
                }
            }
        }
    }

    /// Pass on what there is, until nothing moves or the guest takes no more.
    pub fn turn(&mut self, now: Instant, out: &mut Out) {
        let tick = self.tick(now);
        loop {
            let mut device = Packets { packets: &mut self.packets, out };
            let moved = self.interface.poll(tick, &mut device, &mut self.sockets) == PollResult::SocketStateChanged;
            let passed = self.pass_out();
            if (!moved && !passed) || out.full() {
                break;
            }
        }
        if self.flows.values().any(|flow| matches!(&flow.stage, Stage::Connecting { until, .. } if *until < now)) {
            self.flows.retain(|_, flow| !matches!(&flow.stage, Stage::Connecting { until, .. } if *until < now));
        }
    }

    fn pass_out(&mut self) -> bool {
        let (mut passed, mut over, all_taken) = (false, Vec::new(), self.packets.is_empty());
        for (key, flow) in &mut self.flows {
            let Stage::Open(open) = &mut flow.stage else { continue };
            let socket = self.sockets.get_mut::<Socket<'_>>(open.handle);
            while !open.blocked && socket.can_recv() {
                passed = true;
                if !from_guest(socket, &mut flow.world, open) {
                    socket.abort();
                }
            }
            let state = socket.state();
            let last = matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
            if last && !open.guest_ended && socket.recv_queue() == 0 {
                open.guest_ended = true;
                let _ = flow.world.shutdown(Shutdown::Write);
            }
            // One that still listens was never asked for: its SYN was none.
            if state == State::Closed || (state == State::Listen && all_taken) {
                if !(open.guest_ended && open.world_ended) {
                    let _ = sockopt::set_socket_linger(&flow.world, Some(Duration::ZERO)); // as the guest did: a reset
                }
                // A reset that smoltcp has yet to send goes out with the next poll.
                if socket.remote_endpoint().is_none() {
                    over.push(*key);
                } else {
                    passed = true;
                }
            }
        }
        for key in &over {
            self.remove(key);
        }
        passed
    }

    /// Cut what `stays` does not want any more.
    pub fn cut(&mut self, stays: impl Fn(&Key, &Why) -> bool) {
        let gone: Vec<Key> =
            self.flows.iter().filter(|(key, flow)| !stays(key, &flow.why)).map(|(key, _)| *key).collect();
        for key in gone {
            match self.flows.get_mut(&key).map(|flow| &mut flow.stage) {
                Some(Stage::Open(open)) => self.sockets.get_mut::<Socket<'_>>(open.handle).abort(),
                // As if the world had refused: the guest is answered with a reset.
                Some(Stage::Connecting { syn, .. }) => {
                    self.packets.push_back(std::mem::take(syn));
                    self.flows.remove(&key);
                }
                None => {}
            }
        }
    }

    /// The guest has gone.
    pub fn clear(&mut self) {
        for flow in self.flows.values() {
            let _ = sockopt::set_socket_linger(&flow.world, Some(Duration::ZERO));
        }
        let keys: Vec<Key> = self.flows.keys().copied().collect();
        keys.iter().for_each(|key| self.remove(key));
        self.packets.clear();
    }

    /// Forget connections that have only to be waited for.
    pub fn sweep(&mut self) {
        let keys: Vec<Key> = self.flows.keys().copied().collect();
        keys.iter().for_each(|key| self.drop_ended(key));
    }

    /// How long nothing has to be done.
    pub fn delay(&mut self, now: Instant) -> Option<Duration> {
        let tick = self.tick(now);
        self.interface.poll_delay(tick, &self.sockets).map(Into::into)
    }

    fn tick(&self, now: Instant) -> Tick {
        Tick::from_micros(i64::try_from(now.duration_since(self.began).as_micros()).unwrap_or(i64::MAX))
    }
}

/// Begin to connect.
fn begin(to: Ipv4Addr, port: u16) -> rustix::io::Result<TcpStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match connect(&socket, &SocketAddrV4::new(to, port)) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(failed) => Err(failed),
    }
}

fn listening(key: &Key) -> Option<Socket<'static>> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_ack_delay(None);
    socket.set_nagle_enabled(false);
    socket.set_timeout(Some(SILENT));
    socket.set_keep_alive(Some(ASKED));
    socket.listen((key.1, key.2)).ok()?;
    Some(socket)
}

/// Pass on what the world sent; its end too.
fn from_world(socket: &mut Socket<'_>, world: &mut TcpStream, open: &mut Open) {
    while socket.can_send() {
        let read = socket.send(|room| match world.read(room) {
            Ok(length) => (length, Ok(length)),
            Err(failed) => (0, Err(failed)),
        });
        match read {
            Ok(Ok(0)) => {
                open.world_ended = true;
                socket.close();
                return;
            }
            Ok(Ok(_)) => {}
            Ok(Err(failed)) if failed.kind() == ErrorKind::Interrupted => {}
            Ok(Err(failed)) if failed.kind() == ErrorKind::WouldBlock => return,
            _ => {
                open.world_ended = true;
                socket.abort();
                return;
            }
        }
    }
}

/// Pass on what the guest sent; false where the world takes no more at all.
fn from_guest(socket: &mut Socket<'_>, world: &mut TcpStream, open: &mut Open) -> bool {
    let wrote = socket.recv(|bytes| match world.write(bytes) {
        Ok(length) => (length, Ok(())),
        Err(failed) => (0, Err(failed)),
    });
    match wrote {
        Ok(Ok(())) => true,
        Ok(Err(failed)) if failed.kind() == ErrorKind::Interrupted => true,
        Ok(Err(failed)) if failed.kind() == ErrorKind::WouldBlock => {
            open.blocked = true;
            true
        }
        _ => false,
    }
}

/// smoltcp's device: packets without Ethernet, from the guest and to it.
struct Packets<'a> {
    packets: &'a mut VecDeque<Vec<u8>>,
    out: &'a mut Out,
}

struct Taken(Vec<u8>);

struct Given<'a>(&'a mut Out);

impl phy::RxToken for Taken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Given<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        self.0.frame(EthernetProtocol::Ipv4, length, f)
    }
}

impl Device for Packets<'_> {
    type RxToken<'b>
        = Taken
    where
        Self: 'b;
    type TxToken<'b>
        = Given<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Tick) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        if self.out.full() {
            return None;
        }
        Some((Taken(self.packets.pop_front()?), Given(self.out)))
    }

    fn transmit(&mut self, _: Tick) -> Option<Self::TxToken<'_>> {
        (!self.out.full()).then_some(Given(self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut able = DeviceCapabilities::default();
        able.medium = Medium::Ip;
        able.max_transmission_unit = MTU;
        able
    }
}
