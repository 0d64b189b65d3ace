//! The link to the guest: QEMU's stream of Ethernet frames, each behind its length in four bytes, the highest first
//! (`-netdev stream`).

use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

/// The network between the guest and us (RFC 7335): no other network has these addresses, so that none is hidden by it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);
/// The guest.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
/// Of that network.
pub const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 248);
/// Our own hardware address.
pub const OURS: EthernetAddress = EthernetAddress([0x52, 0x54, 0x00, 0x74, 0x66, 0x01]);
/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of a packet.
pub const MTU: usize = 1500;
/// Bytes of UDP that fit a packet.
pub const UDP_ROOM: usize = MTU - 28;

const LONGEST: usize = 64 << 10;
/// Bytes that may wait for the guest; more is not made, or dropped.
const WAITING: usize = 1 << 20;

/// What checksums are made and looked at: all that there are.
pub fn checks() -> ChecksumCapabilities {
    ChecksumCapabilities::default()
}

/// Frames on their way to the guest.
#[derive(Debug)]
pub struct Out {
    guest: EthernetAddress,
    bytes: Vec<u8>,
    sent: usize,
}

impl Out {
    /// None yet.
    pub fn new(guest: EthernetAddress) -> Self {
        Self { guest, bytes: Vec::new(), sent: 0 }
    }

    /// The guest's hardware address.
    pub fn guest(&self) -> EthernetAddress {
        self.guest
    }

    /// Whether no more should be made now.
    pub fn full(&self) -> bool {
        self.bytes.len() - self.sent > WAITING
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.len() == self.sent
    }

    /// One frame to the guest with a payload of `length` bytes, written by `fill`.
    pub fn frame<R>(&mut self, kind: EthernetProtocol, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let whole = ETHERNET + length;
        self.bytes.extend_from_slice(&u32::try_from(whole).unwrap_or(0).to_be_bytes());
        let at = self.bytes.len();
        self.bytes.resize(at + whole, 0);
        let mut frame = EthernetFrame::new_unchecked(&mut self.bytes[at..]);
        frame.set_src_addr(OURS);
        frame.set_dst_addr(self.guest);
        frame.set_ethertype(kind);
        fill(frame.payload_mut())
    }

    /// One IPv4 packet to the guest.
    pub fn packet(
        &mut self,
        from: Ipv4Addr,
        to: Ipv4Addr,
        kind: IpProtocol,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        if self.full() {
            return;
        }
        let header = Ipv4Repr { src_addr: from, dst_addr: to, next_header: kind, payload_len: length, hop_limit: 64 };
        self.frame(EthernetProtocol::Ipv4, header.buffer_len() + length, |bytes| {
            let mut packet = Ipv4Packet::new_unchecked(bytes);
            header.emit(&mut packet, &checks());
            fill(packet.payload_mut());
        });
    }

    /// One datagram to the guest; what is too long for a packet is dropped.
    pub fn datagram(&mut self, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), data: &[u8]) {
        if data.len() > UDP_ROOM {
            return;
        }
        self.packet(from.0, to.0, IpProtocol::Udp, 8 + data.len(), |bytes| {
            UdpRepr { src_port: from.1, dst_port: to.1 }.emit(
                &mut UdpPacket::new_unchecked(bytes),
                &from.0.into(),
                &to.0.into(),
                data.len(),
                |room| room.copy_from_slice(data),
                &checks(),
            );
        });
    }

    /// Forget all: there is no guest any more.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }

    fn flush(&mut self, mut to: &UnixStream) -> std::io::Result<()> {
        while self.sent < self.bytes.len() {
            match to.write(&self.bytes[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(more) => self.sent += more,
                Err(failed) if failed.kind() == ErrorKind::WouldBlock => {
                    if self.sent > WAITING / 4 {
                        self.bytes.drain(..self.sent);
                        self.sent = 0;
                    }
                    return Ok(());
                }
                Err(failed) if failed.kind() == ErrorKind::Interrupted => {}
                Err(failed) => return Err(failed),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        if self.bytes.capacity() > WAITING {
            self.bytes.shrink_to(LONGEST);
        }
        Ok(())
    }
}

/// One connected QEMU.
#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
    bytes: Vec<u8>,
    had: usize,
}

impl Link {
    /// Take a connection.
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, bytes: vec![0; 2 * LONGEST], had: 0 })
    }

    /// To be waited for.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Read what is there, and hand each whole frame over. False where QEMU has gone, or sent what is no frame.
    pub fn receive(&mut self, mut each: impl FnMut(&[u8])) -> bool {
        match self.stream.read(&mut self.bytes[self.had..]) {
            Ok(0) => return false,
            Ok(more) => self.had += more,
            Err(failed) => return matches!(failed.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
        let mut at = 0;
        while let Some(head) = self.bytes[at..self.had].first_chunk::<4>() {
            let length = u32::from_be_bytes(*head) as usize;
            if length > LONGEST {
                return false;
            }
            let Some(untrusted_frame) = self.bytes[at + 4..self.had].get(..length) else { break };
            each(untrusted_frame);
            at += 4 + length;
        }
        self.bytes.copy_within(at..self.had, 0);
        self.had -= at;
        true
    }

    /// Send what waits, as far as QEMU takes it.
    pub fn send(&mut self, out: &mut Out) -> bool {
        out.flush(&self.stream).is_ok()
    }
}
