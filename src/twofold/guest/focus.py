"""Which kind of text field has the session's focus, as programs tell it to their input method.

To GTK's and Qt's own IBus modules this is an IBus: a bus of our own with nobody on it but the program and us (D-Bus Specification
0.43; IBus 1.5, org.freedesktop.IBus.InputContext). The name org.freedesktop.IBus is not on the session's bus, and so GTK's module
asks nobody about a key: it types, composes and holds dead keys as without an input method, whether we live or not.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twofold.guest import bus, wire
from twofold.guest.wire import Refusal

NONE, TEXT, PASSWORD = "", "text", "password"
# By IBusInputPurpose, which is GtkInputPurpose.
KINDS = (TEXT, TEXT, "digits", "number", "phone", "url", "email", "name", PASSWORD, "pin", "terminal")
SETTLE = 0.06  # seconds: a focus that goes from field to field is told once
EVERY = 0.25  # seconds between two events, whatever programs do
NUDGES = (0.3, 1.0, 3.0, 6.0)  # seconds after the screen has shrunk: programs take their time to follow
FOOT = 7 / 8  # of the screen's height: below it are a window's edge and the panel
MAX_CLIENTS, MAX_CONTEXTS, MAX_LETTER = 64, 512, 1 << 16
_FIELD = "org.freedesktop.IBus.InputContext"
_US = ":1.0"  # who answers; a signal of anybody else's is not heard
_SLOW = 0.5  # seconds that a window manager's word may come after its programs'
_RUNS_ALREADY = 2  # StartServiceByName


@dataclass
class _Client:
    """A program. `contexts` has the purpose of each of its fields, `open` those that have said they had the focus."""

    sock: socket.socket
    name: str
    messages: bus.Messages = field(default_factory=lambda: bus.Messages(MAX_LETTER))
    greeting: bytearray | None = field(default_factory=bytearray)
    out: bytearray = field(default_factory=bytearray)
    contexts: dict[str, int] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    serial: int = 0

    def answer(self, to: bus.Message, kind: int, signature: str, args: tuple[Any, ...], **head: Any) -> None:
        self.send(kind, signature, args, reply=to.serial, **head)

    def send(self, kind: int, signature: str, args: tuple[Any, ...], **head: Any) -> None:
        self.serial += 1
        head |= {"destination": self.name, "sender": _US}
        self.out += bus.message(kind, self.serial, bus.NO_REPLY, signature, args, **head)
        if len(self.out) > bus.MAX_PENDING:
            raise bus.Gone("it does not read")

    def flush(self) -> None:
        try:
            while self.out:
                del self.out[: self.sock.send(self.out)]
        except BlockingIOError:
            return


Field = tuple[_Client, str]


class Focus:
    """`folder` gets the socket and the file by which programs find it (IBUS_ADDRESS_FILE); `emit` tells the host."""

    def __init__(self, folder: Path, emit: Callable[[bytes], None]) -> None:
        self._emit = emit
        self._wanted = False
        self._clients: dict[int, _Client] = {}
        self._watched: dict[int, int] = {}
        self._numbers = 0
        self._field: Field | None = None
        self._hidden = False  # it is one that its program keeps from input methods, as far as can be told
        self._touched: Field | None = None  # such a one, if another field loses the focus now
        self._fresh = False
        self._told = NONE
        self._since = 0.0
        self._due: float | None = None
        self._last = 0.0
        self._foot = 0  # of the field's caret, in pixels of the screen
        self._height = 0
        self._nudges: list[float] = []
        self._server = _listen(folder)

    # -- the host -------------------------------------------------------------------------------------------------------

    def want(self, args: Mapping[str, Any]) -> dict[str, Any]:
        on = args.get("on")
        if type(on) is not bool:
            raise Refusal("bad-argument", "on must be true or false.")
        self._wanted, self._told = on, NONE
        self._moved()
        return {}

    @property
    def kind(self) -> str:
        """Of the field that has the focus; NONE where none has."""
        if self._field is None:
            return NONE
        client, path = self._field
        purpose = client.contexts.get(path, 0)
        return PASSWORD if self._hidden else KINDS[purpose] if purpose < len(KINDS) else TEXT

    # -- the loop -------------------------------------------------------------------------------------------------------

    def watch(self, poll: select.poll) -> None:
        """Before each wait."""
        if self._due is not None and time.monotonic() >= self._due:
            self._tell()
        if self._nudges and time.monotonic() >= self._nudges[0]:
            self._nudges.pop(0)
            self._nudge()
        wanted = {self._server.fileno(): select.POLLIN} if self._server is not None else {}
        for fd, client in self._clients.items():
            wanted[fd] = select.POLLIN | (select.POLLOUT if client.out else 0)
        for fd in self._watched.keys() - wanted.keys():
            poll.unregister(fd)
        for fd, events in wanted.items():
            if self._watched.get(fd) != events:
                poll.register(fd, events)
        self._watched = wanted

    def wait_ms(self, others: int | None) -> int | None:
        """How long the loop may sleep, `others` being the others' wish."""
        due = min(self._nudges[:1] + ([] if self._due is None else [self._due]), default=None)
        if due is None:
            return others
        mine = max(1, round((due - time.monotonic()) * 1000))
        return mine if others is None else min(mine, others)

    def turn(self, ready: set[int]) -> None:
        if self._server is not None and self._server.fileno() in ready:
            self._accept(self._server)
        for fd in ready & self._clients.keys():
            client = self._clients[fd]
            try:
                self._read(client)
                client.flush()
            except (OSError, bus.Malformed):
                self._gone(fd)

    def resized(self, before: int, height: int) -> None:
        """The screen has another height. Where it is less, the caret is to be in sight all the same."""
        self._height = height
        self._nudges = [time.monotonic() + after for after in NUDGES] if height < before else []

    def _nudge(self) -> None:
        """Have the field scroll to its caret: GTK does so at each change of what is being composed, and this one is none."""
        if self._field is None or self._foot <= self._height * FOOT:
            self._nudges.clear()
            return
        client, path = self._field
        for member in ("ShowPreeditText", "HidePreeditText"):
            client.send(bus.SIGNAL, "", (), path=path, interface=_FIELD, member=member)

    def close(self) -> None:
        for fd in list(self._clients):
            self._gone(fd)
        if self._server is not None:
            self._server.close()

    def window_changed(self) -> None:
        """Another window is in front: a field that could not say so has lost the focus."""
        if self._hidden and time.monotonic() > self._since + _SLOW:
            self._to(None)

    def _accept(self, server: socket.socket) -> None:
        try:
            sock, _ = server.accept()
        except OSError:
            return
        sock.settimeout(0)
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.getuid() or len(self._clients) >= MAX_CLIENTS:
            sock.close()
            return
        self._numbers += 1
        self._clients[sock.fileno()] = _Client(sock, f":1.{self._numbers}")

    def _gone(self, fd: int) -> None:
        client = self._clients.pop(fd)
        if self._touched is not None and self._touched[0] is client:
            self._touched = None
        if self._field is not None and self._field[0] is client:
            self._to(None)
        # The next one may get the same number while `poll` still knows this one by it.
        self._watched[fd] = -1
        client.sock.close()

    def _read(self, client: _Client) -> None:
        try:
            untrusted_data = client.sock.recv(65_536)
        except BlockingIOError:
            return
        if not untrusted_data:
            raise bus.Gone("it has hung up")
        if client.greeting is not None:
            untrusted_data = _greet(client, untrusted_data)
        for each in client.messages.feed(untrusted_data):
            if each.kind == bus.CALL:
                self._call(client, each)

    # -- programs -------------------------------------------------------------------------------------------------------

    def _call(self, client: _Client, untrusted_call: bus.Message) -> None:
        found: tuple[str, tuple[Any, ...]] | None = None
        try:
            found = self._does(client, untrusted_call)
        except bus.Malformed:
            pass
        if untrusted_call.flags & bus.NO_REPLY:
            return
        if found is None:
            error = f"{bus.BUS}.Error.UnknownMethod"
            client.answer(untrusted_call, bus.ERROR, "s", ("Not known here.",), error=error)
        else:
            client.answer(untrusted_call, bus.RETURN, *found)

    def _does(self, client: _Client, untrusted_call: bus.Message) -> tuple[str, tuple[Any, ...]] | None:
        member, path = untrusted_call.member, untrusted_call.path
        place: Field = client, path
        match member:
            case "Hello":
                return "s", (client.name,)
            case "GetNameOwner":
                return "s", (_US,)
            case "NameHasOwner":
                return "b", (True,)
            case "StartServiceByName":
                return "u", (_RUNS_ALREADY,)
            case "AddMatch" | "RemoveMatch" | "Ping":
                return "", ()
            case "CreateInputContext" if len(client.contexts) < MAX_CONTEXTS:
                self._numbers += 1
                made = f"/org/freedesktop/IBus/InputContext_{self._numbers}"
                client.contexts[made] = 0
                return "o", (made,)
            case "GetAll":
                return "a{sv}", ({},)
            case _ if path not in client.contexts:
                return None
            case "ProcessKeyEvent":  # of a module that asks all the same
                return "b", (False,)
            case "FocusIn":
                client.open.add(path)
                self._to(place)
            case "SetCursorLocation" if self._field == place:
                _, y, _, height = untrusted_call.args("iiii")
                self._foot = y + height
            case "FocusOut" if self._field == place:
                self._to(self._touched, hidden=self._touched is not None)
            case "Reset" if path not in client.open:
                # GTK 3 keeps a field whose letters are not shown from IBus, save this as it gets the focus. Any other says
                # FocusIn too; the field that had it before may say FocusOut later.
                self._touched = place
                if self._field is None or self._hidden:
                    self._to(place, hidden=True)
                self._moved()
            case "Destroy":
                if self._field == place:
                    self._to(None)
                client.open.discard(path)
                del client.contexts[path]
            case "Set":
                _, name, (kind, value) = untrusted_call.args("ssv")
                if (name, kind) == ("ContentType", "(uu)"):
                    client.contexts[path] = value[0]
                    if self._field == place:
                        self._moved()
        return "", ()

    # -- what is told ---------------------------------------------------------------------------------------------------

    def _to(self, place: Field | None, *, hidden: bool = False) -> None:
        self._fresh = self._fresh or place is not None
        self._field, self._hidden, self._since, self._foot = place, hidden, time.monotonic(), 0
        self._moved()

    def _moved(self) -> None:
        if self._due is None:
            self._due = max(time.monotonic() + SETTLE, self._last + EVERY)

    def _tell(self) -> None:
        now, self._due, self._touched = self.kind, None, None
        fresh, self._fresh = self._fresh and now != NONE, False
        if self._wanted and (fresh or now != self._told):
            self._told, self._last = now, time.monotonic()
            self._emit(wire.event("focus", kind=now))


def _listen(folder: Path) -> socket.socket | None:
    """Where programs connect; None where that cannot be, and then they do without."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for old in folder.glob("bus-*"):
            old.unlink()
        path = folder / f"bus-{os.getpid()}"  # another each time: programs that run connect anew when it changes
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        server.bind(str(path))
        server.listen(MAX_CLIENTS)  # who comes and finds no room is not let wait
        fresh = folder / "address.new"
        fresh.write_text(f"IBUS_ADDRESS=unix:path={path}\nIBUS_DAEMON_PID={os.getpid()}\n")
        fresh.rename(folder / "address")
    except OSError:
        return None
    return server


def _greet(client: _Client, untrusted_data: bytes) -> bytes:
    """The server's half of "Authentication Protocol"; who it is the socket has said. Returns what follows it."""
    assert client.greeting is not None
    client.greeting += untrusted_data
    while b"\r\n" in client.greeting:
        line, _, rest = bytes(client.greeting).partition(b"\r\n")
        client.greeting[:] = rest
        words = line.lstrip(b"\0").split(b" ")
        if words[0] == b"BEGIN":
            client.greeting = None
            return rest
        if words[0] == b"DATA" or (words[:2] == [b"AUTH", b"EXTERNAL"] and len(words) == 3):
            client.out += f"OK {secrets.token_hex(16)}\r\n".encode()
        elif words[:2] == [b"AUTH", b"EXTERNAL"]:
            client.out += b"DATA\r\n"
        elif words[0] == b"NEGOTIATE_UNIX_FD":
            client.out += b"ERROR\r\n"
        else:
            client.out += b"REJECTED EXTERNAL\r\n"
    if len(client.greeting) > 1024:
        raise bus.Malformed("not a greeting")
    return b""
