//! Whatever a client sends: the server neither panics nor hangs, and a well-meant mix of requests does what it says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod client;
mod memory;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use client::*;
use memory::Memory;
use proptest::collection::vec;
use proptest::prelude::*;
use twofold_nbd::Server;

const SIZE: u64 = 256 << 10;

/// Feeds the bytes to a server and takes all it says until it hangs up. Fails if it panicked or never ends.
fn feed(bytes: &[u8]) -> Vec<u8> {
    let server = Server::new(2);
    let mut memory = Memory::new(SIZE);
    memory.damaged = vec![(65536, 4096)];
    memory.generation = 1.into();
    server.insert("disk", Arc::new(memory));
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let twin = server.clone();
    let serving = thread::spawn(move || twin.serve(theirs));
    let mut sender = ours.try_clone().unwrap();
    let bytes = bytes.to_vec();
    let sending = thread::spawn(move || {
        let _ = sender.write_all(&bytes); // it may have been hung up on already
        let _ = sender.shutdown(Shutdown::Write);
    });
    let mut said = Vec::new();
    match ours.read_to_end(&mut said) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the server hangs"),
        _ => (),
    }
    let _refused = serving.join().expect("the server panicked");
    sending.join().unwrap();
    server.close();
    said
}

fn greeted(with_contexts: bool) -> Vec<u8> {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    let mut option = |code: u32, data: &[u8]| {
        bytes.extend([b"IHAVEOPT", &code.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat());
    };
    if with_contexts {
        option(8, &[]);
        option(10, &queries("disk", &["base:allocation", "twofold:changed-since:1"]));
    }
    option(GO, &go("disk", &[]));
    bytes
}

/// A request that is nearly right: any field may be odd, and the payload may be too short.
fn odd_request() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![4 => 0u16..32, 1 => any::<u16>()];
    let command = prop_oneof![9 => 0u16..9, 1 => any::<u16>()];
    let offset = prop_oneof![4 => 0..SIZE, 1 => SIZE - 5000..SIZE + 5000, 1 => any::<u64>()];
    let length = prop_oneof![4 => 0u32..9000, 1 => 0u32..300_000, 1 => any::<u32>()];
    (flags, command, any::<u64>(), offset, length, any::<bool>()).prop_map(
        |(flags, command, cookie, offset, length, cut)| {
            let payload = if command == WRITE { length.min(300_000) as usize } else { 0 };
            request(command, flags, cookie, offset, length, &vec![9; if cut { payload / 2 } else { payload }])
        },
    )
}

fn odd_option() -> impl Strategy<Value = Vec<u8>> {
    let data = prop_oneof![
        vec(any::<u8>(), 0..64),
        Just(go("disk", &[1, 2, 3])),
        Just(queries("disk", &["base:allocation", "twofold:"])),
        (any::<u32>(), any::<u32>()).prop_map(|(a, b)| [&a.to_be_bytes()[..], b"disk", &b.to_be_bytes()].concat()),
    ];
    (
        prop_oneof![9 => 0u32..12, 1 => any::<u32>()],
        data,
        prop_oneof![9 => Just(None), 1 => any::<u32>().prop_map(Some)],
    )
        .prop_map(|(code, data, length)| {
            let length = length.unwrap_or(data.len() as u32);
            [b"IHAVEOPT", &code.to_be_bytes()[..], &length.to_be_bytes(), &data].concat()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_at_all(bytes in vec(any::<u8>(), 0..200)) {
        feed(&bytes);
    }

    #[test]
    fn any_options(flags in prop_oneof![9 => 0u32..4, 1 => any::<u32>()], options in vec(odd_option(), 0..12)) {
        feed(&[flags.to_be_bytes().to_vec(), options.concat()].concat());
    }

    #[test]
    fn any_requests(contexts in any::<bool>(), requests in vec(odd_request(), 0..40), tail in vec(any::<u8>(), 0..40)) {
        let said = feed(&[greeted(contexts), requests.concat(), tail].concat());
        prop_assert!(said.len() > 18);
    }

    #[test]
    fn it_is_a_disk(steps in vec(vec((0u16..7, 0..SIZE, 1u32..70_000, any::<u8>()), 1..6), 1..12)) {
        let mut client = Client::ready(Arc::new(Memory::new(SIZE)));
        let mut disk = vec![0; SIZE as usize];
        for batch in steps {
            // Requests in flight together may be carried out in any order: changes first, then what must see them.
            for (command, offset, length, byte) in batch {
                let length = length.min((SIZE - offset) as u32);
                let range = offset as usize..offset as usize + length as usize;
                match command {
                    1..=3 => {
                        disk[range.clone()].fill(byte);
                        client.write(offset, &disk[range]);
                    }
                    4 => {
                        disk[range].fill(0);
                        prop_assert_eq!(client.error(TRIM, u16::from(byte) & FUA, offset, length, &[]), 0);
                    }
                    5 => {
                        disk[range].fill(0);
                        prop_assert_eq!(client.error(ZERO, u16::from(byte) & NO_HOLE, offset, length, &[]), 0);
                    }
                    _ => prop_assert!(client.read(offset, length) == disk[range]),
                }
            }
        }
        prop_assert!(client.read(0, SIZE as u32) == disk);
        client.end().unwrap();
    }
}
