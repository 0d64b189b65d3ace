//! Requests that lack something which somebody else brings: kept without a thread, tried again, or failed on their own blocks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod client;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use client::*;
use twofold_nbd::{Export, Failure, Kind, Readiness, Wake};

const BLOCK: u64 = 4096;
const SIZE: u64 = 64 << 20;

/// Reads as its block's number; blocks in `away` come when somebody says so.
#[derive(Default)]
struct Slow {
    away: Mutex<Vec<u64>>,
    waiting: Mutex<Vec<(u64, Wake)>>,
    written: Mutex<Vec<(u64, usize)>>,
    flushes: AtomicUsize,
}

impl Slow {
    fn check(&self, offset: u64, length: u64) -> Result<(), Failure> {
        let blocks = offset / BLOCK..(offset + length).div_ceil(BLOCK);
        match self.away.lock().unwrap().iter().filter(|block| blocks.contains(block)).min() {
            Some(block) => Err(Failure::at(Kind::Later, (block * BLOCK).max(offset), BLOCK, "away")),
            None => Ok(()),
        }
    }

    fn come(&self, failure: Option<&Failure>) {
        if failure.is_none() {
            self.away.lock().unwrap().clear();
        }
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap());
        waiting.into_iter().for_each(|(_, wake)| wake(failure.cloned()));
    }

    fn wait_for(&self, count: usize) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.waiting.lock().unwrap().len() < count {
            assert!(Instant::now() < end, "{} of {count} wait", self.waiting.lock().unwrap().len());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Export for Slow {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        self.check(offset, buffer.len() as u64)?;
        for (at, byte) in (offset..).zip(buffer) {
            *byte = (at / BLOCK) as u8;
        }
        Ok(())
    }

    fn try_read(&self, _: u64, _: &mut [u8]) -> Result<Readiness, Failure> {
        Ok(Readiness::WouldBlock)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        self.check(offset, data.len() as u64)?;
        self.written.lock().unwrap().push((offset, data.len()));
        Ok(())
    }

    fn write_may_block(&self, offset: u64, length: u64) -> bool {
        offset % BLOCK != 0 || length % BLOCK != 0
    }

    fn zero(&self, offset: u64, length: u64, _: bool) -> Result<(), Failure> {
        self.write(offset, &vec![0; length as usize])
    }

    fn trim(&self, _: u64, _: u64) -> Result<(), Failure> {
        Ok(())
    }

    fn push(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn flush(&self) -> Result<(), Failure> {
        self.flushes.fetch_add(1, SeqCst);
        Ok(())
    }

    fn later(&self, offset: u64, _: u64, wake: Wake) {
        self.waiting.lock().unwrap().push((offset, wake));
    }
}

fn made(away: impl IntoIterator<Item = u64>) -> (Arc<Slow>, Client) {
    let slow = Arc::new(Slow { away: Mutex::new(away.into_iter().collect()), ..Slow::default() });
    (slow.clone(), Client::ready(slow))
}

#[test]
fn any_number_of_reads_may_wait_and_none_is_in_the_way_of_another() {
    let (slow, mut client) = made(0..400);
    for block in 0..400 {
        client.send(&request(READ, 0, block, block * BLOCK, BLOCK as u32, &[]));
    }
    slow.wait_for(400);
    // Far more than there are workers, and the next read is answered all the same.
    assert_eq!(client.ask(READ, 0, 500 * BLOCK, BLOCK as u32, &[]).data, [(500 * BLOCK, vec![244; 4096])]);
    assert_eq!(client.error(FLUSH, 0, 0, 0, &[]), 0);
    slow.come(None);
    let mut cookies: Vec<_> =
        (0..400).map(|_| client.reply(0)).map(|reply| (reply.cookie, reply.errors.len())).collect();
    cookies.sort_unstable();
    assert_eq!(cookies, (0..400).map(|block| (block, 0)).collect::<Vec<_>>());
    client.end().unwrap();
}

#[test]
fn what_does_not_come_is_an_error_on_exactly_its_blocks() {
    let (slow, mut client) = made([3, 5]);
    client.send(&request(READ, 0, 9, 0, 8 * BLOCK as u32, &[]));
    for _ in 0..2 {
        slow.wait_for(1);
        slow.come(Some(&Failure::new(Kind::Io, "it is far away")));
    }
    let reply = client.reply(0);
    assert_eq!(reply.errors, [(5, Some(3 * BLOCK)), (5, Some(5 * BLOCK))]);
    assert_eq!(reply.texts, ["it is far away", "it is far away"]);
    assert_eq!(reply.data.iter().map(|(_, data)| data.len()).sum::<usize>(), 6 * 4096);
    slow.come(None);
    assert_eq!(client.read(3 * BLOCK, 3 * BLOCK as u32).len(), 3 * 4096);
    client.end().unwrap();
}

#[test]
fn a_change_of_a_part_of_a_block_waits_too_and_is_made_once() {
    let (slow, mut client) = made([3]);
    client.send(&request(WRITE, FUA, 1, 3 * BLOCK + 5, 7, &[1; 7]));
    client.send(&request(ZERO, 0, 2, 3 * BLOCK + 50, 70, &[]));
    slow.wait_for(2);
    assert!(slow.written.lock().unwrap().is_empty());
    slow.come(None);
    let mut cookies = [client.reply(0).cookie, client.reply(0).cookie];
    cookies.sort_unstable();
    assert_eq!(cookies, [1, 2]);
    let mut written = slow.written.lock().unwrap().clone();
    written.sort_unstable();
    assert_eq!(written, [(3 * BLOCK + 5, 7), (3 * BLOCK + 50, 70)]);
    assert_eq!(slow.flushes.load(SeqCst), 1, "the one with FUA");
    *slow.away.lock().unwrap() = vec![3];
    client.send(&request(WRITE, 0, 4, 3 * BLOCK + 5, 7, &[1; 7]));
    slow.wait_for(1);
    slow.come(Some(&Failure::new(Kind::Io, "no")));
    assert_eq!(client.reply(0).errors, [(5, None)]);
    client.end().unwrap();
}

#[test]
fn a_client_that_leaves_with_reads_under_way_is_let_go_once_they_end() {
    let (slow, mut client) = made([3]);
    client.send(&request(READ, 0, 1, 3 * BLOCK, BLOCK as u32, &[]));
    slow.wait_for(1);
    let server = client.server.clone();
    client.send(&request(2, 0, 0, 0, 0, &[])); // goodbye
    let left = std::thread::spawn(move || client.serve_ended());
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(server.connections(), 1);
    slow.come(None);
    assert!(left.join().unwrap());
    assert_eq!(server.connections(), 0);
}
