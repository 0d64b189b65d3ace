//! One JSON object a line over a Unix stream, descriptors on the first byte of the line that names them (`docs/protocol.md`).

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::said::Said;

/// Bytes of a line with its newline.
pub const LIMIT: usize = 256 << 10;
/// Descriptors that may wait for their line, and that one line may carry.
pub const FDS: usize = 8;

/// A request as it came; its verb and arguments are not validated yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Repeated in the answer.
    pub id: u64,
    /// The verb.
    #[serde(rename = "do")]
    pub verb: String,
    /// The verb's arguments.
    #[serde(default)]
    pub args: Value,
    /// Descriptors that came with it.
    #[serde(default)]
    fds: usize,
}

/// A peer's stream. It has been accepted only if the peer is the same user.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    buffer: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Wire {
    /// Take a connected stream.
    ///
    /// # Errors
    /// The peer runs as another user (unix(7), `SO_PEERCRED`); not a byte of it has been read.
    pub fn accept(stream: UnixStream) -> Result<Self, Said> {
        let peer = socket_peercred(&stream)?;
        if peer.uid != rustix::process::geteuid() {
            return Err(Said::bad("The peer is another user."));
        }
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { stream, buffer: Vec::new(), fds: VecDeque::new() })
    }

    /// A second handle, to write to.
    pub fn writer(&self) -> Result<Writer, Said> {
        Ok(Writer(self.stream.try_clone()?))
    }

    /// The next request and its descriptors; `None` where the peer has ended.
    ///
    /// # Errors
    /// The line is too long, no request, or its descriptors are not there; the stream is of no use any more.
    pub fn receive(&mut self) -> Result<Option<(Request, Vec<OwnedFd>)>, Said> {
        let Some(untrusted_line) = self.line()? else { return Ok(None) };
        let request: Request =
            serde_json::from_slice(&untrusted_line).map_err(|_| Said::bad("The line is no request."))?;
        if request.fds > self.fds.len() || request.fds > FDS {
            return Err(Said::bad("The request's descriptors are not there."));
        }
        let fds = self.fds.drain(..request.fds).collect();
        Ok(Some((request, fds)))
    }

    fn line(&mut self) -> Result<Option<Vec<u8>>, Said> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(searched + end + 1);
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
            searched = self.buffer.len();
            if searched >= LIMIT {
                return Err(Said::bad("The line is too long."));
            }
            if !self.more()? {
                return Ok(None);
            }
        }
    }

    /// Read what there is; false at the end.
    fn more(&mut self) -> Result<bool, Said> {
        let mut room = [0; 16 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            match recvmsg(&self.stream, &mut [IoSliceMut::new(&mut room)], &mut rights, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(false),
                other => break other?,
            }
        };
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if self.fds.len() > FDS {
            return Err(Said::bad("Too many descriptors came."));
        }
        self.buffer.extend_from_slice(&room[..got.bytes]);
        Ok(got.bytes > 0)
    }
}

/// The writing half of a peer's stream.
#[derive(Debug)]
pub struct Writer(UnixStream);

impl Writer {
    /// A second handle on the same stream.
    pub fn twin(&self) -> Result<Self, Said> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Send one object as a line, with descriptors.
    ///
    /// # Errors
    /// The peer is gone, or reads nothing for long.
    pub fn send(&mut self, body: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), Said> {
        let mut line = serde_json::to_vec(body).map_err(|failed| Said::bad(failed.to_string()))?;
        line.push(b'\n');
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !rights.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Said::bad("Too many descriptors for one line."));
        }
        let mut sent = 0;
        while sent < line.len() {
            match sendmsg(&self.0, &[IoSlice::new(&line[sent..])], &mut rights, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                other => {
                    sent += other?;
                    rights.clear();
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    fn pair() -> (Wire, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Wire::accept(ours).unwrap(), theirs)
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let (mut wire, mut peer) = pair();
        let text = b"{\"id\":1,\"do\":\"a\"}\n{\"id\":2,\"do\":\"b\",\"args\":{\"x\":[1]}}\n";
        let sender = std::thread::spawn(move || text.chunks(3).for_each(|part| peer.write_all(part).unwrap()));
        for wanted in [1, 2] {
            assert_eq!(wire.receive().unwrap().unwrap().0.id, wanted);
        }
        sender.join().unwrap();
        assert!(wire.receive().unwrap().is_none());
    }

    #[test]
    fn descriptors_arrive_with_the_line_that_names_them() {
        let (mut wire, peer) = pair();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let request = serde_json::json!({"id": 1, "do": "x", "fds": 1});
        Writer(peer).send(&request, &[theirs.as_fd()]).unwrap();
        drop(theirs);
        let (_, mut fds) = wire.receive().unwrap().unwrap();
        assert_eq!(fds.len(), 1);
        UnixStream::from(fds.remove(0)).write_all(b"hello").unwrap();
        let mut got = [0; 5];
        ours.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for line in [
            "x\n",
            "{}\n",
            "[]\n",
            "{\"id\":-1,\"do\":\"a\"}\n",
            "{\"id\":1,\"do\":\"a\",\"z\":1}\n",
            "{\"id\":1,\"do\":\"a\",\"fds\":1}\n",
        ] {
            let (mut wire, mut peer) = pair();
            peer.write_all(line.as_bytes()).unwrap();
            assert!(wire.receive().is_err(), "{line}");
        }
        let (mut wire, mut peer) = pair();
        let sender = std::thread::spawn(move || peer.write_all(&vec![b' '; LIMIT + (1 << 20)]));
        assert!(wire.receive().is_err());
        drop(wire);
        assert!(sender.join().unwrap().is_err());
    }
}
