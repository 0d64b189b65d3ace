"""The agent API's wire (docs/protocol.md, chapter 2): connections, lines, limits, errors, descriptors."""

from __future__ import annotations

import array
import asyncio
import functools
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twofold.model.errors import BadInputError, RefusedError, TwofoldError, UsageError
from twofold.platform import peers

log = logging.getLogger(__name__)

LINE_LIMIT = 1 << 20
LINE_SECONDS = 30.0  # a line once begun must end within this
SEND_SECONDS = 10.0  # a peer that does not read for this long is let go
CONNECTIONS = 64
MALFORMED = 64
OUTBOX = 1024  # events waiting for a slow watcher
_AT_ONCE = 16  # calls of one connection under way at once
_TEXT = 4096


@dataclass(frozen=True)
class Answer:
    """What a verb answers; `give` are sockets whose descriptors go along (ours are closed once they are sent)."""

    ok: Mapping[str, Any] = field(default_factory=dict)
    give: tuple[socket.socket, ...] = ()


@dataclass(frozen=True)
class Verb:
    """A handler and its arguments: name to default, whose type is the argument's; `...` marks one that must be given."""

    do: Callable[..., Awaitable[Answer]]
    args: Mapping[str, tuple[type, Any]] = field(default_factory=dict)
    stream: bool = False


def arguments(verb: Verb, untrusted_args: object) -> dict[str, Any]:
    """Validate a call's arguments against the verb's own.

    Raises:
        UsageError: unknown, missing, of another type or too long.
    """
    if not isinstance(untrusted_args, dict):
        raise UsageError("The arguments are not an object.")
    unknown = sorted(str(name)[:40] for name in untrusted_args.keys() - verb.args.keys())
    if unknown:
        raise UsageError(f"Unknown arguments: {', '.join(unknown[:8])}.")
    args = {}
    for name, (kind, default) in verb.args.items():
        value = untrusted_args.get(name, default)
        if value is ...:
            raise UsageError(f"The argument {name} is missing.")
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise UsageError(f"The argument {name} must be {kind.__name__}.")
        if isinstance(value, str) and (len(value) > _TEXT or not value.isprintable()):
            raise UsageError(f"The argument {name} is not a line of printable text.")
        if isinstance(value, int | float) and not -(2**53) <= value <= 2**53:
            raise UsageError(f"The argument {name} is out of range.")
        args[name] = value
    return args


class Connection:
    """One peer, known to be our own user. Answers may come out of order; each carries its call's id."""

    def __init__(self, sock: socket.socket, verbs: Mapping[str, Verb]) -> None:
        self._sock, self._verbs = sock, verbs
        self._loop = asyncio.get_running_loop()
        self.switcher = False
        self._malformed = 0
        self._sending = asyncio.Lock()
        self._calls: set[asyncio.Task[None]] = set()
        self._events: asyncio.Queue[bytes] | None = None

    def tell(self, event: Mapping[str, Any]) -> None:
        """Queue an event for a watcher; one that is too far behind is let go rather than served from ever more memory."""
        if self._events is None:
            return
        try:
            self._events.put_nowait(json.dumps(event).encode() + b"\n")
        except asyncio.QueueFull:
            log.warning("a watcher does not read; it is let go")
            self._events = None
            self._sock.shutdown(socket.SHUT_RDWR)

    @property
    def watching(self) -> bool:
        return self._events is not None

    async def serve(self) -> None:
        """Until the peer goes, sends rubbish or stops reading."""
        try:
            async for untrusted_line in self._lines():
                if len(self._calls) >= _AT_ONCE:
                    await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)
                task = self._loop.create_task(self._answer(untrusted_line))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)
        except (OSError, TimeoutError) as gone:
            log.debug("connection ended: %s", gone)
        finally:
            self._events = None
            for task in list(self._calls):
                task.cancel()
            if self._calls:
                await asyncio.wait(self._calls, timeout=5)
            self._sock.close()

    async def _lines(self) -> Any:
        buffer = bytearray()
        while True:
            # recv, not recvmsg: the kernel drops whatever descriptors a peer sends along (unix(7)).
            async with asyncio.timeout(LINE_SECONDS if buffer else None):
                data = await self._loop.sock_recv(self._sock, 65536)
            if not data:
                return
            buffer += data
            *lines, rest = bytes(buffer).split(b"\n")
            buffer = bytearray(rest)
            for line in lines:
                if len(line) < LINE_LIMIT:
                    yield line
            if len(rest) >= LINE_LIMIT or any(len(line) >= LINE_LIMIT for line in lines):
                await self._send(_error(None, BadInputError(f"A line has at most {LINE_LIMIT} bytes.")))
                return
            if self._malformed >= MALFORMED:
                return

    async def _answer(self, untrusted_line: bytes) -> None:
        number: int | None = None
        give: tuple[socket.socket, ...] = ()
        try:
            try:
                number, verb, args = self._read(untrusted_line)
            except TwofoldError:
                self._malformed += 1
                raise
            answer = await verb.do(**args)
            if verb.stream and self._events is None:
                self.switcher = bool(args.get("switcher"))
                self._events = asyncio.Queue(OUTBOX)
                pump = self._loop.create_task(self._pump(self._events))
                self._calls.add(pump)
            give = answer.give
            message = {"id": number, "ok": answer.ok} | ({"fds": len(give)} if give else {})
            line = json.dumps(message).encode() + b"\n"
        except TwofoldError as refused:
            line = _error(number, refused)
        except Exception:
            log.exception("a verb failed")
            line = _error(
                number, TwofoldError("The agent failed at this.", next="Look at the agent's log:  twofold log")
            )
        try:
            await self._send(line, give)
        except (OSError, TimeoutError):
            self._drop()
        finally:
            for sock in give:
                sock.close()

    def _read(self, untrusted_line: bytes) -> tuple[int, Verb, dict[str, Any]]:
        try:
            message = json.loads(untrusted_line)
        except (ValueError, RecursionError) as wrong:
            raise BadInputError("This line is not JSON.") from wrong
        if not isinstance(message, dict) or type(message.get("id")) is not int or not 0 <= message["id"] < 2**53:
            raise BadInputError("A call is an object with a whole number as its id.")
        verb = self._verbs.get(message["do"]) if isinstance(message.get("do"), str) else None
        try:
            if verb is None:
                raise UsageError("The agent does not know this verb.", next="Update Twofold on this device.")
            return message["id"], verb, arguments(verb, message.get("args", {}))
        except UsageError as wrong:
            # The id is good, so that the error reaches the call that it belongs to.
            raise _MisusedError(message["id"], wrong) from wrong

    async def _pump(self, events: asyncio.Queue[bytes]) -> None:
        try:
            while True:
                await self._send(await events.get())
        except (OSError, TimeoutError):
            self._drop()

    async def _send(self, data: bytes, give: tuple[socket.socket, ...] = ()) -> None:
        async with self._sending, asyncio.timeout(SEND_SECONDS):
            if give:
                rights = array.array("i", [sock.fileno() for sock in give])
                sent = 0
                while not sent:
                    try:
                        sent = self._sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                    except BlockingIOError:
                        await _writable(self._loop, self._sock)
                data = data[sent:]
            if data:
                await self._loop.sock_sendall(self._sock, data)

    def _drop(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is gone already


class _MisusedError(TwofoldError):
    """A usage error together with the id of its call."""

    def __init__(self, number: int, error: TwofoldError) -> None:
        super().__init__(error.happened, safe=error.safe, next=error.next)
        self.number, self.error = number, error


def _error(number: int | None, error: TwofoldError) -> bytes:
    if isinstance(error, _MisusedError):
        number, error = error.number, error.error
    return json.dumps({"id": number, "error": error.to_wire()}).encode() + b"\n"


async def _writable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready = asyncio.Event()
    loop.add_writer(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(sock)


class Listener:
    """The socket: it lets in this user's processes and nobody else, and tells every watcher what happens."""

    def __init__(self, path: Path, verbs: Mapping[str, Verb]) -> None:
        self._path, self._verbs = path, verbs
        self._sock = peers.listen(path)
        self._sock.settimeout(0)
        self._connections: dict[Connection, asyncio.Task[None]] = {}

    def tell(self, event: Mapping[str, Any], *, switchers_only: bool = False) -> int:
        """Tell every watcher, or those alone that said they are a switcher; returns how many were told."""
        told = [each for each in self._watchers() if each.switcher or not switchers_only]
        for connection in told:
            connection.tell(event)
        return len(told)

    @property
    def switchers(self) -> int:
        return sum(each.switcher for each in self._watchers())

    def _watchers(self) -> list[Connection]:
        return [each for each in self._connections if each.watching]

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._sock)
            try:
                peers.require_same_user(sock)
                if len(self._connections) >= CONNECTIONS:
                    raise RefusedError("Too many connections.")
            except (RefusedError, OSError) as refused:
                log.warning("a connection was refused: %s", refused)
                sock.close()
                continue
            sock.settimeout(0)
            connection = Connection(sock, self._verbs)
            task = loop.create_task(connection.serve())
            self._connections[connection] = task
            task.add_done_callback(functools.partial(self._forget, connection))

    def _forget(self, connection: Connection, _: asyncio.Task[None]) -> None:
        self._connections.pop(connection, None)

    async def close(self) -> None:
        self._sock.close()
        self._path.unlink(missing_ok=True)
        # A short while for answers that are on their way, `quit`'s own among them.
        await asyncio.sleep(0.05)
        for task in list(self._connections.values()):
            task.cancel()
        if self._connections:
            await asyncio.wait(list(self._connections.values()), timeout=5)
