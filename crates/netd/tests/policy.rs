//! A guest that tries to get past the policy, and what is allowed to it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod guest;

use std::net::UdpSocket;
use std::sync::atomic::Ordering;
use std::thread;

use guest::{Guest, Lab, Process, Tried, echoing, ip, question};
use smoltcp::socket::tcp::State;
use twofold_netd::link::GATEWAY;

const NAMED: &str = r#"{"mode":"listed","names":[{"name":"good.test"},{"name":"*.cdn.test"}]}"#;
const NONE: &str = r#"{"mode":"none"}"#;
const ALL: &str = r#"{"mode":"all"}"#;
const UNKNOWN: u8 = 3;

fn listed(rest: &str) -> String {
    format!(r#"{{"mode":"listed",{rest}}}"#)
}

fn pair(policy: &str, names: &[(&str, &str)]) -> (Process, Guest) {
    let process = Process::new(policy, Lab::new(names));
    let guest = process.guest();
    (process, guest)
}

#[test]
fn an_allowed_name_leads_to_its_address_and_nothing_else_does() {
    let (port, came) = echoing("127.7.0.1");
    let (_process, mut guest) =
        pair(NAMED, &[("good.test", "127.7.0.1"), ("a.cdn.test", "127.7.0.2"), ("evil.test", "127.7.0.1")]);
    assert_eq!(guest.try_tcp(ip("127.7.0.1"), port), Tried::Reset, "an address that no name led to");
    assert_eq!(guest.ask("evil.test", 1), (UNKNOWN, vec![]));
    assert_eq!(guest.ask("good.test.evil.test", 1), (UNKNOWN, vec![]));
    assert_eq!(guest.try_tcp(ip("127.7.0.1"), port), Tried::Reset, "a forbidden name opens nothing");
    assert_eq!(came.load(Ordering::SeqCst), 0);
    assert_eq!(guest.ask("GOOD.test", 1), (0, vec![ip("127.7.0.1")]));
    assert_eq!(guest.ask("a.cdn.test", 1), (0, vec![ip("127.7.0.2")]));
    let (handle, tried) = guest.connect(ip("127.7.0.1"), port);
    assert_eq!(tried, Tried::Open);
    assert!(guest.echo(handle, &[7; 100_000]));
    assert_eq!(guest.try_tcp(ip("127.7.0.3"), port), Tried::Reset, "its neighbour");
    for kind in [28, 16, 65] {
        assert_eq!(guest.ask("good.test", kind), (0, vec![]), "no IPv6, no text, no HTTPS record");
        assert_eq!(guest.ask("evil.test", kind), (UNKNOWN, vec![]));
    }
    assert_eq!(guest.ask("missing.cdn.test", 1), (UNKNOWN, vec![]));
}

#[test]
fn ports_hold_for_names_and_ranges() {
    let (port, _) = echoing("127.7.0.4");
    let (other, came) = echoing("127.7.0.4");
    let policy = listed(&format!(r#""names":[{{"name":"good.test","ports":[[{port},{port}]]}}]"#));
    let (process, mut guest) = pair(&policy, &[("good.test", "127.7.0.4")]);
    guest.ask("good.test", 1);
    assert_eq!(guest.try_tcp(ip("127.7.0.4"), port), Tried::Open);
    assert_eq!(guest.try_tcp(ip("127.7.0.4"), other), Tried::Reset);
    process.set(&listed(&format!(r#""ranges":[{{"net":"127.7.0.4","bits":32,"ports":[[{port},{port}]]}}]"#)));
    assert_eq!(guest.try_tcp(ip("127.7.0.4"), port), Tried::Open);
    assert_eq!(guest.try_tcp(ip("127.7.0.4"), other), Tried::Reset);
    assert_eq!(came.load(Ordering::SeqCst), 0);
}

#[test]
fn a_name_that_points_inwards_leads_nowhere() {
    let (port, came) = echoing("127.0.0.1");
    let lab = Lab::default();
    let process = Process::new(NAMED, lab.clone());
    let mut guest = process.guest();
    for (number, address) in [
        "127.0.0.1",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "192.0.0.1",
        "127.8.0.1",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("n{number}.cdn.test");
        lab.0.lock().unwrap().insert(name.clone(), vec![ip(address)]);
        assert_eq!(guest.ask(&name, 1), (UNKNOWN, vec![]), "{address}");
        if !["0.0.0.0", "224.0.0.1"].contains(&address) {
            assert_eq!(guest.try_tcp(ip(address), port), Tried::Reset, "{address}"); // the others are no peer for any stack
        }
    }
    // The name is good at first, and then points inwards: what it led to before does not matter.
    lab.0.lock().unwrap().insert("good.test".into(), vec![ip("127.7.0.9"), ip("127.0.0.1")]);
    assert_eq!(guest.ask("good.test", 1), (0, vec![ip("127.7.0.9")]), "what is public of it");
    assert_eq!(guest.try_tcp(ip("127.0.0.1"), port), Tried::Reset);
    assert_eq!(came.load(Ordering::SeqCst), 0);
    // A company that means its private network says so.
    let (private, _) = echoing("127.8.0.1");
    process.set(&listed(r#""names":[{"name":"*.cdn.test"}],"ranges":[{"net":"127.8.0.0","bits":16}]"#));
    assert_eq!(guest.ask("n9.cdn.test", 1), (0, vec![ip("127.8.0.1")]));
    assert_eq!(guest.try_tcp(ip("127.8.0.1"), private), Tried::Open);
}

#[test]
fn neither_the_host_nor_another_resolver_is_reached() {
    let (port, came) = echoing("127.0.0.1");
    let resolver = UdpSocket::bind("127.7.0.10:0").unwrap();
    resolver.set_nonblocking(true).unwrap();
    for policy in [NONE, NAMED, ALL] {
        let (_process, mut guest) = pair(policy, &[("good.test", "127.7.0.1")]);
        for address in [GATEWAY, ip("127.0.0.1"), ip("127.1.2.3"), ip("169.254.169.254"), ip("192.0.0.9")] {
            assert_eq!(guest.try_tcp(address, port), Tried::Reset, "{address} under {policy}");
        }
        assert_eq!(guest.try_tcp(GATEWAY, 53), Tried::Reset, "DNS over TCP");
        assert_eq!(guest.try_tcp(GATEWAY, 853), Tried::Reset, "DNS over TLS");
        if policy != ALL {
            let handle = guest.bind_udp();
            let to = resolver.local_addr().unwrap().port();
            assert_eq!(guest.datagram(handle, ip("127.7.0.10"), to, &question("good.test", 1)), None);
            assert_eq!(guest.try_tcp(ip("127.7.0.10"), 443), Tried::Reset, "DNS over HTTPS by a resolver's address");
            assert_eq!(resolver.recv(&mut [0; 99]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        }
    }
    assert_eq!(came.load(Ordering::SeqCst), 0);
}

#[test]
fn none_reaches_nothing_and_all_reaches_what_is_not_the_host() {
    let (public, _) = echoing("127.7.0.11");
    let (private, _) = echoing("127.8.0.11");
    let (process, mut guest) = pair(NONE, &[("any.test", "127.7.0.11")]);
    assert_eq!(guest.ask("any.test", 1), (UNKNOWN, vec![]));
    for (address, port) in [("127.7.0.11", public), ("127.8.0.11", private)] {
        assert_eq!(guest.try_tcp(ip(address), port), Tried::Reset);
    }
    process.set(ALL);
    assert_eq!(guest.ask("any.test", 1), (0, vec![ip("127.7.0.11")]));
    for (address, port) in [("127.7.0.11", public), ("127.8.0.11", private)] {
        assert_eq!(guest.try_tcp(ip(address), port), Tried::Open);
    }
}

#[test]
fn datagrams_pass_where_they_may_and_are_refused_at_once_where_not() {
    let server = UdpSocket::bind("127.7.0.12:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let (process, mut guest) = pair(NAMED, &[("good.test", "127.7.0.12")]);
    let handle = guest.bind_udp();
    guest.card.keep = true;
    assert_eq!(guest.datagram(handle, ip("127.7.0.12"), port, b"early"), None);
    let refusal = |frame: &Vec<u8>| frame[23] == 1 && frame[34..36] == [3, 13];
    assert!(guest.card.seen.iter().any(refusal), "administratively prohibited");
    guest.ask("good.test", 1);
    let echo = thread::spawn(move || {
        let mut data = [0; 2000];
        loop {
            let (length, peer) = server.recv_from(&mut data).unwrap();
            if &data[..length] == b"end" {
                return;
            }
            server.send_to(&data[..length], peer).unwrap();
        }
    });
    for length in [1, 100, 1400] {
        assert_eq!(guest.datagram(handle, ip("127.7.0.12"), port, &vec![5; length]), Some(vec![5; length]));
    }
    process.set(NONE);
    assert_eq!(guest.datagram(handle, ip("127.7.0.12"), port, b"late"), None, "its pair was cut");
    process.set(ALL);
    guest.datagram(handle, ip("127.7.0.12"), port, b"end");
    echo.join().unwrap();
}

#[test]
fn a_changed_policy_cuts_what_it_does_not_allow_and_nothing_else() {
    let (one, _) = echoing("127.7.0.13");
    let (two, _) = echoing("127.7.0.14");
    let both = [("good.test", "127.7.0.13"), ("x.cdn.test", "127.7.0.14")];
    let (process, mut guest) = pair(NAMED, &both);
    guest.ask("good.test", 1);
    guest.ask("x.cdn.test", 1);
    let (kept, _) = guest.connect(ip("127.7.0.13"), one);
    let (cut, _) = guest.connect(ip("127.7.0.14"), two);
    assert!(guest.echo(kept, b"hello") && guest.echo(cut, b"hello"));
    for broken in [r#"{"mode":"some"}"#, r#"{"mode":"listed","names":[{"name":"good.test","port":1}]}"#, "7"] {
        assert!(process.call("policy", &format!("{{\"policy\":{broken}}}")).contains("error"), "{broken}");
    }
    assert!(guest.echo(cut, b"still here"), "a policy that is not understood changes nothing");
    process.set(&listed(r#""names":[{"name":"good.test"}]"#));
    guest.until(|guest| guest.tcp(cut).state() == State::Closed);
    assert!(guest.echo(kept, b"still here"));
    assert_eq!(guest.try_tcp(ip("127.7.0.14"), two), Tried::Reset);
    process.set(NONE);
    guest.until(|guest| guest.tcp(kept).state() == State::Closed);
}
