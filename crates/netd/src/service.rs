//! The process as a whole: its starter, who controls it, QEMU, and the one loop in which everything happens.

use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use smoltcp::wire::EthernetAddress;

use crate::link::Link;
use crate::network::{Network, Waited};
use crate::policy::{Document, Policy};
use crate::world::World;

/// Bytes of a line with its newline: room for the largest policy.
const LIMIT: usize = 1 << 20;
/// Conversations at once.
const MOST: usize = 8;
/// Without QEMU for so long, nobody will come any more: seconds.
const ALONE: u64 = 120;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    id: u64,
    #[serde(rename = "do")]
    verb: String,
    #[serde(default)]
    args: Value,
    #[serde(default)]
    fds: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Opening {
    guest: String,
    policy: Document,
    #[serde(default = "alone")]
    alone: u64,
}

fn alone() -> u64 {
    ALONE
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changing {
    policy: Document,
}

/// What a starter wants.
#[derive(Debug)]
pub struct Start {
    guest: EthernetAddress,
    policy: Policy,
    alone: Duration,
    link: UnixListener,
    control: UnixListener,
}

/// Wait for the starter's word; `None` where it hung up without one. Its conversation goes on.
///
/// # Errors
/// What it said is not understood.
pub fn start(mut starter: &UnixStream) -> io::Result<Option<Start>> {
    require_same_user(starter)?;
    let (mut line, mut fds) = (Vec::new(), Vec::<OwnedFd>::new());
    loop {
        while !line.ends_with(b"\n") {
            let mut room = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut rights = RecvAncillaryBuffer::new(&mut space);
            let got = recvmsg(starter, &mut [IoSliceMut::new(&mut room)], &mut rights, RecvFlags::CMSG_CLOEXEC)?;
            if got.bytes == 0 {
                return Ok(None);
            }
            for message in rights.drain() {
                if let RecvAncillaryMessage::ScmRights(more) = message {
                    fds.extend(more);
                }
            }
            line.extend_from_slice(&room[..got.bytes]);
            if line.len() > LIMIT || fds.len() > 2 {
                return Err(invalid("the line is too long"));
            }
        }
        let request: Request = serde_json::from_slice(&line).map_err(|_| invalid("the line is no request"))?;
        line.clear();
        if request.verb == "hello" {
            starter.write_all(&said(request.id, Ok(hello())))?;
            continue;
        }
        let started = opening(&request, std::mem::take(&mut fds));
        let answer = started.as_ref().map(|_| json!({})).map_err(ToString::to_string);
        starter.write_all(&said(request.id, answer))?;
        return started.map(Some);
    }
}

fn opening(request: &Request, fds: Vec<OwnedFd>) -> io::Result<Start> {
    if request.verb != "open" || request.fds != 2 {
        return Err(invalid("the first request is open, with two sockets"));
    }
    let Opening { guest, policy, alone } =
        serde_json::from_value(request.args.clone()).map_err(|wrong| invalid(&wrong.to_string()))?;
    let policy = Policy::try_from(policy).map_err(invalid)?;
    let guest = hardware(&guest).ok_or_else(|| invalid("the guest's address is none"))?;
    let [link, control]: [OwnedFd; 2] = fds.try_into().map_err(|_| invalid("two sockets are wanted"))?;
    let (link, control) = (UnixListener::from(link), UnixListener::from(control));
    link.set_nonblocking(true)?;
    control.set_nonblocking(true)?;
    Ok(Start { guest, policy, alone: Duration::from_secs(alone), link, control })
}

fn hardware(text: &str) -> Option<EthernetAddress> {
    let bytes = text.split(':').map(|two| u8::from_str_radix(two, 16).ok().filter(|_| two.len() == 2));
    let bytes: [u8; 6] = bytes.collect::<Option<Vec<_>>>()?.try_into().ok()?;
    let address = EthernetAddress(bytes);
    address.is_unicast().then_some(address)
}

fn hello() -> Value {
    json!({"netd": env!("CARGO_PKG_VERSION"), "api": 1})
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, why)
}

fn said(id: u64, answer: Result<Value, String>) -> Vec<u8> {
    let body = match answer {
        Ok(body) => json!({"id": id, "ok": body}),
        Err(why) => {
            let error = json!({"code": "bad-input", "happened": format!("The network process refused: {why}."),
                "safe": "Its policy is what it was.", "next": ""});
            json!({"id": id, "error": error})
        }
    };
    let mut line = body.to_string().into_bytes();
    line.push(b'\n');
    line
}

fn require_same_user(stream: &UnixStream) -> io::Result<()> {
    if socket_peercred(stream)?.uid == rustix::process::geteuid() {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::PermissionDenied, "the peer is another user"))
}

struct Conversation {
    stream: UnixStream,
    line: Vec<u8>,
}

/// What is waited for, in the order of the descriptors.
#[derive(Clone, Copy)]
enum Source {
    Waker,
    Links,
    Link,
    Controls,
    Control(usize),
    Outside(Waited),
}

/// The process once it is started.
pub struct Service<W: World> {
    network: Network<W>,
    links: UnixListener,
    controls: UnixListener,
    conversations: Vec<Conversation>,
    link: Option<Link>,
    woken: UnixStream,
    alone: Duration,
    since: Instant,
    confined: Vec<&'static str>,
}

impl<W: World> Service<W> {
    /// With all threads that it will ever have.
    ///
    /// # Errors
    /// There are no more threads or descriptors.
    pub fn new(start: Start, world: W, landlock: bool) -> io::Result<Self> {
        let (woken, waker) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let mut network = Network::new(Arc::new(world), start.guest, &waker)?;
        network.set_policy(start.policy);
        Ok(Self {
            network,
            links: start.link,
            controls: start.control,
            conversations: Vec::new(),
            link: None,
            woken,
            alone: start.alone,
            since: Instant::now(),
            confined: if landlock { vec!["landlock"] } else { Vec::new() },
        })
    }

    /// It has been confined in this way too.
    pub fn confined(&mut self, how: &'static str) {
        self.confined.push(how);
    }

    /// Until it is told to stop, or is left alone.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub fn run(&mut self) -> io::Result<()> {
        loop {
            let ready = self.wait()?;
            let now = Instant::now();
            for (source, flags) in ready {
                match source {
                    Source::Waker => while matches!(self.woken.read(&mut [0; 64]), Ok(1..)) {},
                    Source::Links => self.connect(),
                    Source::Link => self.receive(now, flags),
                    Source::Controls => self.greet(),
                    Source::Control(at) => {
                        if !self.hear(at) {
                            return Ok(());
                        }
                    }
                    Source::Outside(waited) => self.network.ready(now, waited),
                }
            }
            self.conversations.retain(|each| each.line.len() <= LIMIT);
            self.network.turn(now);
            self.send();
            if self.link.is_some() {
                self.since = now;
            } else if now.duration_since(self.since) >= self.alone {
                return Ok(());
            }
        }
    }

    fn wait(&mut self) -> io::Result<Vec<(Source, PollFlags)>> {
        let now = Instant::now();
        let patience = match self.link {
            Some(_) => self.network.delay(now),
            None => Some(self.alone.saturating_sub(now.duration_since(self.since)) + Duration::from_millis(1)),
        };
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        let mut sources = vec![Source::Waker, Source::Controls];
        let mut fds = vec![
            PollFd::new(&self.woken, PollFlags::IN),
            PollFd::new(
                &self.controls,
                if self.conversations.len() < MOST { PollFlags::IN } else { PollFlags::empty() },
            ),
        ];
        match &self.link {
            None => {
                sources.push(Source::Links);
                fds.push(PollFd::new(&self.links, PollFlags::IN));
            }
            Some(link) => {
                let mut flags = if self.network.behind() { PollFlags::empty() } else { PollFlags::IN };
                flags.set(PollFlags::OUT, self.network.waiting());
                sources.push(Source::Link);
                fds.push(PollFd::new(link.stream(), flags));
            }
        }
        for (at, each) in self.conversations.iter().enumerate() {
            sources.push(Source::Control(at));
            fds.push(PollFd::new(&each.stream, PollFlags::IN));
        }
        for (waited, fd, read, write) in self.network.waits() {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, read);
            flags.set(PollFlags::OUT, write);
            sources.push(Source::Outside(waited));
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(failed) => return Err(failed.into()),
        }
        let ready = sources.into_iter().zip(fds.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn connect(&mut self) {
        let Ok((stream, _)) = self.links.accept() else { return };
        if require_same_user(&stream).is_ok() {
            self.link = Link::new(stream).ok();
        }
    }

    fn receive(&mut self, now: Instant, flags: PollFlags) {
        let Some(link) = &mut self.link else { return };
        let readable = flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        if readable && !link.receive(|untrusted_frame| self.network.frame(now, untrusted_frame)) {
            self.lose();
        }
    }

    fn send(&mut self) {
        match &mut self.link {
            Some(link) => {
                if !link.send(self.network.out()) {
                    self.lose();
                }
            }
            None => self.network.out().clear(),
        }
    }

    fn lose(&mut self) {
        self.link = None;
        self.network.clear();
    }

    fn greet(&mut self) {
        let Ok((stream, _)) = self.controls.accept() else { return };
        self.converse(stream);
    }

    /// Somebody who may change the policy.
    pub fn converse(&mut self, stream: UnixStream) {
        if require_same_user(&stream).is_ok() && stream.set_nonblocking(true).is_ok() {
            self.conversations.push(Conversation { stream, line: Vec::new() });
        }
    }

    /// False where the process is to end.
    fn hear(&mut self, at: usize) -> bool {
        let Some(each) = self.conversations.get_mut(at) else { return true };
        let mut room = [0; 16 << 10];
        match each.stream.read(&mut room) {
            Ok(length @ 1..) => each.line.extend_from_slice(&room[..length]),
            Err(failed) if matches!(failed.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return true,
            _ => {
                each.line = vec![0; LIMIT + 1]; // over: dropped after this round
                return true;
            }
        }
        while let Some(end) = self.conversations[at].line.iter().position(|byte| *byte == b'\n') {
            let untrusted_line: Vec<u8> = self.conversations[at].line.drain(..=end).collect();
            let (answer, goes_on) = match serde_json::from_slice::<Request>(&untrusted_line) {
                Ok(request) => {
                    let goes_on = request.verb != "stop";
                    (said(request.id, self.obey(request)), goes_on)
                }
                Err(_) => (said(0, Err("the line is no request".into())), true),
            };
            let _ = self.conversations[at].stream.write_all(&answer);
            if !goes_on {
                return false;
            }
        }
        true
    }

    fn obey(&mut self, request: Request) -> Result<Value, String> {
        match request.verb.as_str() {
            "hello" => Ok(hello()),
            "stop" => Ok(json!({})),
            "status" => {
                let (tcp, udp, names) = self.network.counts();
                Ok(
                    json!({"guest": self.link.is_some(), "tcp": tcp, "udp": udp, "names": names, "confined": self.confined}),
                )
            }
            "policy" => {
                let Changing { policy } = serde_json::from_value(request.args).map_err(|wrong| wrong.to_string())?;
                self.network.set_policy(Policy::try_from(policy)?);
                Ok(json!({}))
            }
            _ => Err("there is no such verb".into()),
        }
    }
}
