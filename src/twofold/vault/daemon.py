"""The vault process, until ours lands: QEMU's storage daemon over encrypted qcow2 files. It holds the key, serves NBD on one
private socket, outlives the agent, and keeps the vault's lock as long as it lives."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.model.errors import DamagedError, TimedOutError, TwofoldError, UnreachableError
from twofold.platform import cgroup
from twofold.platform.limits import harden, start_time
from twofold.platform.peers import listen
from twofold.platform.process import disown, reap
from twofold.platform.run import spawn

SOCKET, RECORD, LOG = "vault.sock", "vault.json", "vault.log"
_START_SECONDS = 20.0
_STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Export:
    """A qcow2 file served under `name`."""

    name: str
    file: Path
    writable: bool


class Daemon:
    """A running storage daemon."""

    def __init__(self, pid: int, runtime: Path) -> None:
        self.pid, self._runtime = pid, runtime
        self._pidfd = os.pidfd_open(pid)

    def connect(self) -> socket.socket:
        """Raises UnreachableError where the process has ended."""
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            stream.connect(str(self._runtime / SOCKET))
        except OSError as gone:
            stream.close()
            raise UnreachableError(
                "The workspace's store has stopped.",
                safe="What the guest had saved is on the disk.",
                next="Stop the workspace and start it again.",
            ) from gone
        return stream

    def alive(self) -> bool:
        if self._pidfd < 0:
            return False
        return not select.select([self._pidfd], [], [], 0)[0]

    def stop(self) -> None:
        """End it cleanly: everything flushed, the lock free. Idempotent."""
        if self._pidfd < 0:
            return
        for number, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, 5)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
            if select.select([self._pidfd], [], [], seconds)[0]:
                break
        reap(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        for name in (SOCKET, RECORD):
            (self._runtime / name).unlink(missing_ok=True)
        cgroup.release(self._runtime.name)


def secret(passphrase: bytes) -> int:
    """A descriptor from which a program can read the passphrase once. The caller closes it."""
    reader, writer = os.pipe()
    os.write(writer, passphrase)
    os.close(writer)
    return reader


def start(exports: Sequence[Export], passphrase: bytes, lock: int, runtime: Path) -> Daemon:
    """Start the process with the key on a pipe and the locked descriptor `lock` inherited.

    Raises:
        DamagedError: a file cannot be opened with this key.
    """
    with contextlib.ExitStack() as ours:
        server = ours.enter_context(listen(runtime / SOCKET))
        reader = secret(passphrase)
        ours.callback(os.close, reader)
        log = ours.enter_context((runtime / LOG).open("wb"))
        child = spawn(_argv(exports, server.fileno(), reader), pass_fds=(server.fileno(), reader, lock), stderr=log)
    harden(child.pid, oom_adjust=-500)
    cgroup.favour(child.pid, runtime.name)  # the group of the machine that will wait for it
    try:
        _greeted(child, runtime)
    except BaseException:
        child.kill()
        child.wait()
        cgroup.release(runtime.name)
        (runtime / SOCKET).unlink(missing_ok=True)
        raise
    record = {"pid": child.pid, "started": start_time(child.pid)}
    fresh = runtime / f"{RECORD}.new"
    fresh.write_text(json.dumps(record))
    fresh.replace(runtime / RECORD)
    return Daemon(disown(child), runtime)


def attach(runtime: Path) -> Daemon | None:
    """The process that a former agent left behind, if it is still that very process."""
    try:
        untrusted_record = json.loads((runtime / RECORD).read_bytes())
        pid, started = untrusted_record["pid"], untrusted_record["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if type(pid) is not int or started is None or start_time(pid) != started:
        return None
    return Daemon(pid, runtime)


def release(lock: Path) -> None:
    """End the processes of ours that have the file `lock` open. One that nobody recorded, since its agent died just then, is
    found by nothing else, and while it lives nobody can open the vault."""
    for pid in _holders(lock):
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if _holds(pid, lock):  # the pidfd is of this very process, whatever has become of the number
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
                if not select.select([pidfd], [], [], _STOP_SECONDS)[0]:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    select.select([pidfd], [], [], 5)
                reap(pidfd)
        except ProcessLookupError:
            pass  # it has ended by itself
        finally:
            os.close(pidfd)


def _holders(lock: Path) -> list[int]:
    return [
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _holds(int(entry.name), lock)
    ]


def _holds(pid: int, lock: Path) -> bool:
    """Whether it is a storage daemon that has `lock` open (proc_pid_fd(5)); other users' processes can't be looked into."""
    try:
        if "qemu-storage-daemon" not in Path(f"/proc/{pid}/exe").readlink().name:
            return False
        wanted = lock.stat()
        return any(os.path.samestat(each.stat(), wanted) for each in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def _argv(exports: Sequence[Export], server: int, reader: int) -> list[str]:
    argv = ["qemu-storage-daemon", "--object", f"secret,id=key,file=/proc/self/fd/{reader}"]
    argv += ["--nbd-server", f"addr.type=fd,addr.str={server}"]
    for number, export in enumerate(exports):
        # JSON, since a path may hold commas; node names are short and ours.
        file = {"driver": "file", "filename": str(export.file), "discard": "unmap", "read-only": not export.writable}
        node = {
            "driver": "qcow2", "node-name": f"node{number}", "file": file, "read-only": not export.writable,
            "encrypt": {"format": "luks", "key-secret": "key"}, "discard": "unmap",
        }  # fmt: skip
        argv += ["--blockdev", json.dumps(node)]
        serve = {
            "type": "nbd", "id": f"export{number}", "node-name": f"node{number}", "name": export.name,
            "writable": export.writable,
        }  # fmt: skip
        argv += ["--export", json.dumps(serve)]
    return argv


def _greeted(child: subprocess.Popen[bytes], runtime: Path) -> None:
    """Wait until the NBD server speaks: its socket is ours and takes connections before."""
    deadline = time.monotonic() + _START_SECONDS
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(0.05)
        try:
            probe.connect(str(runtime / SOCKET))
        except ConnectionRefusedError:
            child.wait(timeout=5)  # it has ended already, and its end of the socket with it
            raise _refused((runtime / LOG).read_text(errors="replace")) from None
        while time.monotonic() < deadline:
            try:
                if probe.recv(8):
                    return
            except TimeoutError:
                pass
            except OSError:
                child.wait(timeout=5)
            if child.poll() is not None:
                raise _refused((runtime / LOG).read_text(errors="replace"))
    raise TimedOutError(f"The workspace's store did not start within {_START_SECONDS:g} s.", safe="The disks are safe.")


def _refused(said: str) -> TwofoldError:
    why = "the key does not open it" if "Invalid password" in said else (said.strip().splitlines() or ["no reason"])[-1]
    return DamagedError(
        f"The workspace's disks cannot be opened: {why[:300]}.",
        safe="Nothing was written to them.",
        next="Restore the vault's folder from a backup, or roll back to the server's copy.",
    )
