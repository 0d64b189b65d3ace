"""The least of an NBD client: enough to fill a device and to read it back (NBD protocol, fixed newstyle).

https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
"""

from __future__ import annotations

import errno
import socket
import struct

from twofold.model.errors import DamagedError, NoRoomError, TwofoldError, UnreachableError

_GREETING = struct.Struct(">8s8sH")
_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_GO, _ACK, _INFO = 7, 1, 3
_READ, _WRITE, _DISCONNECT, _FLUSH = 0, 1, 2, 3
_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698
_WINDOW = 8  # requests under way


class Client:
    """One export over a connected stream. `size` in bytes. Requests are answered in any order; `settle` waits for all."""

    def __init__(self, stream: socket.socket, export: str, seconds: float = 60) -> None:
        self._stream = stream
        stream.settimeout(seconds)
        self._waiting = 0
        self._number = 0
        self.size, self.read_only = self._negotiate(export)

    def _negotiate(self, export: str) -> tuple[int, bool]:
        magic, style, _ = _GREETING.unpack(self._exactly(_GREETING.size))
        if (magic, style) != (b"NBDMAGIC", b"IHAVEOPT"):
            raise DamagedError("The store's process does not speak NBD.")
        name = export.encode()
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self._stream.sendall(struct.pack(">I", 3) + _OPTION.pack(b"IHAVEOPT", _GO, len(data)) + data)
        size = flags = 0
        while True:
            _, _, kind, length = _OPTION_REPLY.unpack(self._exactly(_OPTION_REPLY.size))
            body = self._exactly(length)
            if kind == _INFO and body[:2] == b"\0\0":
                size, flags = struct.unpack(">QH", body[2:12])
            elif kind == _ACK:
                return size, bool(flags & 2)
            elif kind & 0x80000000:
                raise TwofoldError(f"The store has no device {export!r}.")

    def write(self, at: int, data: bytes) -> None:
        while self._waiting >= _WINDOW:
            self._answer()
        self._request(_WRITE, at, len(data), data)

    def read(self, at: int, length: int) -> bytes:
        self.settle()
        self._request(_READ, at, length)
        self._answer()
        return self._exactly(length)

    def flush(self) -> None:
        self.settle()
        self._request(_FLUSH, 0, 0)
        self._answer()

    def disconnect(self) -> None:
        """Say goodbye; the server has carried out everything by then."""
        self.settle()
        self._request(_DISCONNECT, 0, 0)
        self._waiting = 0

    def settle(self) -> None:
        while self._waiting:
            self._answer()

    def _request(self, kind: int, at: int, length: int, data: bytes = b"") -> None:
        self._number += 1
        try:
            self._stream.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, kind, self._number, at, length))
            if data:
                self._stream.sendall(data)
        except OSError as gone:
            raise UnreachableError("The store's process ended.") from gone
        self._waiting += 1

    def _answer(self) -> None:
        magic, error, _ = _REPLY.unpack(self._exactly(_REPLY.size))
        self._waiting -= 1
        if magic != _REPLY_MAGIC:
            raise DamagedError("The store's process does not speak NBD.")
        if error == errno.ENOSPC:
            raise NoRoomError("The disk is full.", next="Free some space on this disk, then try again.")
        if error:
            raise TwofoldError(f"The store's process failed: {errno.errorcode.get(error, error)}.")

    def _exactly(self, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            try:
                part = self._stream.recv(length - len(parts))
            except OSError as gone:
                raise UnreachableError("The store's process does not answer.") from gone
            if not part:
                raise UnreachableError("The store's process ended.")
            parts += part
        return bytes(parts)
