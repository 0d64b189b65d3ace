"""The windows of a Wayland session, for who may bring one to the front: wlr-foreign-toplevel-management, without a library.

Spoken by wire (wayland.freedesktop.org, *Wire format*; wlr-protocols, wlr-foreign-toplevel-management-unstable-v1.xml): the swipe
must not wait for anything to be loaded, and a switch is two messages.
"""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from twofold.model.errors import BadInputError, MissingError, TimedOutError, UnreachableError

_HEAD: Final = struct.Struct("=II")  # object; size in the upper half, operation in the lower
_MANAGER: Final = "zwlr_foreign_toplevel_manager_v1"
_DISPLAY: Final = 1
_SYNC, _GET_REGISTRY, _BIND = 0, 1, 0
_MINIMISE, _ACTIVATE, _DESTROY = 2, 4, 7  # of a window
_APP, _STATE, _CLOSED = 1, 4, 6  # what a window tells
_ACTIVATED: Final = 2
_LONGEST: Final = 4096  # bytes of one message (libwayland's own limit)


@dataclass
class Toplevel:
    """A window: its number on the wire, its program's name, whether it has the focus."""

    number: int
    app: str = ""
    active: bool = False


@dataclass
class Toplevels:
    """A session's windows, as they come and go. Wait for `fileno` to be readable and call `receive`.

    Raises:
        MissingError: there is no such session, or its compositor lets nobody manage windows.
        UnreachableError, TimedOutError, BadInputError: from any method: the compositor is gone, silent, or says what it must not.
    """

    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    patience: float = 5.0  # seconds for the compositor's first answers

    def __post_init__(self) -> None:
        folder, name = self.environment.get("XDG_RUNTIME_DIR", ""), self.environment.get("WAYLAND_DISPLAY", "")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._heard = b""
        self._windows: dict[int, Toplevel] = {}
        self._last = _DISPLAY  # numbers are given out without a gap
        self._pending = 0  # the callback that `settle` waits for
        try:
            self._socket.connect(f"{folder}/{name or 'wayland-0'}")
        except OSError as error:
            self._socket.close()
            raise MissingError(f"There is no Wayland session here ({error}).") from error
        try:
            self._globals: dict[str, int] = {}
            self._registry, self._seat, self._manager = self._new(), 0, 0
            self._send(_DISPLAY, _GET_REGISTRY, struct.pack("=I", self._registry))
            self.settle()
            if _MANAGER not in self._globals or "wl_seat" not in self._globals:
                raise MissingError("This session's compositor lets no program bring windows to the front.")
            self._seat = self._bind("wl_seat")
            self._manager = self._bind(_MANAGER)
            self.settle()
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def find(self, app: str) -> Toplevel | None:
        """A window of the program of this name; the one that came last."""
        return next((window for window in reversed(self._windows.values()) if window.app == app), None)

    def activate(self, window: Toplevel) -> None:
        """Bring it to the front, with the focus."""
        self._send(window.number, _ACTIVATE, struct.pack("=I", self._seat))
        window.active = True

    def minimise(self, window: Toplevel) -> None:
        """Put it away: the window before it is in front again."""
        self._send(window.number, _MINIMISE)
        window.active = False

    def settle(self) -> None:
        """Wait until the compositor has done all that was asked, and everything was heard that it said before."""
        self._pending = self._new()
        self._send(_DISPLAY, _SYNC, struct.pack("=I", self._pending))
        until = time.monotonic() + self.patience
        while self._pending:
            if not select.select([self._socket], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimedOutError("This session's compositor does not answer.")
            self.receive()

    def receive(self) -> None:
        """Hear what the compositor has said; waits where that is nothing."""
        try:
            data = self._socket.recv(1 << 16)
        except OSError as error:
            raise UnreachableError(f"This session's compositor is gone ({error}).") from error
        if not data:
            raise UnreachableError("This session's compositor ended the connection.")
        self._heard += data
        for sender, operation, untrusted_body in self._messages():
            self._hear(sender, operation, untrusted_body)

    # -- the wire -------------------------------------------------------------------------------------------------------

    def _messages(self) -> Iterator[tuple[int, int, bytes]]:
        while len(self._heard) >= _HEAD.size:
            sender, word = _HEAD.unpack_from(self._heard)
            size = word >> 16
            if not _HEAD.size <= size <= _LONGEST:
                raise BadInputError("This session's compositor sent what is no message.")
            if len(self._heard) < size:
                return
            body, self._heard = self._heard[_HEAD.size : size], self._heard[size:]
            yield sender, word & 0xFFFF, body

    def _send(self, receiver: int, operation: int, body: bytes = b"") -> None:
        try:
            self._socket.sendall(_HEAD.pack(receiver, (_HEAD.size + len(body)) << 16 | operation) + body)
        except OSError as error:
            raise UnreachableError(f"This session's compositor is gone ({error}).") from error

    def _new(self) -> int:
        self._last += 1
        return self._last

    def _bind(self, interface: str) -> int:
        """Have one of the registry's globals, in its first version."""
        name, number = interface.encode() + b"\0", self._new()
        text = struct.pack("=I", len(name)) + name + bytes(-len(name) % 4)
        self._send(
            self._registry, _BIND, struct.pack("=I", self._globals[interface]) + text + struct.pack("=II", 1, number)
        )
        return number

    def _hear(self, sender: int, operation: int, untrusted_body: bytes) -> None:
        if sender == _DISPLAY and operation == 0:
            raise BadInputError(f"This session's compositor refuses: {_text(untrusted_body, 8)}")
        if sender == self._registry and operation == 0:
            self._globals.setdefault(_text(untrusted_body, 4), _number(untrusted_body))
        elif sender == self._pending:
            self._pending = 0
        elif sender == self._manager and operation == 0:
            number = _number(untrusted_body)
            self._windows[number] = Toplevel(number)
        elif (window := self._windows.get(sender)) is not None:
            self._tell(window, operation, untrusted_body)

    def _tell(self, window: Toplevel, operation: int, untrusted_body: bytes) -> None:
        if operation == _APP:
            window.app = _text(untrusted_body, 0)
        elif operation == _STATE:
            if len(untrusted_body) % 4:
                raise BadInputError("This session's compositor sent what is no message.")
            window.active = _ACTIVATED in array.array("I", untrusted_body[4:])
        elif operation == _CLOSED:
            del self._windows[window.number]
            self._send(window.number, _DESTROY)


def _number(untrusted_body: bytes) -> int:
    if len(untrusted_body) < 4:
        raise BadInputError("This session's compositor sent what is no message.")
    return int.from_bytes(untrusted_body[:4], "little")


def _text(untrusted_body: bytes, at: int) -> str:
    length = _number(untrusted_body[at:])
    return untrusted_body[at + 4 : at + 4 + max(length - 1, 0)].decode(errors="replace")
