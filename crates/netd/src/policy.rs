//! What the guest may reach. The company writes it as one line (`src/twofold/model/policy.py`); the agent hands it over as a
//! document, which is validated here again.

use std::net::Ipv4Addr;

use serde::Deserialize;

/// Entries that a policy may have.
const MOST: usize = 4096;

/// Where an address lies, seen from this machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Anywhere on the internet.
    Public,
    /// A network that is not routed on the internet: the company's own, or the person's.
    Private,
    /// This machine, or what only its neighbours answer: loopback, link-local (cloud metadata too), its own addresses.
    Host,
    /// No peer: multicast, reserved, and the link between the guest and us.
    Never,
}

/// Where an address lies by its number alone.
pub fn place(address: Ipv4Addr) -> Place {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (0 | 224..=255, _, _) | (192, 0, 0) => Place::Never,
        (127, _, _) | (169, 254, _) => Place::Host,
        (10, _, _) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) | (198, 18..=19, _) => Place::Private,
        _ => Place::Public,
    }
}

/// The ranges of ports that an entry opens; none said: all.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(transparent)]
struct Ports(Vec<(u16, u16)>);

impl Ports {
    fn has(&self, port: u16) -> bool {
        self.0.is_empty() || self.0.iter().any(|(low, high)| (*low..=*high).contains(&port))
    }
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
struct Name {
    /// In small letters; `*.` in front stands for one label or more.
    name: String,
    #[serde(default)]
    ports: Ports,
}

impl Name {
    fn is(&self, name: &str) -> bool {
        match self.name.strip_prefix("*.") {
            Some(domain) => name.strip_suffix(domain).is_some_and(|front| front.len() > 1 && front.ends_with('.')),
            None => self.name == name,
        }
    }
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
struct Range {
    net: Ipv4Addr,
    bits: u8,
    #[serde(default)]
    ports: Ports,
}

impl Range {
    fn has(&self, address: Ipv4Addr) -> bool {
        (u32::from(address) ^ u32::from(self.net)).checked_shr(32 - u32::from(self.bits)).unwrap_or(0) == 0
    }

    /// Whether it means this machine: a wide range that happens to have it within does not.
    fn means_host(&self) -> bool {
        self.bits == 32
            || (place(self.net) == Place::Host && self.bits >= if self.net.octets()[0] == 127 { 8 } else { 16 })
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    None,
    Listed,
    All,
}

/// A policy as it comes; `Policy::try_from` validates it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    mode: Mode,
    #[serde(default)]
    names: Vec<Name>,
    #[serde(default)]
    ranges: Vec<Range>,
}

/// A valid policy. The default reaches nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Policy {
    mode: Mode,
    names: Vec<Name>,
    ranges: Vec<Range>,
}

impl TryFrom<Document> for Policy {
    type Error = &'static str;

    fn try_from(untrusted: Document) -> Result<Self, Self::Error> {
        let Document { mode, names, ranges } = untrusted;
        if names.len() + ranges.len() > MOST {
            return Err("the policy has too many entries");
        }
        if mode != Mode::Listed && names.len() + ranges.len() > 0 {
            return Err("only a policy of the mode 'listed' has entries");
        }
        let ordered = |ports: &Ports| ports.0.len() <= 64 && ports.0.iter().all(|(low, high)| 0 < *low && low <= high);
        let text = |name: &Name| valid_name(name.name.strip_prefix("*.").unwrap_or(&name.name));
        if !names.iter().all(|name| text(name) && ordered(&name.ports)) {
            return Err("a name of the policy is none");
        }
        let aligned = |range: &Range| {
            range.bits <= 32 && u32::from(range.net).checked_shl(u32::from(range.bits)).unwrap_or(0) == 0
        };
        if !ranges.iter().all(|range| aligned(range) && ordered(&range.ports)) {
            return Err("a range of the policy is none");
        }
        Ok(Self { mode, names, ranges })
    }
}

/// Whether `name` is a host's name in small letters, as the DNS has it, without a dot at its end.
pub fn valid_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(label)
}

impl Policy {
    /// Whether the guest may ask for a name at all.
    pub fn name(&self, name: &str) -> bool {
        self.mode == Mode::All || self.names.iter().any(|entry| entry.is(name))
    }

    /// Whether an address that `name` resolved to may be reached at this port because of the name. What is not public is not
    /// reached by its name alone: whoever holds the name could point it there (DNS rebinding).
    pub fn by_name(&self, name: &str, port: u16, place: Place) -> bool {
        place == Place::Public && self.names.iter().any(|entry| entry.is(name) && entry.ports.has(port))
    }

    /// Whether an address may be reached without a name; `port` none: at some port.
    pub fn by_address(&self, address: Ipv4Addr, port: Option<u16>, place: Place) -> bool {
        let listed = |range: &&Range| range.has(address) && port.is_none_or(|port| range.ports.has(port));
        match place {
            Place::Never => false,
            Place::Host => self.ranges.iter().filter(listed).any(Range::means_host),
            Place::Private | Place::Public => self.mode == Mode::All || self.ranges.iter().any(|range| listed(&range)),
        }
    }

    /// Whether an address may be given to the guest as that of an allowed name.
    pub fn may_tell(&self, address: Ipv4Addr, place: Place) -> bool {
        place == Place::Public || self.by_address(address, None, place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<Policy, &'static str> {
        Policy::try_from(serde_json::from_str::<Document>(text).map_err(|_| "no document")?)
    }

    fn at(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_not_understood_is_refused_whole() {
        for text in [
            "{}",
            "[]",
            r#"{"mode":"some"}"#,
            r#"{"mode":"listed","x":1}"#,
            r#"{"mode":"none","names":[{"name":"a.b"}]}"#,
            r#"{"mode":"all","ranges":[{"net":"10.0.0.0","bits":8}]}"#,
            r#"{"mode":"listed","names":[{"name":"A.b"}]}"#,
            r#"{"mode":"listed","names":[{"name":"a..b"}]}"#,
            r#"{"mode":"listed","names":[{"name":"a.*.b"}]}"#,
            r#"{"mode":"listed","names":[{"name":"*"}]}"#,
            r#"{"mode":"listed","names":[{"name":""}]}"#,
            r#"{"mode":"listed","ranges":[{"net":"10.0.0.1","bits":8}]}"#,
            r#"{"mode":"listed","ranges":[{"net":"10.0.0.0","bits":33}]}"#,
            r#"{"mode":"listed","ranges":[{"net":"::1","bits":8}]}"#,
            r#"{"mode":"listed","names":[{"name":"a.b","ports":[[9,8]]}]}"#,
            r#"{"mode":"listed","names":[{"name":"a.b","ports":[[0,8]]}]}"#,
        ] {
            assert!(policy(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_star_stands_for_labels_and_never_for_a_part_of_one() {
        let policy = policy(r#"{"mode":"listed","names":[{"name":"*.good.org"},{"name":"one.net"}]}"#).unwrap();
        for name in ["a.good.org", "a.b.good.org", "one.net"] {
            assert!(policy.name(name), "{name}");
        }
        for name in
            ["good.org", "evilgood.org", ".good.org", "a.good.org.evil.net", "a.one.net", "org", "", "good.org."]
        {
            assert!(!policy.name(name), "{name}");
        }
    }

    #[test]
    fn the_host_is_reached_only_where_a_range_means_it() {
        let wide = policy(r#"{"mode":"listed","ranges":[{"net":"0.0.0.0","bits":0}]}"#).unwrap();
        let all = policy(r#"{"mode":"all"}"#).unwrap();
        for policy in [&wide, &all] {
            for (address, reached) in [
                ("127.0.0.1", false),
                ("127.9.9.9", false),
                ("169.254.169.254", false),
                ("0.0.0.0", false),
                ("224.0.0.251", false),
                ("255.255.255.255", false),
                ("192.0.0.1", false),
                ("10.1.2.3", true),
                ("192.168.1.1", true),
                ("9.9.9.9", true),
            ] {
                assert_eq!(policy.by_address(at(address), Some(80), place(at(address))), reached, "{address}");
            }
        }
        let named = r#"{"mode":"listed","ranges":[{"net":"127.0.0.0","bits":8,"ports":[[80,81]]},{"net":"192.168.7.0","bits":24},
            {"net":"192.168.7.5","bits":32}]}"#;
        let named = policy(named).unwrap();
        assert!(named.by_address(at("127.0.0.1"), Some(81), Place::Host));
        assert!(!named.by_address(at("127.0.0.1"), Some(82), Place::Host));
        assert!(!named.by_address(at("192.168.7.4"), Some(82), Place::Host), "an address of this machine's own");
        assert!(named.by_address(at("192.168.7.5"), Some(82), Place::Host));
    }

    #[test]
    fn a_name_alone_opens_no_private_address() {
        let policy = policy(r#"{"mode":"listed","names":[{"name":"a.org","ports":[[443,443]]}],"ranges":[{"net":"10.2.0.0","bits":16}]}"#)
            .unwrap();
        for (address, told) in [("9.9.9.9", true), ("10.2.0.9", true), ("10.3.0.9", false), ("127.0.0.1", false)] {
            assert_eq!(policy.may_tell(at(address), place(at(address))), told, "{address}");
        }
        assert!(policy.by_name("a.org", 443, Place::Public) && !policy.by_name("a.org", 80, Place::Public));
        for place in [Place::Private, Place::Host, Place::Never] {
            assert!(!policy.by_name("a.org", 443, place));
        }
    }
}
