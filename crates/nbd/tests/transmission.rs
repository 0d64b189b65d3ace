//! Requests and their replies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod client;
mod memory;

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use client::*;
use memory::Memory;
use twofold_nbd::{Export, Extents, Failure, Kind, Readiness, Server, State};

const MIB: u64 = 1 << 20;

fn made(with: impl FnOnce(&mut Memory)) -> Arc<Memory> {
    let mut memory = Memory::new(64 * MIB);
    with(&mut memory);
    Arc::new(memory)
}

#[test]
fn what_was_written_is_read() {
    let mut client = Client::ready(made(|_| ()));
    let data: Vec<u8> = (0..3 * MIB as u32).map(|i| ((i * 31) >> 3) as u8).collect();
    client.write(4095, &data);
    assert_eq!(client.read(4095, data.len() as u32), data);
    let reply = client.ask(READ, DF, 4095, data.len() as u32, &[]);
    assert_eq!(reply.data, [(4095, data)], "unfragmented");
    assert_eq!(client.ask(READ, 0, 5, 0, &[]), Reply { cookie: 77, ..Reply::default() });
    assert_eq!(client.ask(WRITE, 0, 64 * MIB, 0, &[]), Reply { cookie: 77, ..Reply::default() });
    client.end().unwrap();
}

#[test]
fn the_largest_request_works_and_a_larger_one_does_not() {
    let mut client = Client::ready(made(|_| ()));
    let data = vec![7; 32 << 20];
    client.write(MIB, &data);
    assert!(client.read(MIB, 32 << 20) == data);
    assert_eq!(client.error(READ, 0, 0, (32 << 20) + 1, &[]), 75);
    client.send(&request(WRITE, 0, 1, 0, (32 << 20) + 1, &[]));
    assert!(client.hung_up().contains("block size"));
}

#[test]
fn simple_replies_serve_who_asks_for_no_others() {
    let mut client = Client::new(vec![("disk", made(|m| m.damaged = vec![(0, 512)]))]);
    client.option(GO, &go("disk", &[]));
    client.write(4096, b"hello");
    assert_eq!(client.ask(READ, 0, 4096, 5, &[]).data, [(0, b"hello".to_vec())]);
    assert_eq!(client.ask(READ, 0, 0, 4096, &[]).errors, [(5, None)]);
    assert_eq!(client.error(READ, DF, 4096, 1, &[]), 22);
    assert_eq!(client.ask(READ, 0, 4096, 0, &[]).errors, []);
    client.end().unwrap();
}

#[test]
fn requests_outside_the_device_or_the_rules_are_refused_one_by_one() {
    let memory = made(|m| m.minimum = 512);
    let mut client = Client::ready(memory);
    for (command, flags, offset, length, error) in [
        (READ, 0, 64 * MIB, 512, 22),
        (READ, 0, u64::MAX - 511, 512, 22),
        (READ, 0, 1, 512, 22),
        (READ, 0, 0, 513, 22),
        (READ, NO_HOLE, 0, 512, 22),
        (TRIM, 0, 64 * MIB, 512, 22),
        (TRIM, 0, 0, u32::MAX, 22),
        (ZERO, 0, 64 * MIB - 512, 1024, 28),
        (ZERO, DF, 0, 512, 22),
        (FLUSH, 0, 0, 512, 22),
        (FLUSH, 0, 512, 0, 22),
        (STATUS, 0, 0, 512, 22),
        (CACHE, 0, 64 * MIB, 512, 22),
        (8, 0, 0, 0, 22),
        (0xffff, 0, 0, 0, 22),
    ] {
        assert_eq!(client.error(command, flags, offset, length, &[]), error, "{command} {flags} {offset} {length}");
    }
    // a refused write's payload is passed over, not taken for a request
    assert_eq!(client.error(WRITE, 0, 64 * MIB, 512, &[1; 512]), 28);
    assert_eq!(client.error(WRITE, 0, 3, 7, &[1; 7]), 22);
    assert_eq!(client.error(WRITE, 0x8000, 0, 512, &[1; 512]), 22);
    assert_eq!(client.read(0, 512), [0; 512]);
    client.send(b"this is twenty-eight bytes..");
    assert!(client.hung_up().contains("no request"));
}

#[test]
fn a_read_only_device_changes_for_nobody() {
    let mut client = Client::ready(made(|m| m.read_only = true));
    assert_eq!(client.error(WRITE, 0, 0, 3, b"abc"), 1);
    assert_eq!(client.error(TRIM, 0, 0, 4096, &[]), 1);
    assert_eq!(client.error(ZERO, 0, 0, 4096, &[]), 1);
    assert_eq!(client.error(FLUSH, 0, 0, 0, &[]), 0);
    assert_eq!(client.read(0, 3), [0; 3]);
}

#[test]
fn zeroes_and_holes() {
    let mut client = Client::new(vec![("disk", made(|_| ()))]).into_transmission("disk", &["base:allocation"]);
    client.write(0, &[1; 16384]);
    assert_eq!(client.error(ZERO, NO_HOLE, 0, 4096, &[]), 0);
    assert_eq!(client.error(ZERO, FAST_ZERO | FUA, 4096, 4096, &[]), 0);
    assert_eq!(client.error(TRIM, 0, 8192, 4096, &[]), 0);
    assert_eq!(client.read(0, 12288), [0; 12288]);
    assert_eq!(client.read(12288, 4096), [1; 4096]);
    let reply = client.ask(STATUS, 0, 0, 1 << 20, &[]);
    let rest = (1 << 20) - 16384;
    assert_eq!(reply.status, [(1, vec![(4096, 0), (8192, 3), (4096, 0), (rest, 3)])]);
    assert_eq!(client.ask(STATUS, REQ_ONE, 4097, 8000, &[]).status, [(1, vec![(8000, 3)])]);
    assert_eq!(client.ask(STATUS, REQ_ONE, 0, 8192, &[]).status, [(1, vec![(4096, 0)])]);
    let mut slow = Client::ready(made(|m| m.slow_zero = true));
    assert_eq!(slow.error(ZERO, FAST_ZERO, 0, 4096, &[]), 95);
    assert_eq!(slow.error(ZERO, 0, 0, 4096, &[]), 0);
}

#[test]
fn changes_since_a_generation() {
    let memory = made(|m| m.generation = 1.into());
    let exports: Vec<(&str, Arc<dyn Export>)> = vec![("disk", memory.clone())];
    let since = ["twofold:changed-since:1", "base:allocation"];
    let mut client = Client::new(exports).into_transmission("disk", &since);
    client.write(4096, &[1; 4096]);
    memory.generation.store(2, SeqCst);
    client.write(12288, &[1; 4096]);
    let status = client.ask(STATUS, 0, 0, 16384, &[]).status;
    assert_eq!(status[0], (1, vec![(4096, 0), (4096, 1), (4096, 0), (4096, 1)]));
    assert_eq!(status[1], (2, vec![(4096, 3), (4096, 0), (4096, 3), (4096, 0)]));
    let mut later = Client::of(client.server.clone()).into_transmission("disk", &["twofold:changed-since:2"]);
    assert_eq!(later.ask(STATUS, 0, 0, 16384, &[]).status, [(1, vec![(12288, 0), (4096, 1)])]);
}

#[test]
fn damage_is_an_error_on_exactly_the_damaged_range() {
    let mut client = Client::ready(made(|m| m.damaged = vec![(MIB + 4096, 4096), (MIB + 400 * 1024, 4096)]));
    let reply = client.ask(READ, 0, MIB, 1 << 20, &[]);
    assert_eq!(reply.errors, [(5, Some(MIB + 4096)), (5, Some(MIB + 400 * 1024))]);
    assert_eq!(reply.texts[0], format!("damaged: 4096 bytes at {}", MIB + 4096));
    let got: usize = reply.data.iter().map(|(_, data)| data.len()).sum();
    assert_eq!(got, (1 << 20) - 8192, "all else came");
    let starts: BTreeSet<u64> = reply.data.iter().map(|(offset, _)| *offset).collect();
    assert!(starts.contains(&MIB) && starts.contains(&(MIB + 8192)) && starts.contains(&(MIB + 404 * 1024)));
    assert_eq!(client.ask(READ, DF, MIB, 8192, &[]).errors, [(5, Some(MIB + 4096))]);
    assert_eq!(client.ask(READ, 0, MIB + 5000, 10, &[]).errors, [(5, Some(MIB + 5000))]);
    assert_eq!(client.ask(READ, 0, MIB + 8191, 2, &[]).errors, [(5, Some(MIB + 8191))]);
    assert_eq!(client.read(MIB + 8192, 4096), [0; 4096]);
}

#[test]
fn damage_found_by_a_worker_is_told_the_same_way() {
    let mut client = Client::ready(made(|m| {
        m.damaged = vec![(4096, 4096)];
        m.slow = Duration::from_millis(1);
    }));
    let reply = client.ask(READ, 0, 0, 512 << 10, &[]);
    assert_eq!(reply.errors, [(5, Some(4096))]);
    assert_eq!(reply.data.iter().map(|(_, data)| data.len()).sum::<usize>(), (512 << 10) - 4096);
}

#[test]
fn a_full_disk_and_a_failed_push_reach_the_writer() {
    let mut client = Client::ready(made(|m| m.no_space = true));
    let reply = client.ask(WRITE, 0, 0, 3, b"abc");
    assert_eq!((reply.errors, reply.texts), (vec![(28, None)], vec!["the disk is full".to_owned()]));
    let memory = made(|m| m.push_fails = true);
    let mut client = Client::ready(memory.clone());
    assert_eq!(client.error(WRITE, 0, 0, 3, b"abc"), 5);
    assert_eq!(client.error(WRITE, FUA, 0, 3, b"abc"), 5);
    assert_eq!(memory.flushes.load(SeqCst), 0);
}

#[test]
fn nothing_is_answered_before_its_push_and_fua_not_before_its_flush() {
    let memory = made(|_| ());
    let mut client = Client::ready(memory.clone());
    client.write(0, b"a");
    assert_eq!((memory.pushes.load(SeqCst), memory.flushes.load(SeqCst)), (1, 0));
    for (flags, command, length) in [(FUA, WRITE, 1), (FUA, TRIM, 1), (FUA, ZERO, 1), (0, FLUSH, 0)] {
        let before = memory.flushes.load(SeqCst);
        let payload: &[u8] = if command == WRITE { b"b" } else { b"" };
        assert_eq!(client.error(command, flags, 0, length, payload), 0);
        assert_eq!(memory.flushes.load(SeqCst), before + 1);
    }
    assert_eq!(memory.pushes.load(SeqCst), 4);
}

#[test]
fn requests_that_came_together_share_one_push() {
    let memory = made(|_| ());
    let mut client = Client::ready(memory.clone());
    let batch: Vec<u8> = (0..32).flat_map(|i| request(WRITE, 0, i, i * 4096, 4096, &[i as u8; 4096])).collect();
    client.send(&batch);
    let cookies: BTreeSet<u64> = (0..32).map(|_| client.reply(0).cookie).collect();
    assert_eq!(cookies, (0..32).collect());
    let pushes = memory.pushes.load(SeqCst);
    assert!(pushes <= 8, "{pushes} pushes for 32 writes");
    for i in 0..32 {
        assert_eq!(client.read(i * 4096, 4096), [i as u8; 4096]);
    }
}

#[test]
fn thirty_two_reads_wait_together() {
    let memory = made(|m| m.slow = Duration::from_millis(200));
    let mut client = Client::ready(memory.clone());
    let began = Instant::now();
    client.send(&(0..32).flat_map(|i| request(READ, 0, i, i * 4096, 4096, &[])).collect::<Vec<u8>>());
    let cookies: BTreeSet<u64> = (0..32).map(|_| client.reply(0).cookie).collect();
    assert_eq!(cookies.len(), 32);
    assert_eq!(memory.most_reading.load(SeqCst), 32);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // and a write does not wait for a read
    client.send(&request(READ, 0, 1, 0, 4096, &[]));
    client.send(&request(WRITE, 0, 2, MIB, 1, b"w"));
    assert_eq!((client.reply(0).cookie, client.reply(0).cookie), (2, 1));
}

#[test]
fn a_write_that_must_wait_lets_others_pass() {
    let memory = made(|m| m.slow_write = Duration::from_millis(200));
    let mut client = Client::ready(memory.clone());
    client.send(&request(WRITE, FUA, 1, 0, 3, b"abc"));
    client.send(&request(READ, 0, 2, MIB, 1, &[]));
    assert_eq!((client.reply(0).cookie, client.reply(0).cookie), (2, 1));
    assert_eq!((memory.pushes.load(SeqCst), memory.flushes.load(SeqCst)), (1, 1));
    assert_eq!(client.read(0, 3), b"abc");
}

#[test]
fn cache_is_passed_on() {
    let memory = made(|_| ());
    assert_eq!(Client::ready(memory.clone()).error(CACHE, 0, 0, 4096, &[]), 0);
    assert_eq!(memory.caches.load(SeqCst), 1);
}

#[test]
fn all_that_was_asked_before_goodbye_is_done_and_answered() {
    let memory = made(|m| m.slow = Duration::from_millis(100));
    let mut client = Client::ready(memory.clone());
    let mut bytes = request(READ, 0, 1, 0, 4096, &[]);
    bytes.extend(request(WRITE, 0, 2, 0, 3, b"abc"));
    bytes.extend(request(FLUSH, 0, 3, 0, 0, &[]));
    bytes.extend(request(DISCONNECT, 0, 4, 0, 0, &[]));
    client.send(&bytes);
    let cookies: BTreeSet<u64> = (0..3).map(|_| client.reply(0).cookie).collect();
    assert_eq!(cookies, [1, 2, 3].into());
    client.end().unwrap();
    assert_eq!(memory.flushes.load(SeqCst), 1);
}

#[test]
fn closing_answers_what_was_asked_and_takes_no_more() {
    let memory = made(|m| m.slow = Duration::from_millis(100));
    let mut client = Client::ready(memory);
    client.send(&request(READ, 0, 1, 0, 4096, &[]));
    std::thread::sleep(Duration::from_millis(30));
    let server = client.server.clone();
    let closer = std::thread::spawn(move || server.close());
    assert_eq!(client.reply(0).cookie, 1);
    let mut rest = Vec::new();
    client.stream.read_to_end(&mut rest).unwrap();
    closer.join().unwrap();
    assert_eq!((rest, client.server.connections()), (vec![], 0));
    let mut late = Client::ungreeted(client.server.clone());
    late.stream.read_to_end(&mut Vec::new()).unwrap();
}

/// A device whose author made a mistake.
struct Panics(bool);

impl Export for Panics {
    fn size(&self) -> u64 {
        4096
    }
    fn try_read(&self, _: u64, _: &mut [u8]) -> Result<Readiness, Failure> {
        Ok(Readiness::WouldBlock)
    }
    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Failure> {
        if self.0 { panic!("on purpose") } else { Err(Failure::new(Kind::Io, "ä".repeat(1000))) }
    }
    fn write(&self, _: u64, _: &[u8]) -> Result<(), Failure> {
        Ok(())
    }
    fn zero(&self, _: u64, _: u64, _: bool) -> Result<(), Failure> {
        Ok(())
    }
    fn trim(&self, _: u64, _: u64) -> Result<(), Failure> {
        Ok(())
    }
    fn push(&self) -> Result<(), Failure> {
        Ok(())
    }
    fn flush(&self) -> Result<(), Failure> {
        Ok(())
    }
    fn status(&self, _: u64, _: u64, extents: &mut Extents) -> Result<(), Failure> {
        assert!(extents.push(1 << 40, State::Zero));
        Ok(())
    }
}

#[test]
fn a_device_that_panics_costs_its_connection_alone() {
    let server = Server::new(2);
    server.insert("broken", Arc::new(Panics(true)));
    server.insert("disk", made(|_| ()));
    let mut broken = Client::of(server.clone()).into_transmission("broken", &[]);
    let mut sound = Client::of(server.clone()).into_transmission("disk", &[]);
    broken.send(&request(READ, 0, 1, 0, 1, &[]));
    broken.stream.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(sound.read(0, 1), [0]);
    server.close();
}

#[test]
fn what_a_device_says_too_much_of_is_cut() {
    let exports: Vec<(&str, Arc<dyn Export>)> = vec![("disk", Arc::new(Panics(false)))];
    let mut client = Client::new(exports).into_transmission("disk", &["base:allocation"]);
    assert_eq!(client.ask(STATUS, 0, 4095, 1, &[]).status, [(1, vec![(1, 2)])]);
    let reply = client.ask(READ, 0, 0, 9, &[]);
    assert_eq!((reply.errors, reply.texts[0].len()), (vec![(5, None)], 1024));
}
