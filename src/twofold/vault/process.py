"""The vault process (`twofold-vaultd`, crates/vaultd): started with a socket as its standard input, found again by its record in
the runtime folder, ended by its own word. It alone holds the plain data key."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from twofold.model.errors import TwofoldError
from twofold.model.progress import Progress, silent
from twofold.platform import cgroup
from twofold.platform.limits import start_time
from twofold.platform.process import disown, reap
from twofold.platform.run import own, spawn
from twofold.vault.control import Conversation, ended

PROGRAM = "twofold-vaultd"
SOCKET, NBD, RECORD, LOG = "vault.sock", "vault-nbd.sock", "vault.json", "vault.log"
_STOP_SECONDS = 30.0


class Starter(Conversation):
    """A process just started, and the conversation with it that alone may open a vault. It ends with this conversation unless
    it was told to open a vault with a listening socket."""

    def __init__(self, log: Path | None = None) -> None:
        sink = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.child = spawn([own(PROGRAM)], stdin=theirs.fileno(), stderr=sink)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(sink)
        super().__init__(ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, seconds: float = _STOP_SECONDS) -> None:
        """Hang up and wait until the process has gone. Idempotent."""
        self.close()
        try:
            self.child.wait(seconds)
        finally:
            if self.child.poll() is None:
                self.child.kill()
                self.child.wait()


class Process:
    """A vault process that serves an open vault."""

    def __init__(self, pid: int, runtime: Path) -> None:
        self.pid, self.runtime = pid, runtime
        self._pidfd = os.pidfd_open(pid)

    def call(
        self,
        verb: str,
        args: dict[str, Any] | None = None,
        fds: Sequence[int] = (),
        progress: Progress = silent,
        step: str = "",
    ) -> tuple[dict[str, Any], list[int]]:
        """One request on a connection of its own, so that a long one stands in nobody's way. Raises as `Conversation.call`."""
        with self.session() as conversation:
            return conversation.call(verb, args, fds, progress, step)

    @contextlib.contextmanager
    def session(self) -> Iterator[Conversation]:
        """A connection of its own for calls that belong together."""
        with contextlib.closing(Conversation(self._connect())) as conversation:
            yield conversation

    def _connect(self) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            stream.connect(str(self.runtime / SOCKET))
        except OSError as gone:
            stream.close()
            raise ended() from gone
        return stream

    def alive(self) -> bool:
        return self._pidfd >= 0 and not select.select([self._pidfd], [], [], 0)[0]

    def stop(self) -> None:
        """End it: everything durable, the key gone. What kept it from closing cleanly is raised once it is gone. Idempotent."""
        if self._pidfd < 0:
            return
        unclean = None
        try:
            if self.alive():
                self.call("stop")
        except TwofoldError as failed:
            unclean = failed if self.alive() else None
        _end(self._pidfd, 5 if unclean is None else 0)
        os.close(self._pidfd)
        self._pidfd = -1
        if _recorded(self.runtime) in (self.pid, None):  # else another has taken its place, and these are its own
            for name in (SOCKET, NBD, RECORD):
                (self.runtime / name).unlink(missing_ok=True)
            cgroup.release(self.runtime.name)
        if unclean is not None:
            raise unclean


def _end(pidfd: int, patience: float) -> None:
    """Wait for a process's end, and insist on it."""
    for number, seconds in ((None, patience), (signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, 5)):
        if number is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
        if select.select([pidfd], [], [], seconds)[0]:
            break
    reap(pidfd)


def keep(starter: Starter, runtime: Path) -> Process:
    """From a starter whose process now listens: let go of the conversation, and record the process for the next agent."""
    record = {"pid": starter.child.pid, "started": start_time(starter.child.pid)}
    fresh = runtime / f"{RECORD}.new"
    fresh.write_text(json.dumps(record))
    fresh.replace(runtime / RECORD)
    starter.close()
    return Process(disown(starter.child), runtime)


def attach(runtime: Path) -> Process | None:
    """The process that a former agent left behind, if it is still that very process."""
    pid = _recorded(runtime)
    return None if pid is None else Process(pid, runtime)


def _recorded(runtime: Path) -> int | None:
    try:
        untrusted_record = json.loads((runtime / RECORD).read_bytes())
        pid, started = untrusted_record["pid"], untrusted_record["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if type(pid) is not int or started is None or start_time(pid) != started:
        return None
    return pid


def release(lock: Path, *, given_up: bool = False) -> None:
    """End the process of ours that holds the file `lock`. One that nobody recorded, since its agent died just then, is found by
    nothing else, and while it lives nobody can open the vault. `given_up`: nothing of the vault is wanted any more, and it
    need not close; one that waits for pieces from afar, which its dead agent was to bring, would take ten seconds for that."""
    for pid in _holders(lock):
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if pid in _holders(lock):  # the pidfd is of this very process, whatever has become of the number
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL if given_up else signal.SIGTERM)
                _end(pidfd, _STOP_SECONDS)
        finally:
            os.close(pidfd)


def free(lock: Path, seconds: float = 0.5) -> bool:
    """Whether no vault process holds `lock`; one whose agent has just died is given a moment to end by itself."""
    end = time.monotonic() + seconds
    while held := bool(_holders(lock)):
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    return not held


def _holders(lock: Path) -> list[int]:
    """The vault processes that hold it. They cannot be looked into, so the kernel's own list is asked (proc_locks(5))."""
    try:
        inode = lock.stat().st_ino
    except OSError:
        return []
    found = []
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()  # 1: FLOCK ADVISORY WRITE 4242 00:2a:1234 0 EOF
        if len(words) > 5 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
            found.append(int(words[4]))
    return [pid for pid in found if _ours(pid)]


def _ours(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == PROGRAM[:15]
    except OSError:
        return False
