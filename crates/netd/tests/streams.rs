//! Many streams, much data, ends and beginnings.

#![allow(clippy::unwrap_used, clippy::panic)]

mod guest;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use guest::{Lab, Process, Tried, echoing, ip};
use smoltcp::socket::{dhcpv4, tcp};
use twofold_netd::link::{GATEWAY, GUEST};

const ALL: &str = r#"{"mode":"all"}"#;

#[test]
fn four_hundred_streams_at_once_each_get_their_own_bytes_back() {
    let (port, _) = echoing("127.7.1.1");
    let process = Process::new(ALL, Lab::default());
    let mut guest = process.guest();
    let handles: Vec<_> = (0..400).map(|_| guest.begin(ip("127.7.1.1"), port)).collect();
    let data =
        |number: usize| (0..3000).map(|at| u8::try_from((at * 7 + number * 31) % 251).unwrap()).collect::<Vec<u8>>();
    let mut back = vec![Vec::new(); handles.len()];
    let mut sent = vec![false; handles.len()];
    let done = guest.within(Duration::from_secs(20), |guest| {
        let mut whole = true;
        for (number, handle) in handles.iter().enumerate() {
            let socket = guest.tcp(*handle);
            if !sent[number] && socket.can_send() {
                sent[number] = socket.send_slice(&data(number)).unwrap() == 3000;
            }
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), back[number].extend_from_slice(bytes))).unwrap();
            }
            whole &= back[number].len() == 3000;
        }
        whole
    });
    assert!(done, "{} of them", back.iter().filter(|each| each.len() == 3000).count());
    assert!(back.iter().enumerate().all(|(number, each)| *each == data(number)));
    assert!(process.call("status", "{}").contains("\"tcp\":400"));
    handles.iter().for_each(|handle| guest.tcp(*handle).close());
    guest.until(|_| process.call("status", "{}").contains("\"tcp\":0"));
}

#[test]
fn much_passes_both_ways_whole_and_ends_as_it_should() {
    const SIZE: usize = 24 << 20;
    let listener = TcpListener::bind("127.7.1.2:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap(); // up to the guest's end
        stream.write_all(&got).unwrap();
        got.len()
    });
    let process = Process::new(ALL, Lab::default());
    let mut guest = process.guest();
    let (handle, tried) = guest.connect(ip("127.7.1.2"), port);
    assert_eq!(tried, Tried::Open);
    let (began, mut sent, mut got) = (Instant::now(), 0, 0);
    let byte = |at: usize| u8::try_from(at % 253).unwrap();
    let whole = guest.within(Duration::from_secs(40), |guest| {
        for _ in 0..50 {
            let socket = guest.tcp(handle);
            while socket.can_send() && sent < SIZE {
                sent += socket
                    .send(|room| {
                        let length = room.len().min(SIZE - sent);
                        room[..length].iter_mut().enumerate().for_each(|(at, each)| *each = byte(sent + at));
                        (length, length)
                    })
                    .unwrap();
                if sent == SIZE {
                    socket.close();
                }
            }
            while socket.can_recv() {
                got += socket
                    .recv(|bytes| {
                        assert!(bytes.iter().enumerate().all(|(at, each)| *each == byte(got + at)));
                        (bytes.len(), bytes.len())
                    })
                    .unwrap();
            }
            guest.turn();
        }
        got == SIZE && !guest.tcp(handle).may_recv()
    });
    assert!(whole, "{sent} sent, {got} came back");
    assert_eq!(server.join().unwrap(), SIZE);
    let rate = (2 * SIZE) as f64 / began.elapsed().as_secs_f64() / 1e6;
    println!("{rate:.0} MB/s, both ends on this machine");
    assert!(rate > 4.0, "{rate} MB/s");
}

#[test]
fn what_the_world_refuses_or_resets_is_reset_for_the_guest() {
    let listener = TcpListener::bind("127.7.1.3:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let process = Process::new(ALL, Lab::default());
    let mut guest = process.guest();
    let (handle, _) = guest.connect(ip("127.7.1.3"), port);
    let stream = listener.accept().unwrap().0;
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    guest.until(|guest| guest.tcp(handle).state() == tcp::State::Closed);
    let (handle, _) = guest.connect(ip("127.7.1.3"), port);
    let mut stream = listener.accept().unwrap().0;
    guest.tcp(handle).abort();
    guest.turn();
    assert_eq!(stream.read(&mut [0; 9]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    drop(listener);
    assert_eq!(guest.try_tcp(ip("127.7.1.3"), port), Tried::Reset);
}

#[test]
fn a_machine_that_comes_back_finds_its_connections_reset_and_its_address_kept() {
    let (port, _) = echoing("127.7.1.4");
    let process = Process::new(ALL, Lab::default());
    let mut guest = process.guest();
    let (handle, _) = guest.connect(ip("127.7.1.4"), port);
    assert!(guest.echo(handle, b"before"));
    // Its QEMU ends, and another begins with the same guest: the connection is the guest's memory alone.
    let fresh = process.guest();
    let former = std::mem::replace(&mut guest.card, fresh.card);
    drop(former);
    guest.until(|_| process.call("status", "{}").contains("\"tcp\":0"));
    guest.tcp(handle).send_slice(b"after").unwrap();
    guest.until(|guest| guest.tcp(handle).state() == tcp::State::Closed);
    let (handle, tried) = guest.connect(ip("127.7.1.4"), port);
    assert!(tried == Tried::Open && guest.echo(handle, b"anew"));
    let lease = guest.sockets.add(dhcpv4::Socket::new());
    let mut given = None;
    guest.until(|guest| {
        if let Some(dhcpv4::Event::Configured(config)) = guest.sockets.get_mut::<dhcpv4::Socket<'_>>(lease).poll() {
            given = Some((config.address.address(), config.router, config.dns_servers.first().copied()));
        }
        given.is_some()
    });
    assert_eq!(given, Some((GUEST, Some(GATEWAY), Some(GATEWAY))));
}
