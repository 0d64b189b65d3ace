//! What lies outside: names that the host system resolves, and where its addresses are.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use crate::policy::{self, Place};

/// Why a name has no address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Nameless {
    /// There is no such name.
    Unknown,
    /// Nobody could be asked.
    Unreachable,
}

/// The host system, as far as this process needs it.
pub trait World: Send + Sync + 'static {
    /// The IPv4 addresses of a name; blocks.
    fn resolve(&self, name: &str) -> Result<Vec<Ipv4Addr>, Nameless>;

    /// Where an address lies.
    fn place(&self, address: Ipv4Addr) -> Place;
}

/// The host system itself.
#[derive(Clone, Copy, Debug)]
pub struct Host;

impl World for Host {
    /// By getaddrinfo(3): its files, its search list, its servers.
    fn resolve(&self, name: &str) -> Result<Vec<Ipv4Addr>, Nameless> {
        let found = (name, 0).to_socket_addrs().map_err(|failed| {
            // The standard library keeps the resolver's word in its text alone (EAI_AGAIN).
            let away = failed.to_string().contains("Temporary failure");
            if away { Nameless::Unreachable } else { Nameless::Unknown }
        })?;
        let mut addresses = Vec::new();
        for address in found {
            match address {
                SocketAddr::V4(address) if !addresses.contains(address.ip()) => addresses.push(*address.ip()),
                _ => {}
            }
        }
        Ok(addresses)
    }

    /// An address is this machine's own if one can be bound to it.
    fn place(&self, address: Ipv4Addr) -> Place {
        match policy::place(address) {
            Place::Private | Place::Public if UdpSocket::bind((address, 0)).is_ok() => Place::Host,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_own_addresses_are_the_host() {
        let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
        if probe.connect("198.51.100.1:9").is_ok() {
            let SocketAddr::V4(own) = probe.local_addr().unwrap() else { unreachable!() };
            assert_eq!(Host.place(*own.ip()), Place::Host);
        }
        assert_eq!(Host.place(Ipv4Addr::LOCALHOST), Place::Host);
        assert_eq!(Host.place(Ipv4Addr::new(198, 51, 100, 1)), Place::Public);
    }

    #[test]
    fn the_host_resolves_names() {
        assert_eq!(Host.resolve("localhost"), Ok(vec![Ipv4Addr::LOCALHOST]));
        assert!(Host.resolve("no-such-name.invalid").is_err());
    }
}
