//! Everything a client may send. The first byte chooses how far a proper handshake goes before the bytes begin.
#![no_main]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use twofold_nbd::Server;

#[path = "../../tests/memory/mod.rs"]
mod memory;

const FLAGS: &[u8] = b"\0\0\0\x03";
const STRUCTURED: &[u8] = b"IHAVEOPT\0\0\0\x08\0\0\0\0";
const CONTEXT: &[u8] = b"IHAVEOPT\0\0\0\x0a\0\0\0\x1f\0\0\0\x04disk\0\0\0\x01\0\0\0\x0fbase:allocation";
const GO: &[u8] = b"IHAVEOPT\0\0\0\x07\0\0\0\x0a\0\0\0\x04disk\0\0";

fn server() -> Arc<Server> {
    static SERVER: OnceLock<Arc<Server>> = OnceLock::new();
    SERVER
        .get_or_init(|| {
            let server = Server::new(2);
            let mut memory = memory::Memory::new(1 << 20);
            memory.damaged = vec![(65536, 4096)];
            memory.generation = 1.into();
            server.insert("disk", Arc::new(memory));
            server
        })
        .clone()
}

fuzz_target!(|untrusted: &[u8]| {
    let Some((choice, rest)) = untrusted.split_first() else { return };
    let opening: &[&[u8]] = match choice % 4 {
        0 => &[],
        1 => &[FLAGS],
        2 => &[FLAGS, GO],
        _ => &[FLAGS, STRUCTURED, CONTEXT, GO],
    };
    // Half of the time every header gets the number that it begins with, which chance would hardly find.
    let rest = if choice & 4 == 0 {
        rest.to_vec()
    } else {
        rest.chunks(24).flat_map(|chunk| [b"\x25\x60\x95\x13", chunk].concat()).collect()
    };
    let bytes = [opening.concat(), rest].concat();
    let (mut ours, theirs) = UnixStream::pair().expect("a socket pair");
    ours.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut sender = ours.try_clone().expect("a twin");
    thread::scope(|scope| {
        let serving = scope.spawn(|| server().serve(theirs));
        scope.spawn(move || {
            let _ = sender.write_all(&bytes);
            let _ = sender.shutdown(Shutdown::Write);
        });
        let mut said = Vec::new();
        if let Err(error) = ours.read_to_end(&mut said) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "the server hangs");
        }
        let _ = serving.join().expect("the server panicked");
    });
});
