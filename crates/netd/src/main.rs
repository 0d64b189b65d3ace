//! `twofold-netd`: started with one end of a socketpair as its standard input; no argument, variable or path says anything to it.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use twofold_netd::harden;
use twofold_netd::service::{Service, start};
use twofold_netd::world::Host;

fn main() -> ExitCode {
    if std::env::args().any(|word| word == "--version") {
        println!("twofold-netd {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("twofold-netd: {failed}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let landlock = harden::early()?;
    let starter = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let Some(wanted) = start(&starter)? else { return Ok(()) };
    let mut service = Service::new(wanted, Host, landlock)?;
    harden::late()?;
    service.confined("seccomp");
    service.converse(starter);
    service.run()
}
