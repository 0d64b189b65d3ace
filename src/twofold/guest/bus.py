"""A message bus, spoken as far as notifications need it (D-Bus Specification 0.43).

Nothing here waits: bytes come and go when `Bus.fd` is ready. What comes in is checked before it is used; nothing grows without
bound. The switcher speaks to the person's bus by it too: PySide's QtDBus cannot say a UINT32.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_MESSAGE = 2 << 20  # bytes; a longer one (the specification allows 128 MiB) is passed over
MAX_PENDING = 1 << 20  # bytes that wait for a bus that does not read
MAX_DEPTH = 32
CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
BUS = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"
NO_REPLY = 1
_FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}
_ALIGN = {"y": 1, "n": 2, "q": 2, "x": 8, "t": 8, "d": 8, "(": 8, "{": 8, "g": 1, "v": 1}  # others: 4
_FIELDS = {"path": (1, "o"), "interface": (2, "s"), "member": (3, "s"), "error": (4, "s"), "reply": (5, "u"),
           "destination": (6, "s"), "sender": (7, "s"), "signature": (8, "g")}  # fmt: skip
_NAMES = {code: name for name, (code, _) in _FIELDS.items()}


class Malformed(ValueError):  # noqa: N818 - what the other end said, not what we did
    """Bytes that are not the protocol."""


class Gone(OSError):  # noqa: N818 - it is a fact
    """The bus has hung up, or was never there."""


@dataclass(frozen=True)
class Message:
    """One message; `args` decodes its body. `sender` is the unique name that the bus itself put there."""

    kind: int
    flags: int
    serial: int
    untrusted_body: bytes
    little: bool
    path: str = ""
    interface: str = ""
    member: str = ""
    error: str = ""
    reply: int = 0
    destination: str = ""
    sender: str = ""
    signature: str = ""

    def args(self, signature: str) -> tuple[Any, ...]:
        """Its arguments, where they are of these types. Raises: Malformed."""
        if self.signature != signature:
            raise Malformed("other arguments")
        return decode(signature, self.untrusted_body, little=self.little)


def types(signature: str) -> list[str]:
    """The complete types that a signature is made of. Raises: Malformed."""
    found, at = [], 0
    while at < len(signature):
        end = _end(signature, at, 0)
        found.append(signature[at:end])
        at = end
    return found


def _end(signature: str, at: int, depth: int) -> int:
    if at >= len(signature) or depth > MAX_DEPTH:
        raise Malformed("a signature that does not end")
    letter = signature[at]
    if letter == "a":
        return _end(signature, at + 1, depth + 1)
    if letter in "({":
        close = ")" if letter == "(" else "}"
        at += 1
        while at < len(signature) and signature[at] != close:
            at = _end(signature, at, depth + 1)
        if at >= len(signature):
            raise Malformed("a signature that does not end")
        if signature[at - 1] in "({":
            raise Malformed("an empty structure")  # an array of these would never end
        return at + 1
    if letter not in _FIXED and letter not in "sogv":
        raise Malformed("a type not known")
    return at + 1


def encode(signature: str, *values: Any, data: bytearray | None = None) -> bytearray:
    """Marshal `values`, least significant byte first; a variant is a pair of its type and value."""
    data = bytearray() if data is None else data
    for kind, value in zip(types(signature), values, strict=True):
        _put(data, kind, value)
    return data


def _pad(data: bytearray, to: int) -> None:
    data += b"\0" * (-len(data) % to)


def _put(data: bytearray, kind: str, value: Any) -> None:
    letter = kind[0]
    _pad(data, _ALIGN.get(letter, 4))
    if letter in _FIXED:
        data += struct.pack("<" + _FIXED[letter], value)
    elif letter in "sog":
        text = value.encode("utf-8", "replace").replace(b"\0", b"")
        data += (bytes([len(text)]) if letter == "g" else struct.pack("<I", len(text))) + text + b"\0"
    elif letter == "v":
        encode("g", value[0], data=data)
        encode(value[0], value[1], data=data)
    elif letter == "a":
        at = len(data)
        data += b"\0\0\0\0"
        _pad(data, _ALIGN.get(kind[1], 4))
        begin = len(data)
        for each in value.items() if kind[1] == "{" else value:
            _put(data, kind[1:], each)
        struct.pack_into("<I", data, at, len(data) - begin)
    else:
        encode(kind[1:-1], *value, data=data)


def decode(signature: str, untrusted_data: bytes, *, little: bool = True) -> tuple[Any, ...]:
    """The values in a body; a variant is a pair of its type and value, an array of bytes is bytes.

    Raises:
        Malformed: it is not what the signature says.
    """
    reader = _Reader(untrusted_data, "<" if little else ">")
    try:
        return tuple(reader.take(kind, 0) for kind in types(signature))
    except (struct.error, ValueError, IndexError, KeyError, TypeError) as why:
        raise Malformed("not what its signature says") from why


class _Reader:
    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order, self.at = data, order, 0

    def take(self, kind: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise Malformed("too deep")
        letter = kind[0]
        self.at += -self.at % _ALIGN.get(letter, 4)
        if letter in _FIXED:
            return self._fixed(_FIXED[letter])
        if letter in "sog":
            length = self._fixed("B" if letter == "g" else "I")
            text = self._bytes(length)
            self._bytes(1)
            return text.decode()
        if letter == "v":
            (inner,) = types(self.take("g", depth))
            return inner, self.take(inner, depth + 1)
        if letter == "a":
            return self._array(kind[1:], depth)
        return tuple(self.take(each, depth + 1) for each in types(kind[1:-1]))

    def _array(self, each: str, depth: int) -> Any:
        length = self._fixed("I")
        self.at += -self.at % _ALIGN.get(each[0], 4)
        if each == "y":
            return self._bytes(length)
        end = self.at + length
        if end > len(self.data):
            raise Malformed("an array beyond the end")
        found = []
        while self.at < end:
            found.append(self.take(each, depth + 1))
        if self.at != end:
            raise Malformed("an array that ends elsewhere")
        return dict(found) if each[0] == "{" else found

    def _fixed(self, form: str) -> Any:
        (value,) = struct.unpack_from(self.order + form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def _bytes(self, length: int) -> bytes:
        if length > len(self.data) - self.at:
            raise Malformed("text beyond the end")
        self.at += length
        return self.data[self.at - length : self.at]


def message(
    kind: int, serial: int, flags: int = 0, signature: str = "", args: tuple[Any, ...] = (), **head: Any
) -> bytes:
    """A message; `head` are its header's fields by the names of `Message`."""
    body = encode(signature, *args)
    words = head | ({"signature": signature} if signature else {})
    fields = [(_FIELDS[name][0], (_FIELDS[name][1], value)) for name, value in words.items() if value]
    data = encode("yyyyuua(yv)", ord("l"), kind, flags, 1, len(body), serial, fields)
    _pad(data, 8)
    return bytes(data + body)


class Messages:
    """Cuts a stream of bytes into messages. One longer than `limit` is passed over."""

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._skip = 0

    def feed(self, untrusted_data: bytes) -> Iterator[Message]:
        """Raises: Malformed: no message can be found in what follows."""
        self._rest += untrusted_data
        while True:
            passed = min(self._skip, len(self._rest))
            del self._rest[:passed]
            self._skip -= passed
            if self._skip or len(self._rest) < 16:
                return
            size, body, order = self._size()
            if size > self._limit:
                self._skip = size
            elif len(self._rest) < size:
                return
            else:
                whole = bytes(self._rest[:size])
                del self._rest[:size]
                yield _parse(whole, size - body, order)

    def _size(self) -> tuple[int, int, str]:
        order = {ord("l"): "<", ord("B"): ">"}.get(self._rest[0])
        if order is None or self._rest[3] != 1:
            raise Malformed("not a message")
        body, _, fields = struct.unpack_from(order + "III", self._rest, 4)
        if body > 1 << 27 or fields > 1 << 26:
            raise Malformed("longer than a message may be")
        return 16 + fields + -fields % 8 + body, body, order


def _parse(untrusted_message: bytes, body_at: int, order: str) -> Message:
    little = order == "<"
    head = decode("yyyyuua(yv)", untrusted_message[:body_at], little=little)
    found: dict[str, Any] = {}
    for code, (kind, value) in head[6]:
        name = _NAMES.get(code)
        if name is not None:
            if kind != _FIELDS[name][1]:
                raise Malformed("a field of another type")
            found[name] = value
    return Message(head[1], head[2], head[5], untrusted_message[body_at:], little, **found)


def reach(address: str) -> socket.socket:
    """Connect to the first Unix socket that a bus address names. Raises: Gone: nobody listens."""
    for each in address.split(";"):
        kind, _, rest = each.partition(":")
        words = dict(word.split("=", 1) for word in rest.split(",") if "=" in word)
        name = {
            key: re.sub("%([0-9a-fA-F]{2})", lambda hit: chr(int(hit[1], 16)), value) for key, value in words.items()
        }
        path = name["path"] if "path" in name else "\0" + name["abstract"] if "abstract" in name else ""
        if kind == "unix" and path:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                sock.settimeout(1)  # a bus that listens takes it at once
                sock.connect(path)
                sock.settimeout(0)
                return sock
            except OSError:
                sock.close()
    raise Gone("no bus")


@dataclass
class Bus:
    """A connection to the bus at `address`. `heard` gets the calls and signals; an answer goes to who asked.

    Raises:
        Gone: from the constructor, `read` and `flush`: there is no bus (any more).
    """

    address: str
    heard: Callable[[Message], None]
    _sock: socket.socket = field(init=False)
    _asked: dict[int, Callable[[Message], None]] = field(init=False, default_factory=dict)
    _serial: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._sock = reach(self.address)
        self._messages = Messages()
        self._greeting: bytearray | None = bytearray()  # until the bus has let us in
        # Authentication (chapter "Authentication Protocol"): EXTERNAL, by the credentials of the socket.
        self._out = bytearray(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
        self._later = bytearray()
        self.call(BUS, BUS_PATH, BUS, "Hello", then=lambda _: None)

    @property
    def fd(self) -> int:
        return self._sock.fileno()

    @property
    def pending(self) -> bool:
        return bool(self._out)

    def close(self) -> None:
        self._sock.close()

    def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *args: Any,
        then: Callable[[Message], None] | None = None,
    ) -> None:  # fmt: skip
        """Ask; `then` gets the answer, a RETURN or an ERROR."""
        head = {"destination": destination, "path": path, "interface": interface, "member": member}
        number = self._send(CALL, 0 if then else NO_REPLY, signature, args, head)
        if then is not None:
            self._asked[number] = then

    def signal(self, destination: str, path: str, interface: str, member: str, signature: str, *args: Any) -> None:
        """Say it to one."""
        head = {"destination": destination, "path": path, "interface": interface, "member": member}
        self._send(SIGNAL, NO_REPLY, signature, args, head)

    def answer(self, to: Message, signature: str = "", *args: Any) -> None:
        if not to.flags & NO_REPLY:
            self._send(RETURN, NO_REPLY, signature, args, {"destination": to.sender, "reply": to.serial})

    def refuse(self, to: Message, error: str, text: str) -> None:
        if not to.flags & NO_REPLY:
            head = {"destination": to.sender, "reply": to.serial, "error": error}
            self._send(ERROR, NO_REPLY, "s", (text,), head)

    def _send(self, kind: int, flags: int, signature: str, args: tuple[Any, ...], head: dict[str, Any]) -> int:
        self._serial += 1
        out = self._later if self._greeting is not None else self._out
        if len(out) > MAX_PENDING:
            raise Gone("the bus does not read")
        out += message(kind, self._serial, flags, signature, args, **head)
        return self._serial

    def flush(self) -> None:
        """Write what can be written."""
        try:
            while self._out:
                del self._out[: self._sock.send(self._out)]
        except BlockingIOError:
            return
        except OSError as gone:
            raise Gone("the bus has hung up") from gone

    def read(self) -> None:
        """Take what has come in."""
        try:
            untrusted_data = self._sock.recv(65_536)
        except BlockingIOError:
            return
        except OSError as gone:
            raise Gone("the bus has hung up") from gone
        if not untrusted_data:
            raise Gone("the bus has hung up")
        if self._greeting is not None:
            untrusted_data = self._greet(untrusted_data)
        try:
            for each in self._messages.feed(untrusted_data):
                self._take(each)
        except Malformed as wrong:
            raise Gone("the bus talks nonsense") from wrong

    def _greet(self, untrusted_data: bytes) -> bytes:
        assert self._greeting is not None
        self._greeting += untrusted_data
        line, end, rest = bytes(self._greeting).partition(b"\r\n")
        if not end:
            if len(line) > 1024:
                raise Gone("the bus talks nonsense")
            return b""
        if not line.startswith(b"OK "):
            raise Gone("the bus does not let us in")
        self._greeting = None
        self._out += b"BEGIN\r\n" + self._later
        self._later.clear()
        self.flush()
        return rest

    def _take(self, each: Message) -> None:
        if each.kind in (RETURN, ERROR):
            then = self._asked.pop(each.reply, None)
            if then is not None:
                then(each)
        elif each.kind in (CALL, SIGNAL):
            self.heard(each)
