//! Serves devices in memory over NBD until its input ends. For tests of this crate with other people's clients.
//!
//! usage: memory SOCKET [EXPORT]...   where EXPORT is NAME=BYTES and any of
//!        ,ro  ,min=BYTES  ,slow=MILLISECONDS  ,bad=OFFSET+LENGTH  ,full  ,generation=NUMBER  ,slowzero  ,multi
//!
//! Lines on its input act while it runs: `generation NAME`, `resize NAME BYTES`.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::BufRead;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::{env, io, thread};

use twofold_nbd::Server;

#[path = "../tests/memory/mod.rs"]
mod memory;
use memory::Memory;

fn export(text: &str) -> Result<(String, Memory), Box<dyn Error>> {
    let mut words = text.split(',');
    let (name, size) = words.next().and_then(|word| word.split_once('=')).ok_or("NAME=BYTES")?;
    let mut memory = Memory::new(size.parse()?);
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("ro", _) => memory.read_only = true,
            ("full", _) => memory.no_space = true,
            ("multi", _) => memory.multi = true,
            ("slowzero", _) => memory.slow_zero = true,
            ("min", bytes) => memory.minimum = bytes.parse()?,
            ("slow", milliseconds) => memory.slow = Duration::from_millis(milliseconds.parse()?),
            ("generation", number) => memory.generation = number.parse::<u64>()?.into(),
            ("bad", range) => {
                let (offset, length) = range.split_once('+').ok_or("bad=OFFSET+LENGTH")?;
                memory.damaged.push((offset.parse()?, length.parse()?));
            }
            _ => return Err(format!("what is {word}?").into()),
        }
    }
    Ok((name.to_owned(), memory))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let socket = arguments.next().ok_or("usage: memory SOCKET [NAME=BYTES[,...]]...")?;
    let server = Server::new(32);
    let mut devices = BTreeMap::new();
    for argument in arguments {
        let (name, memory) = export(&argument)?;
        let memory = Arc::new(memory);
        server.insert(&name, memory.clone());
        devices.insert(name, memory);
    }
    let listener = UnixListener::bind(&socket)?;
    let accepting = server.clone();
    thread::spawn(move || accepting.listen(&listener, |_| true, |text| eprintln!("memory: {text}")));
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words {
            ["generation", name] => {
                devices.get(name).ok_or("no such export")?.generation.fetch_add(1, Ordering::SeqCst);
            }
            ["resize", name, size] => devices.get(name).ok_or("no such export")?.resize(size.parse()?),
            _ => return Err(format!("what is {line}?").into()),
        }
        println!("done");
    }
    server.close();
    Ok(())
}
