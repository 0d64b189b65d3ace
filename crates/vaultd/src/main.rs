//! The vault process: the only holder of a workspace's data keys. `docs/keys.md` says what it sees, `docs/protocol.md`
//! (chapter 4) how one talks to it.
//!
//! It is started with one end of a socketpair as its standard input; no argument, variable or path says anything to it. It
//! outlives its starter if it was given a listening socket to be reached at.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod base;
mod check;
mod device;
mod epoch;
mod export;
mod far;
mod feed;
mod harden;
mod hex;
mod hpke;
mod image;
mod index;
mod keys;
mod lease;
mod memory;
mod mending;
mod moving;
mod opened;
mod part;
mod said;
mod secret;
mod service;
mod unlock;
mod verbs;
mod wants;
mod wire;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::said::{Code, Said};
use crate::service::Service;
use crate::wire::Wire;

fn main() -> ExitCode {
    if std::env::args().any(|word| word == "--version") {
        println!("twofold-vaultd {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(said) => {
            eprintln!("twofold-vaultd: {said}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Said> {
    let locked = harden::harden()?;
    let starter = Wire::accept(UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?))?;
    let service = Service::new(locked);
    heed_signals(&service)?;
    service.converse(starter, true);
    // The starter hung up. With a control socket others may come; without one nobody can.
    if service.reachable() {
        while !service.wait(Duration::from_secs(3600)) {}
    }
    let over = Said::new(Code::Conflict, "The vault has been closed.");
    service.close(over)
}

/// The machine is shut down, say: close as `stop` does.
fn heed_signals(service: &Arc<Service>) -> Result<(), Said> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let service = Arc::clone(service);
    thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.forever().next().is_some() {
            let over = Said::new(Code::Conflict, "The vault has been closed.");
            let status = service.close(over).map_or(1, |()| 0);
            std::process::exit(status);
        }
    })?;
    Ok(())
}
