//! The guest's address: always the same, so that one that was suspended finds its own again.

use std::net::Ipv4Addr;

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr};

use crate::link::{GATEWAY, GUEST, MASK};

/// Where servers listen, and clients.
pub const SERVER: u16 = 67;
/// Where clients listen.
pub const CLIENT: u16 = 68;
const DAY: u32 = 86400;
const DNS_SERVER: u8 = 6; // RFC 2132

/// The answer to a client's message, and the address to send it to; `None` where there is nothing to say.
pub fn answer(untrusted_message: &[u8]) -> Option<(Ipv4Addr, Vec<u8>)> {
    let packet = DhcpPacket::new_checked(untrusted_message).ok()?;
    let asked = DhcpRepr::parse(&packet).ok()?;
    let wanted = asked.requested_ip.unwrap_or(asked.client_ip);
    let kind = match asked.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request if asked.server_identifier.is_some_and(|server| server != GATEWAY) => return None,
        DhcpMessageType::Request if wanted != GUEST => DhcpMessageType::Nak,
        DhcpMessageType::Request | DhcpMessageType::Inform => DhcpMessageType::Ack,
        _ => return None,
    };
    let given = !matches!(kind, DhcpMessageType::Nak);
    let leased = given && asked.message_type != DhcpMessageType::Inform;
    let dns = DhcpOption { kind: DNS_SERVER, data: &GATEWAY.octets() };
    let answer = DhcpRepr {
        message_type: kind,
        transaction_id: asked.transaction_id,
        secs: 0,
        client_hardware_address: asked.client_hardware_address,
        client_ip: if given { asked.client_ip } else { Ipv4Addr::UNSPECIFIED },
        your_ip: if leased { GUEST } else { Ipv4Addr::UNSPECIFIED },
        server_ip: GATEWAY,
        router: given.then_some(GATEWAY),
        subnet_mask: given.then_some(MASK),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: asked.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(GATEWAY),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: leased.then_some(DAY),
        renew_duration: None,
        rebind_duration: None,
        additional_options: if given { std::slice::from_ref(&dns) } else { &[] },
    };
    let mut made = vec![0; answer.buffer_len()];
    answer.emit(&mut DhcpPacket::new_unchecked(&mut made)).ok()?;
    let to = if asked.client_ip == GUEST && given { GUEST } else { Ipv4Addr::BROADCAST };
    Some((to, made))
}
