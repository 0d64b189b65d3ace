//! The guest's whole network: what each of its frames means, and what becomes of it.

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable,
    Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket,
};

use crate::dhcp;
use crate::dns::Question;
use crate::link::{GATEWAY, GUEST, OURS, Out, checks};
use crate::names::Names;
use crate::policy::Policy;
use crate::tcp::{Key, Tcp, Why};
use crate::udp::Udp;
use crate::world::World;

const DNS: u16 = 53;
const SWEEP: Duration = Duration::from_secs(1);
/// Bytes of a packet that a message about it repeats.
const QUOTED: usize = 8;

/// Something to be waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Waited {
    /// A connection.
    Tcp(Key),
    /// A pair.
    Udp(Key),
}

/// One guest's network.
#[derive(Debug)]
pub struct Network<W: World> {
    world: Arc<W>,
    policy: Policy,
    names: Names,
    tcp: Tcp,
    udp: Udp,
    out: Out,
    swept: Instant,
}

impl<W: World> Network<W> {
    /// A network that reaches nothing yet. Found names wake `waker`.
    ///
    /// # Errors
    /// There are no more threads or descriptors.
    pub fn new(world: Arc<W>, guest: EthernetAddress, waker: &UnixStream) -> std::io::Result<Self> {
        let now = Instant::now();
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self {
            names: Names::new(&world, waker)?,
            world,
            policy: Policy::default(),
            tcp: Tcp::new(now, u64::from_ne_bytes(seed)),
            udp: Udp::default(),
            out: Out::new(guest),
            swept: now,
        })
    }

    /// From now on this is allowed, and nothing else: what was connected and is not allowed any more is cut.
    pub fn set_policy(&mut self, policy: Policy) {
        let stays = |key: &Key, why: &Why| {
            let place = self.world.place(key.1);
            policy.by_address(key.1, Some(key.2), place)
                || why.as_ref().is_some_and(|name| policy.by_name(name, key.2, place))
        };
        self.tcp.cut(stays);
        self.udp.cut(stays);
        self.names.keep(&policy, Instant::now());
        self.policy = policy;
    }

    /// What waits for the guest.
    pub fn out(&mut self) -> &mut Out {
        &mut self.out
    }

    /// Whether something waits for the guest.
    pub fn waiting(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether frames should not be read now.
    pub fn behind(&self) -> bool {
        self.out.full() || self.tcp.behind()
    }

    /// Connections, pairs and names there are.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.tcp.count(), self.udp.count(), self.names.count())
    }

    /// The guest has gone: so have its connections.
    pub fn clear(&mut self) {
        self.tcp.clear();
        self.udp.clear();
        self.out.clear();
    }

    /// One frame of the guest's.
    pub fn frame(&mut self, now: Instant, untrusted_frame: &[u8]) {
        let Ok(frame) = EthernetFrame::new_checked(untrusted_frame) else { return };
        let mine = frame.dst_addr() == OURS || frame.dst_addr().is_broadcast();
        if frame.src_addr() != self.out.guest() || !mine {
            return;
        }
        match frame.ethertype() {
            EthernetProtocol::Arp => self.arp(frame.payload()),
            EthernetProtocol::Ipv4 => self.ipv4(now, frame.payload()),
            _ => {} // IPv6 too: nobody advertises it here, so no guest waits for an answer
        }
    }

    fn arp(&mut self, untrusted_packet: &[u8]) {
        let Ok(packet) = ArpPacket::new_checked(untrusted_packet) else { return };
        let Ok(ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_protocol_addr,
            target_protocol_addr,
            ..
        }) = ArpRepr::parse(&packet)
        else {
            return;
        };
        if target_protocol_addr != GATEWAY || self.out.full() {
            return;
        }
        let answer = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: OURS,
            source_protocol_addr: GATEWAY,
            target_hardware_addr: self.out.guest(),
            target_protocol_addr: source_protocol_addr,
        };
        let fill = |bytes: &mut [u8]| answer.emit(&mut ArpPacket::new_unchecked(bytes));
        self.out.frame(EthernetProtocol::Arp, answer.buffer_len(), fill);
    }

    fn ipv4(&mut self, now: Instant, untrusted_packet: &[u8]) {
        let Ok(packet) = Ipv4Packet::new_checked(untrusted_packet) else { return };
        // Options (source routes among them) and fragments have no use here, and many abuses.
        let plain =
            packet.version() == 4 && packet.header_len() == 20 && !packet.more_frags() && packet.frag_offset() == 0;
        if !plain || !packet.verify_checksum() {
            return;
        }
        let (from, to) = (packet.src_addr(), packet.dst_addr());
        let whole = &untrusted_packet[..usize::from(packet.total_len())];
        match packet.next_header() {
            IpProtocol::Udp => self.datagram(now, &packet, from, to),
            _ if from != GUEST => {}
            IpProtocol::Tcp => {
                let (world, policy, names) = (&self.world, &self.policy, &self.names);
                self.tcp.packet(now, to, whole, |port| allowed(&**world, policy, names, now, to, port));
            }
            IpProtocol::Icmp if to == GATEWAY => self.echo(packet.payload()),
            _ => {}
        }
    }

    fn datagram(&mut self, now: Instant, packet: &Ipv4Packet<&[u8]>, from: Ipv4Addr, to: Ipv4Addr) {
        let Ok(datagram) = UdpPacket::new_checked(packet.payload()) else { return };
        if !datagram.verify_checksum(&from.into(), &to.into()) {
            return;
        }
        let (port, to_port, data) = (datagram.src_port(), datagram.dst_port(), datagram.payload());
        if to_port == dhcp::SERVER && (to == GATEWAY || to.is_broadcast()) && port == dhcp::CLIENT {
            if let Some((to, answer)) = dhcp::answer(data) {
                self.out.datagram((GATEWAY, dhcp::SERVER), (to, dhcp::CLIENT), &answer);
            }
        } else if from != GUEST {
            // Somebody else's address.
        } else if to == GATEWAY && to_port == DNS {
            if let Some(question) = Question::read(data) {
                if let Some(answer) = self.names.ask(&self.policy, now, port, question) {
                    self.out.datagram((GATEWAY, DNS), (GUEST, port), &answer);
                }
            }
        } else {
            let (world, policy, names) = (&self.world, &self.policy, &self.names);
            let may = |to_port| allowed(&**world, policy, names, now, to, to_port);
            if !self.udp.send(now, (port, to, to_port), data, may) {
                self.prohibited(packet);
            }
        }
    }

    /// Say so at once, so that nobody waits.
    fn prohibited(&mut self, packet: &Ipv4Packet<&[u8]>) {
        let data = &packet.payload()[..packet.payload().len().min(QUOTED)];
        let header = Ipv4Repr {
            src_addr: packet.src_addr(),
            dst_addr: packet.dst_addr(),
            next_header: packet.next_header(),
            payload_len: packet.payload().len(),
            hop_limit: packet.hop_limit(),
        };
        self.icmp(&Icmpv4Repr::DstUnreachable { reason: Icmpv4DstUnreachable::CommProhibited, header, data });
    }

    fn echo(&mut self, untrusted_message: &[u8]) {
        let Ok(message) = Icmpv4Packet::new_checked(untrusted_message) else { return };
        if let Ok(Icmpv4Repr::EchoRequest { ident, seq_no, data }) = Icmpv4Repr::parse(&message, &checks()) {
            self.icmp(&Icmpv4Repr::EchoReply { ident, seq_no, data });
        }
    }

    fn icmp(&mut self, message: &Icmpv4Repr<'_>) {
        self.out.packet(GATEWAY, GUEST, IpProtocol::Icmp, message.buffer_len(), |bytes| {
            message.emit(&mut Icmpv4Packet::new_unchecked(bytes), &checks());
        });
    }

    /// What is to be waited for, outside: its descriptor, and whether for reading and for writing.
    pub fn waits(&self) -> impl Iterator<Item = (Waited, BorrowedFd<'_>, bool, bool)> {
        let tcp = self.tcp.waits().map(|(key, fd, read, write)| (Waited::Tcp(key), fd, read, write));
        tcp.chain(self.udp.waits().map(|(key, fd)| (Waited::Udp(key), fd, true, false)))
    }

    /// Something that was waited for is ready.
    pub fn ready(&mut self, now: Instant, what: Waited) {
        match what {
            Waited::Tcp(key) => self.tcp.ready(&key),
            Waited::Udp(key) => self.udp.ready(now, &key, &mut self.out),
        }
    }

    /// Do what is to be done now.
    pub fn turn(&mut self, now: Instant) {
        for (port, answer) in self.names.answers(&*self.world, &self.policy, now) {
            self.out.datagram((GATEWAY, DNS), (GUEST, port), &answer);
        }
        self.tcp.turn(now, &mut self.out);
        if now.duration_since(self.swept) >= SWEEP {
            self.swept = now;
            self.tcp.sweep();
            self.udp.sweep(now);
            self.names.forget(now);
        }
    }

    /// How long nothing has to be done, if nothing comes.
    pub fn delay(&mut self, now: Instant) -> Option<Duration> {
        let idle = self.counts() == (0, 0, 0);
        let sweep = (!idle).then_some(SWEEP);
        let tcp = if self.out.full() { None } else { self.tcp.delay(now) };
        [sweep, tcp].into_iter().flatten().min()
    }
}

/// Why an address may be reached at a port; `None` where it may not.
fn allowed<W: World>(world: &W, policy: &Policy, names: &Names, now: Instant, to: Ipv4Addr, port: u16) -> Option<Why> {
    let place = world.place(to);
    if policy.by_address(to, Some(port), place) {
        return Some(None);
    }
    names.leading_to(policy, now, to, port, place).map(Some)
}
