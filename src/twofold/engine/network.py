"""The network process (`twofold-netd`, crates/netd): QEMU's frames end there, and the policy is enforced there. Like the vault's
it outlives the agent and is found again by its record. All calls block, for a second or two at most."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
from pathlib import Path
from typing import Any

from twofold.engine.devices import GUEST_ADDRESS
from twofold.model.errors import DamagedError, TimedOutError, UnreachableError, from_wire
from twofold.platform.limits import start_time
from twofold.platform.peers import listen, send_fds
from twofold.platform.process import disown, reap
from twofold.platform.run import own, spawn

PROGRAM = "twofold-netd"
LINK, CONTROL, RECORD, LOG = "network-link.sock", "network.sock", "network.json", "network.log"
_SECONDS = 5.0
_LINE = 1 << 16


class Network:
    """A running network process. `pidfd` becomes readable when it ends; `close` lets go of it."""

    def __init__(self, pid: int, runtime: Path) -> None:
        self.pid, self._runtime = pid, runtime
        self.pidfd = os.pidfd_open(pid)

    @property
    def link(self) -> Path:
        """The socket that QEMU connects to."""
        return self._runtime / LINK

    def set_policy(self, reach: dict[str, Any]) -> None:
        """From now on this may be reached (`twofold.model.reach`); what is connected elsewhere is cut.

        Raises:
            BadInputError: not understood; what was allowed before still is. UnreachableError, TimedOutError: it did not answer.
        """
        self._call("policy", {"policy": reach})

    def status(self) -> dict[str, Any]:
        """docs/protocol.md, chapter 6."""
        return self._call("status", {})

    def kill(self) -> None:
        """End it at once; `stop` clears away after it."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def stop(self) -> None:
        """End it: whatever the guest was connected to is cut. Idempotent."""
        if self.pidfd < 0:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)
            if select.select([self.pidfd], [], [], _SECONDS)[0]:
                break
        reap(self.pidfd)
        self.close()
        if _recorded(self._runtime) in (self.pid, None):
            for name in (LINK, CONTROL, RECORD):
                (self._runtime / name).unlink(missing_ok=True)

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def _call(self, verb: str, args: dict[str, Any]) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as stream:
            try:
                stream.connect(str(self._runtime / CONTROL))
                return _ask(stream, verb, args)
            except TimeoutError as late:
                raise TimedOutError("The network process did not answer in time.") from late
            except OSError as gone:
                raise _ended() from gone


def start(runtime: Path, reach: dict[str, Any]) -> Network:
    """Start the process of the workspace whose private folder is `runtime`. It ends by itself where no machine is connected for
    two minutes.

    Raises:
        MissingError: it was not built. BadInputError: it does not understand `reach`. UnreachableError: it did not come up.
    """
    with contextlib.ExitStack() as ours:
        link, control = (ours.enter_context(listen(runtime / name, backlog=4)) for name in (LINK, CONTROL))
        near, far = (ours.enter_context(each) for each in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
        log = ours.enter_context((runtime / LOG).open("wb"))
        child = spawn([own(PROGRAM)], stdin=far.fileno(), stderr=log)
        try:
            far.close()
            args = {"guest": GUEST_ADDRESS, "policy": reach}
            _ask(near, "open", args, [link.fileno(), control.fileno()])
            fresh = runtime / f"{RECORD}.new"
            fresh.write_text(json.dumps({"pid": child.pid, "started": start_time(child.pid)}))
            fresh.replace(runtime / RECORD)
            return Network(disown(child), runtime)
        except BaseException as failed:
            child.kill()
            child.wait()
            if isinstance(failed, OSError):
                raise _ended() from failed
            raise


def attach(runtime: Path) -> Network | None:
    """The process that a former agent left behind, if it is still that very process."""
    pid = _recorded(runtime)
    try:
        return None if pid is None else Network(pid, runtime)
    except ProcessLookupError:
        return None


def _ask(stream: socket.socket, verb: str, args: dict[str, Any], fds: list[int] | None = None) -> dict[str, Any]:
    stream.settimeout(_SECONDS)
    line = json.dumps({"id": 1, "do": verb, "args": args, "fds": len(fds or [])}).encode() + b"\n"
    send_fds(stream, line, fds or [])
    answer = b""
    while not answer.endswith(b"\n"):
        more = stream.recv(_LINE)
        if not more or len(answer) > _LINE:
            raise _ended()
        answer += more
    try:
        message = json.loads(answer)
        if "error" in message:
            raise from_wire(message["error"])
        return dict(message["ok"])
    except (ValueError, KeyError, TypeError) as wrong:
        raise DamagedError("The network process sent what is no answer.") from wrong


def _recorded(runtime: Path) -> int | None:
    try:
        untrusted_record = json.loads((runtime / RECORD).read_bytes())
        pid, started = untrusted_record["pid"], untrusted_record["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if type(pid) is not int or started is None or start_time(pid) != started:
        return None
    return pid


def _ended() -> UnreachableError:
    return UnreachableError(
        "The workspace's network process has stopped.",
        safe="Nothing of the workspace can be reached, and it reaches nothing.",
    )
