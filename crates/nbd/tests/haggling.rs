//! The handshake, said byte by byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod client;
mod memory;

use std::io::{Read, Write};
use std::sync::Arc;

use client::{Client, GO, STATUS, go, queries, string};
use memory::Memory;
use twofold_nbd::{Export, Server};

const UNSUPPORTED: u32 = 0x8000_0001;
const INVALID: u32 = 0x8000_0003;
const UNKNOWN: u32 = 0x8000_0006;

fn two() -> Vec<(&'static str, Arc<dyn Export>)> {
    let mut ro = Memory::new(8 << 20);
    ro.read_only = true;
    ro.minimum = 512;
    vec![("disk", Arc::new(Memory::new(1 << 20))), ("sealed", Arc::new(ro))]
}

#[test]
fn go_tells_size_flags_names_and_block_sizes() {
    let mut client = Client::new(two());
    let answers = client.option(6, &go("sealed", &[1, 2, 3, 9]));
    let info: Vec<&[u8]> = answers.iter().filter(|(kind, _)| *kind == 3).map(|(_, data)| &data[..]).collect();
    // has flags, read-only, flush, FUA, cache; no trim, no zeroes
    assert_eq!(info[0], [&[0, 0], &(8u64 << 20).to_be_bytes()[..], &(0b100_0000_1111u16).to_be_bytes()].concat());
    assert_eq!(info[1], b"\0\x01sealed");
    assert_eq!(info[2], b"\0\x02memory");
    assert_eq!(
        info[3],
        [[0, 3, 0, 0, 2, 0], [0, 0, 16, 0, 2, 0]].concat().into_iter().chain([0, 0]).collect::<Vec<_>>()
    );
    assert_eq!(answers.last().unwrap().0, 1);
    // INFO did not end the haggling, and structured replies bring DF
    assert_eq!(client.option(8, &[]), [(1, vec![])]);
    let answers = client.option(GO, &go("disk", &[]));
    assert_eq!(answers[0].1[10..], (0b1100_1110_1101u16).to_be_bytes());
    client.structured = true;
    assert_eq!(client.read(0, 3), [0, 0, 0]);
    client.end().unwrap();
}

#[test]
fn list_names_every_export() {
    let mut client = Client::new(two());
    let answers = client.option(3, &[]);
    assert_eq!(answers[0], (2, [string("disk"), b"memory".to_vec()].concat()));
    assert_eq!(answers[1], (2, [string("sealed"), b"memory".to_vec()].concat()));
    assert_eq!(answers[2], (1, vec![]));
    assert_eq!(client.option(3, b"x")[0].0, INVALID);
    assert_eq!(client.option(2, &[]), [(1, vec![])]);
    assert!(client.serve_ended());
}

#[test]
fn the_old_way_to_choose_works_too() {
    for (flags, length) in [(3u32, 10), (1, 134)] {
        let server = Server::new(1);
        server.insert("disk", Arc::new(Memory::new(4096)));
        let mut client = Client::ungreeted(server);
        client.bytes(18);
        client.send(&flags.to_be_bytes());
        client.send(&[b"IHAVEOPT", &1u32.to_be_bytes()[..], &4u32.to_be_bytes(), b"disk"].concat());
        let chosen = client.bytes(length);
        assert_eq!(chosen[..8], 4096u64.to_be_bytes());
        client.write(1, b"abc");
        assert_eq!(client.ask(client::READ, 0, 0, 5, &[]).data, [(0, b"\0abc\0".to_vec())]);
        client.end().unwrap();
    }
}

#[test]
fn unknown_exports_are_refused_and_the_empty_name_means_the_only_one() {
    let mut client = Client::new(two());
    assert_eq!(client.option(GO, &go("other", &[]))[0].0, UNKNOWN);
    assert_eq!(client.option(GO, &go("", &[]))[0].0, UNKNOWN);
    client.send(&[b"IHAVEOPT", &1u32.to_be_bytes()[..], &5u32.to_be_bytes(), b"other"].concat());
    assert!(client.hung_up().contains("isn't there"));
    let mut client = Client::new(vec![("disk", Arc::new(Memory::new(4096)))]);
    assert_eq!(client.option(GO, &go("", &[])).last().unwrap().0, 1);
}

#[test]
fn a_context_is_offered_for_each_generation() {
    let memory = Memory::new(1 << 20);
    memory.generation.store(2, std::sync::atomic::Ordering::SeqCst);
    let mut client = Client::new(vec![("disk", Arc::new(memory))]);
    assert_eq!(client.option(9, &queries("disk", &[]))[0].0, INVALID, "structured replies come first");
    client.option(8, &[]);
    let names = |answers: Vec<(u32, Vec<u8>)>| -> Vec<String> {
        answers.iter().filter(|a| a.0 == 4).map(|a| String::from_utf8(a.1[4..].to_vec()).unwrap()).collect()
    };
    let all = ["base:allocation", "twofold:changed-since:2", "twofold:changed-since:1"];
    assert_eq!(names(client.option(9, &queries("disk", &[]))), all);
    assert_eq!(names(client.option(9, &queries("disk", &["twofold:"]))), all[1..]);
    assert_eq!(names(client.option(9, &queries("disk", &["base:", "qemu:dirty-bitmap:x"]))), all[..1]);
    assert_eq!(names(client.option(10, &queries("disk", &["twofold:changed-since:3", "base:"]))), [""; 0]);
    let chosen = client.option(10, &queries("disk", &[all[2], all[0], all[2]]));
    assert_eq!(chosen[0].1, [&1u32.to_be_bytes(), all[2].as_bytes()].concat());
    assert_eq!(chosen[1].1, [&2u32.to_be_bytes(), all[0].as_bytes()].concat());
    assert_eq!(chosen.len(), 3);
    assert_eq!(client.option(10, &queries("other", &[]))[0].0, UNKNOWN);
}

#[test]
fn contexts_chosen_for_one_export_do_not_serve_another() {
    let mut client = Client::new(two());
    client.option(8, &[]);
    client.option(10, &queries("sealed", &["base:allocation"]));
    client.option(GO, &go("disk", &[]));
    client.structured = true;
    assert_eq!(client.error(STATUS, 0, 0, 4096, &[]), 22);
}

#[test]
fn options_that_make_no_sense_are_answered_and_the_haggling_goes_on() {
    let mut client = Client::new(two());
    assert_eq!(client.option(5, &[])[0].0, UNSUPPORTED, "no TLS");
    assert_eq!(client.option(11, &[])[0].0, UNSUPPORTED, "no extended headers");
    assert_eq!(client.option(4711, &[7; 60_000])[0].0, UNSUPPORTED);
    assert_eq!(client.option(8, b"x")[0].0, INVALID);
    client.option(8, &[]);
    for data in
        [&b""[..], b"\0\0\0\x04dis", b"\xff\xff\xff\xffdisk\0\0", b"\0\0\0\x04\xff\xff\xff\xff\0\0", b"\0\0\0\0\0\x01"]
    {
        assert_eq!(client.option(GO, data)[0].0, INVALID, "{data:?}");
        assert_eq!(client.option(10, data)[0].0, INVALID, "{data:?}");
    }
    let endless = [string("disk"), u32::MAX.to_be_bytes().to_vec(), string("base:allocation")].concat();
    assert_eq!(client.option(10, &endless)[0].0, INVALID);
    assert_eq!(client.option(GO, &go("disk", &[])).last().unwrap().0, 1);
}

#[test]
fn whoever_breaks_the_handshake_is_hung_up_on() {
    let mut client = Client::new(two());
    client.send(&[b"IHAVEOPT", &3u32.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat());
    assert!(client.hung_up().contains("bounds"));
    let mut client = Client::new(two());
    client.send(b"GET / HTTP/1.1\r\n\r\n");
    assert!(client.hung_up().contains("no option"));
    let mut client = Client::ungreeted(Server::new(1));
    client.send(&u32::MAX.to_be_bytes());
    assert!(client.hung_up().contains("not offered"));
    let mut client = Client::new(two());
    let mut stream = client.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        (0..300).try_for_each(|_| stream.write_all(&[&b"IHAVEOPT"[..], &[0, 0, 0, 3, 0, 0, 0, 0]].concat()))
    });
    let mut all = Vec::new();
    let _ = client.stream.read_to_end(&mut all); // may end in a reset, as the server leaves words unread
    let _ = sender.join().unwrap();
    assert!(client.hung_up().contains("without end"));
}

#[test]
fn a_client_that_leaves_during_the_handshake_is_no_error() {
    Client::new(two()).end().unwrap();
    let mut client = Client::ungreeted(Server::new(1));
    client.bytes(18);
    client.end().unwrap();
}

#[test]
fn a_resize_is_seen_by_the_next_connection() {
    let memory = Arc::new(Memory::new(1 << 20));
    let mut first = Client::ready(memory.clone());
    memory.resize(4096);
    assert_eq!(first.read(8192, 1), [0], "this one keeps the size it was told");
    let mut second = Client::of(first.server.clone()).into_transmission("disk", &[]);
    assert_eq!(second.error(client::READ, 0, 8192, 1, &[]), 22);
    assert_eq!(second.read(4095, 1), [0]);
}
