//! Frames that no honest guest sends.

#![allow(clippy::unwrap_used, clippy::panic)]

mod guest;

use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use guest::{Guest, Lab, MAC, Process, ip, question};
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4Packet,
    Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};
use twofold_netd::link::{GATEWAY, GUEST, OURS};
use twofold_netd::network::Network;
use twofold_netd::policy::{Document, Policy};

fn ethernet(kind: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 14 + payload.len()];
    EthernetRepr { src_addr: MAC, dst_addr: OURS, ethertype: kind }.emit(&mut EthernetFrame::new_unchecked(&mut bytes));
    bytes[14..].copy_from_slice(payload);
    bytes
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, kind: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let header =
        Ipv4Repr { src_addr: from, dst_addr: to, next_header: kind, payload_len: payload.len(), hop_limit: 64 };
    let mut bytes = vec![0; 20 + payload.len()];
    header.emit(&mut Ipv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
    bytes[20..].copy_from_slice(payload);
    ethernet(EthernetProtocol::Ipv4, &bytes)
}

fn udp(from: Ipv4Addr, to: Ipv4Addr, port: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8 + data.len()];
    UdpRepr { src_port: if port == 67 { 68 } else { 4000 }, dst_port: port }.emit(
        &mut UdpPacket::new_unchecked(&mut bytes),
        &from.into(),
        &to.into(),
        data.len(),
        |room| room.copy_from_slice(data),
        &ChecksumCapabilities::default(),
    );
    ipv4(from, to, IpProtocol::Udp, &bytes)
}

fn tcp(to: Ipv4Addr, port: u16, from_port: u16, control: TcpControl, ack: Option<i32>, data: &[u8]) -> Vec<u8> {
    let repr = TcpRepr {
        src_port: from_port,
        dst_port: port,
        control,
        seq_number: TcpSeqNumber(1000),
        ack_number: ack.map(TcpSeqNumber),
        window_len: 8000,
        window_scale: Some(2),
        max_seg_size: Some(1460),
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: data,
    };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut TcpPacket::new_unchecked(&mut bytes), &GUEST.into(), &to.into(), &ChecksumCapabilities::default());
    ipv4(GUEST, to, IpProtocol::Tcp, &bytes)
}

fn arp(target: Ipv4Addr) -> Vec<u8> {
    let asked = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: MAC,
        source_protocol_addr: GUEST,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    let mut bytes = vec![0; asked.buffer_len()];
    asked.emit(&mut ArpPacket::new_unchecked(&mut bytes));
    ethernet(EthernetProtocol::Arp, &bytes)
}

fn echo(to: Ipv4Addr) -> Vec<u8> {
    let asked = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 1, data: b"hello" };
    let mut bytes = vec![0; asked.buffer_len()];
    asked.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
    ipv4(GUEST, to, IpProtocol::Icmp, &bytes)
}

/// IPv4's checksum again after a change.
fn mended(mut frame: Vec<u8>) -> Vec<u8> {
    Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
    frame
}

fn answers(guest: &mut Guest, frame: &[u8]) -> usize {
    guest.card.keep = true;
    guest.card.seen.clear();
    guest.card.send(frame);
    guest.card.send(&arp(GATEWAY)); // comes back after whatever the frame makes
    guest.until(|guest| guest.card.seen.iter().any(|frame| frame[12..14] == [8, 6]));
    guest.card.seen.len() - 1
}

#[test]
fn what_is_no_plain_packet_of_the_guests_own_is_dropped() {
    let server = UdpSocket::bind("127.7.2.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let (to, port) = (ip("127.7.2.1"), server.local_addr().unwrap().port());
    let process = Process::new(r#"{"mode":"all"}"#, Lab::default());
    let mut guest = process.guest();
    let good = udp(GUEST, to, port, b"good");
    answers(&mut guest, &good);
    let mut data = [0; 99];
    guest.until(|_| server.recv(&mut data).is_ok());
    let with = |at: usize, byte: u8| {
        let mut frame = good.clone();
        frame[at] = byte;
        frame
    };
    let mut options = good.clone();
    options.splice(34..34, [0x83, 7, 4, 1, 2, 3, 4, 0]); // a loose source route
    options[14] = 0x47;
    options[17] += 8;
    let mut six = ethernet(EthernetProtocol::Ipv6, &[0x60, 0, 0, 0, 0, 8, 17, 64]);
    six.extend_from_slice(&[0; 40]);
    for (what, frame) in [
        ("the first part of a packet", mended(with(20, 0x20))),
        ("a later part", mended(with(21, 0x01))),
        ("options", mended(options)),
        ("another's address", udp(ip("192.0.0.3"), to, port, b"bad")),
        ("no address", udp(ip("0.0.0.0"), to, port, b"bad")),
        ("the gateway's address", udp(GATEWAY, to, port, b"bad")),
        ("a public address", udp(ip("9.9.9.9"), to, port, b"bad")),
        ("another's hardware address", with(11, 0x77)),
        ("a frame to somebody else", with(5, 0x77)),
        ("a wrong checksum", with(24, 0xff)),
        ("a wrong checksum of UDP", with(40, 0xff)),
        ("version 6 in a packet of 4", mended(with(14, 0x65))),
        ("longer than it is", mended(with(16, 0x50))),
        ("IPv6", six),
        ("ICMP to elsewhere", echo(to)),
        ("another protocol", ipv4(GUEST, to, IpProtocol::from(47), b"gre")),
        ("another protocol, to the gateway", ipv4(GUEST, GATEWAY, IpProtocol::from(50), b"esp")),
        ("a neighbour's hardware address", arp(ip("192.0.0.3"))),
        ("whether its own address is taken", arp(GUEST)),
        ("nothing at all", vec![]),
        ("half a header", good[..20].to_vec()),
    ] {
        assert_eq!(answers(&mut guest, &frame), 0, "{what}");
        assert!(server.recv(&mut data).is_err(), "{what}");
    }
    assert_eq!(answers(&mut guest, &echo(GATEWAY)), 1, "the gateway answers");
    answers(&mut guest, &good);
    guest.until(|_| server.recv(&mut data).is_ok());
}

#[test]
fn a_stream_that_is_no_stream_of_frames_ends_and_the_next_one_works() {
    use std::io::{Read, Write};
    let process = Process::new(r#"{"mode":"none"}"#, Lab::default());
    for bytes in [&[0xff; 64][..], &[0, 1, 0, 1, 0], &[0x7f, 0xff, 0xff, 0xff]] {
        let mut stream = UnixStream::connect(process.folder.join("link")).unwrap();
        stream.write_all(bytes).unwrap();
        assert!(matches!(stream.read(&mut [0; 9]), Ok(0) | Err(_)), "hung up on");
    }
    answers(&mut process.guest(), &arp(GATEWAY));
}

/// A network without a process around it: whatever it is given, it must not panic, and must answer afterwards.
struct Bare {
    network: Network<Lab>,
    _waker: UnixStream,
}

impl Bare {
    fn new() -> Self {
        let (waker, other) = UnixStream::pair().unwrap();
        let mut network = Network::new(Arc::new(Lab::new(&[("good.test", "127.7.2.2")])), MAC, &other).unwrap();
        let document = r#"{"mode":"listed","names":[{"name":"*.test"}],"ranges":[{"net":"127.7.2.0","bits":24}]}"#;
        network.set_policy(Policy::try_from(serde_json::from_str::<Document>(document).unwrap()).unwrap());
        Self { network, _waker: waker }
    }

    fn give(&mut self, frame: &[u8]) {
        self.network.frame(Instant::now(), frame);
        self.network.turn(Instant::now());
        let ready: Vec<_> = self.network.waits().map(|(what, ..)| what).collect();
        ready.into_iter().for_each(|what| self.network.ready(Instant::now(), what));
        self.network.turn(Instant::now());
    }

    fn lives(&mut self) -> bool {
        self.network.out().clear();
        self.give(&arp(GATEWAY));
        !self.network.out().is_empty()
    }
}

fn seeds(port: u16) -> Vec<Vec<u8>> {
    let to = ip("127.7.2.2");
    let discover = {
        let mut message = vec![0; 300];
        message[..4].copy_from_slice(&[1, 1, 6, 0]);
        message[28..34].copy_from_slice(MAC.as_bytes());
        message[236..246].copy_from_slice(&[99, 130, 83, 99, 53, 1, 1, 55, 1, 3]);
        message[246] = 255;
        message
    };
    vec![
        arp(GATEWAY),
        echo(GATEWAY),
        udp(GUEST, to, port, b"data"),
        udp(GUEST, GATEWAY, 53, &question("good.test", 1)),
        udp(ip("0.0.0.0"), ip("255.255.255.255"), 67, &discover),
        tcp(to, port, 5000, TcpControl::Syn, None, &[]),
        tcp(to, port, 5000, TcpControl::None, Some(7), b"data"),
        tcp(to, port, 5000, TcpControl::Fin, Some(7), b"data"),
        tcp(to, port, 5000, TcpControl::Rst, None, &[]),
        tcp(to, port, 5001, TcpControl::Syn, Some(3), b"data"),
        tcp(GATEWAY, 53, 5002, TcpControl::Syn, None, &[]),
    ]
}

#[derive(Clone, Debug)]
enum Hostile {
    Noise(Vec<u8>),
    /// A seed, bytes changed in it, whether its checksum is made good, its length.
    Changed(usize, Vec<(usize, u8)>, bool, Option<usize>),
}

fn hostile() -> impl Strategy<Value = Hostile> {
    let bytes = prop::collection::vec((14_usize..80, any::<u8>()), 0..6);
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Hostile::Noise),
        6 => (0_usize..11, bytes, any::<bool>(), prop::option::of(14_usize..120))
            .prop_map(|(seed, bytes, mend, length)| Hostile::Changed(seed, bytes, mend, length)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_row_of_frames_ends_it(row in prop::collection::vec(hostile(), 1..200)) {
        let listener = std::net::TcpListener::bind("127.7.2.2:0").unwrap();
        let seeds = seeds(listener.local_addr().unwrap().port());
        let mut bare = Bare::new();
        for each in row {
            let frame = match each {
                Hostile::Noise(noise) => [OURS.as_bytes(), MAC.as_bytes(), &[8, 0], &noise].concat(),
                Hostile::Changed(seed, bytes, mend, length) => {
                    let mut frame = seeds[seed].clone();
                    for (at, byte) in bytes {
                        let at = at % frame.len();
                        frame[at] = byte;
                    }
                    if let Some(length) = length {
                        frame.resize(length, 0);
                    }
                    if mend && frame.len() >= 34 && frame[14] == 0x45 { sealed(frame) } else { frame }
                }
            };
            bare.give(&frame);
        }
        prop_assert!(bare.lives());
    }
}

/// With good checksums, as far as the lengths it claims let us make them.
fn sealed(mut frame: Vec<u8>) -> Vec<u8> {
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
    packet.fill_checksum();
    let whole = usize::from(packet.total_len());
    let (from, to, kind) = (packet.src_addr(), packet.dst_addr(), packet.next_header());
    let length = frame.len() - 14;
    let Some(payload) = frame.get_mut(34..14 + whole.clamp(20, length)) else { return frame };
    match kind {
        IpProtocol::Tcp if payload.len() >= 20 => {
            TcpPacket::new_unchecked(payload).fill_checksum(&from.into(), &to.into());
        }
        IpProtocol::Udp if payload.len() >= 8 => {
            payload[6..8].copy_from_slice(&[0, 0]); // none
        }
        _ => {}
    }
    frame
}
