"""Unix sockets between our processes: who is at the other end, and descriptors handed over."""

from __future__ import annotations

import array
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from twofold.model.errors import RefusedError

_UCRED = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED
MAX_FDS = 8


@dataclass(frozen=True)
class Peer:
    pid: int
    uid: int
    gid: int


def peer(sock: socket.socket) -> Peer:
    """The process at the other end, as the kernel knew it when it connected (unix(7), SO_PEERCRED)."""
    return Peer(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def require_same_user(sock: socket.socket) -> Peer:
    """Refuse a peer that runs as another user.

    Raises:
        RefusedError: the peer's user id is not ours.
    """
    who = peer(sock)
    if who.uid != os.geteuid():
        raise RefusedError("This socket belongs to another user of this machine.")
    return who


def listen(path: Path, backlog: int = 16) -> socket.socket:
    """A listening stream socket at `path`, mode 0600, replacing one that nobody listens on any more."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    path.unlink(missing_ok=True)
    old = os.umask(0o177)
    try:
        sock.bind(str(path))
    finally:
        os.umask(old)
    sock.listen(backlog)
    return sock


def send_fds(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    """Send `data` with descriptors attached to its first byte (unix(7), SCM_RIGHTS)."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([data], rights)
    if sent < len(data):
        sock.sendall(data[sent:])
