"""The agent's API from the other end: small and blocking, for the switcher, the command line and tests."""

from __future__ import annotations

import array
import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

from twofold.model.errors import BadInputError, ConflictError, TimedOutError, UnreachableError, from_wire
from twofold.platform.dirs import dirs
from twofold.platform.peers import require_same_user
from twofold.platform.run import replayable, spawn

LINE_LIMIT = 1 << 20
# What an agent started on demand must share with whoever starts it; a plain child would get less (platform.run).
_SHARED = ("TWOFOLD_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "PYTHONPATH", "DBUS_SESSION_BUS_ADDRESS",
           "DISPLAY", "WAYLAND_DISPLAY", "XDG_SESSION_TYPE", "SSL_CERT_FILE")  # fmt: skip
_START_LIMIT = 15.0


class Client:
    """One connection to the agent. Calls wait for their answers in order; use one client per thread."""

    def __init__(self, path: Path | None = None, *, timeout: float = 60) -> None:
        """Raises: UnreachableError: no agent listens. RefusedError: the socket is another user's."""
        self.path = path or dirs().agent_socket
        self.timeout = timeout
        self._sock = _connect(self.path)
        self._lines = _Lines(self._sock)
        self._next = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._lines.drop_fds()
        self._sock.close()

    def call(self, verb: str, *, deadline: float | None = None, **args: Any) -> dict[str, Any]:
        """Ask and wait, at most `deadline` seconds (else the client's own limit).

        Raises:
            TwofoldError: what the agent answered. TimedOutError, UnreachableError: it did not.
        """
        number = self.tell(verb, **args)
        end = time.monotonic() + (self.timeout if deadline is None else deadline)
        while True:
            message = self._lines.one(end)
            if message is None:
                raise TimedOutError(f"The agent did not answer '{verb}' in time.", next="Look at its log:  twofold log")
            if message.get("id") != number:
                continue  # an event, or the answer to a call that timed out before
            if "error" in message:
                raise from_wire(message["error"])
            answer = message.get("ok")
            return answer if isinstance(answer, dict) else {}

    def tell(self, verb: str, **args: Any) -> int:
        """Ask without waiting; returns the call's number. Raises: UnreachableError."""
        self._next += 1
        try:
            self._sock.sendall(json.dumps({"id": self._next, "do": verb, "args": args}).encode() + b"\n")
        except OSError as gone:
            raise _gone() from gone
        return self._next

    def fileno(self) -> int:
        return self._sock.fileno()

    def event(self, end: float | None) -> dict[str, Any] | None:
        """The next event; `end` as in `Watch.one`."""
        while (message := self._lines.one(end)) is not None:
            if "event" in message:
                return message
        return None

    def watch(self) -> Watch:
        """Events of the same agent, on a connection of their own."""
        return Watch(self.path)

    def display(self, workspace: str) -> socket.socket:
        """The machine's display stream; the caller owns it and becomes its D-Bus client."""
        self.call("display", workspace=workspace)
        fds = self._lines.take_fds()
        for extra in fds[1:]:
            os.close(extra)
        if not fds:
            raise BadInputError("The agent answered without the display's descriptor.")
        return socket.socket(fileno=fds[0])

    def follow(self, operation: dict[str, Any], *, limit: float = 3600) -> Iterator[dict[str, Any]]:
        """Yield an operation each time it changes, at last in its end state. Raises what it failed with."""
        end = time.monotonic() + limit
        with Watch(self.path) as watch:
            now = self.call("job", operation=operation["operation"])
            yield now
            while now["state"] in ("queued", "running", "paused"):
                event = watch.one(end)
                if event is None:
                    raise TimedOutError("The work is still under way.", next="Look again:  twofold jobs list")
                if event.get("event") == "operation" and event.get("operation") == now["operation"]:
                    now = event
                    yield now
        if now["error"] is not None:
            raise from_wire(now["error"])

    def finish(self, verb: str, *, limit: float = 3600, **args: Any) -> dict[str, Any]:
        """Call a verb that answers an operation and wait for its end; returns the operation."""
        return list(self.follow(self.call(verb, **args), limit=limit))[-1]


class Watch:
    """The stream of events on a connection of its own. `fileno` suits QSocketNotifier; then call `ready`."""

    def __init__(self, path: Path | None = None, *, switcher: bool = False) -> None:
        """`switcher` also receives the event `switch`: come to the front with this workspace."""
        self._client = Client(path)
        try:
            self._client.call("watch", **({"switcher": True} if switcher else {}))
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def fileno(self) -> int:
        return self._client.fileno()

    def one(self, end: float | None = None) -> dict[str, Any] | None:
        """The next event, waiting until the monotonic time `end` (None: as long as it takes); None when it has passed."""
        return self._client.event(end)

    def ready(self) -> list[dict[str, Any]]:
        """All events that are here now, without waiting. Raises UnreachableError once the agent is gone."""
        events = []
        while (event := self._client.event(0)) is not None:
            events.append(event)
        return events

    def say(self, verb: str, **args: Any) -> None:
        """Ask on this connection, beside its events; the answer is passed over. Raises: UnreachableError."""
        self._client.tell(verb, **args)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (event := self.one()) is not None:
            yield event


class _Lines:
    """Lines and the descriptors that came with them."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._buffer = sock, bytearray()
        self._fds: list[int] = []
        self._waiting: list[dict[str, Any]] = []

    def one(self, end: float | None) -> dict[str, Any] | None:
        while not self._waiting:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not select.select([self._sock], [], [], left)[0]:
                return None
            self._receive()
        return self._waiting.pop(0)

    def _receive(self) -> None:
        try:
            data, ancillary, _flags, _ = self._sock.recvmsg(65536, socket.CMSG_SPACE(8 * 4), socket.MSG_CMSG_CLOEXEC)
        except OSError as gone:
            raise _gone() from gone
        for level, kind, rights in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
                self._fds.extend(fds)
        if not data:
            raise _gone()
        self._buffer += data
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(rest)
        if len(rest) > LINE_LIMIT:
            raise BadInputError("The agent sent a line longer than the protocol allows.")
        for line in lines:
            message = json.loads(line)
            if isinstance(message, dict):
                self._waiting.append(message)

    def take_fds(self) -> list[int]:
        fds, self._fds = self._fds, []
        return fds

    def drop_fds(self) -> None:
        for fd in self.take_fds():
            os.close(fd)


def connect(path: Path | None = None) -> Client:
    """A client of the running agent, which is started first where none runs."""
    path = path or dirs().agent_socket
    with suppress(UnreachableError):
        return answering(path)
    argv = [sys.executable, "-m", "twofold.agent"]
    env = {name: os.environ[name] for name in _SHARED if name in os.environ}
    child = spawn(argv, env=env)
    end = time.monotonic() + _START_LIMIT
    while time.monotonic() < end:
        with suppress(UnreachableError):
            return answering(path)
        time.sleep(0.02)
        status = child.poll()
        if status == ConflictError.exit_code:
            # Another agent holds the lock: one that is starting and will answer, or one that is ending and will let go.
            time.sleep(0.2)
            child = spawn(argv, env=env)
        elif status is not None:
            break
    raise UnreachableError(
        "The agent did not start.",
        safe="Workspaces that run go on running.",
        next=f"See what it says:  {replayable([*argv, '--foreground'])}",
    )


def answering(path: Path) -> Client:
    """An answer, not only a connection: a child that a killed agent had just forked keeps its socket open until it executes."""
    with ExitStack() as undo:
        client = undo.enter_context(Client(path))
        client.call("hello")
        undo.pop_all()
    return client


def _connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect(str(path))
        require_same_user(sock)
    except OSError as refused:
        sock.close()
        raise UnreachableError(
            "The agent is not running.", safe="Workspaces that run go on running.", next="Start it:  twofold agent run"
        ) from refused
    except BaseException:
        sock.close()
        raise
    return sock


def _gone() -> UnreachableError:
    return UnreachableError(
        "The agent has ended the conversation.",
        safe="Workspaces that run go on running; the next agent takes them over.",
        next="Try again; see what happened with:  twofold log",
    )


def workspace_of(event: dict[str, Any]) -> str:
    """The workspace an event is about, or ''."""
    return cast(str, event.get("workspace", ""))
