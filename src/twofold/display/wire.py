"""D-Bus on a socket that we were handed: authenticate as the client, pass descriptors, read what a peer we don't trust sends."""

from __future__ import annotations

import array
import os
import select
import socket
import time
from itertools import count
from typing import Any, Final

from jeepney import DBusAddress, HeaderFields, Message, MessageFlag, MessageType, Parser, new_error, new_method_call
from jeepney.auth import BEGIN, Authenticator
from jeepney.low_level import calc_msg_size
from jeepney.wrappers import new_method_return

from twofold.model.errors import BadInputError, TimedOutError, UnreachableError

# The largest honest message carries one whole frame or sound buffer; D-Bus itself would allow twice this (spec: 128 MiB).
MESSAGE_LIMIT: Final = 64 << 20
_MAX_FDS: Final = 4


class Wire:
    """One authenticated conversation. Sending may block for a moment; `receive` never does.

    Raises (all calls): UnreachableError: the peer is gone. BadInputError: it sent what cannot be read; then close.
    """

    def __init__(self, sock: socket.socket, seconds: float = 5) -> None:
        self.sock = sock
        self._parser = Parser()
        self._serials = count(1)
        self._fds: list[int] = []
        _authenticate(sock, seconds)

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())
        self.sock.close()

    def call(self, address: DBusAddress, member: str, signature: str = "", *body: object, reply: bool = False) -> int:
        """Send a method call; returns its serial. Without `reply` the peer is told to keep its answer."""
        message = new_method_call(address, member, signature or None, body)
        del message.header.fields[HeaderFields.destination]  # there is no bus between us, and nobody has a name
        if not reply:
            message.header.flags = MessageFlag.no_reply_expected
        return self._send(message)

    def answer(self, call: Message, signature: str = "", *body: object) -> None:
        if not call.header.flags & MessageFlag.no_reply_expected:
            self._send(new_method_return(call, signature or None, body))

    def refuse(self, call: Message) -> None:
        if not call.header.flags & MessageFlag.no_reply_expected:
            self._send(new_error(call, "org.freedesktop.DBus.Error.UnknownMethod"))

    def _send(self, message: Message) -> int:
        serial = next(self._serials)
        fds: array.array[int] = array.array("i")
        data = message.serialise(serial=serial, fds=fds)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
        try:
            sent = self.sock.sendmsg([data], rights)
            if sent < len(data):
                self.sock.sendall(data[sent:])
        except OSError as gone:
            raise _gone() from gone
        return serial

    def receive(self) -> list[Message]:
        """All whole messages that have arrived; descriptors in their bodies are plain numbers that the caller owns."""
        messages: list[Message] = []
        while True:
            try:
                # Never more than one message at a time, so that descriptors stay with the message they came with.
                want = min(max(self._parser.bytes_desired(), 1), 1 << 20)
                data, ancillary, flags, _ = self.sock.recvmsg(
                    want, socket.CMSG_SPACE(_MAX_FDS * 4), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return messages
            except OSError as gone:
                raise _gone() from gone
            except (ValueError, KeyError) as bad:
                raise _bad() from bad
            for level, kind, rights in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds: array.array[int] = array.array("i")
                    fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
                    self._fds.extend(fds)
            if flags & socket.MSG_CTRUNC or len(self._fds) > _MAX_FDS:
                raise _bad()
            if not data:
                if messages:
                    return messages
                raise _gone()
            message = self._parse(data)
            if message is not None:
                messages.append(message)

    def _parse(self, untrusted_data: bytes) -> Message | None:
        try:
            self._parser.add_data(untrusted_data)
            if self._parser.buf.bytes_buffered >= 16 and calc_msg_size(self._parser.buf.peek(16)) > MESSAGE_LIMIT:
                raise _bad()
            size = self._parser.buf.bytes_buffered
            self._parser.fds = list(self._fds)
            message = self._parser.get_next_message()
            if message is not None:
                del self._fds[: int(message.header.fields.get(HeaderFields.unix_fds, 0))]
            elif size >= MESSAGE_LIMIT:
                raise _bad()
        except BadInputError:
            raise
        except Exception as bad:
            raise _bad() from bad
        return message


def body(message: Message, signature: str) -> tuple[Any, ...]:
    """The arguments of a message whose signature must be exactly this.

    Raises:
        BadInputError: it is another.
    """
    if message.header.fields.get(HeaderFields.signature, "") != signature:
        raise BadInputError("The display sent a message of an unexpected form.")
    return tuple(message.body)


def member(message: Message) -> str:
    if message.header.message_type is not MessageType.method_call:
        return ""
    return str(message.header.fields.get(HeaderFields.member, ""))


def _authenticate(sock: socket.socket, seconds: float) -> None:
    sock.setblocking(True)
    sock.settimeout(None)
    deadline = time.monotonic() + seconds
    talk = Authenticator(enable_fds=True)
    try:
        for data in talk:
            sock.sendall(data)
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([sock], [], [], left)[0]:
                raise TimedOutError("The machine's display did not answer.", next="Try again.")
            # A line at a time: nothing of what follows the handshake may be read here. Its lines are short.
            talk.feed(_line(sock))
        sock.sendall(BEGIN)
    except (ValueError, OSError) as bad:
        raise UnreachableError("The machine's display refused us.", safe="The machine goes on.") from bad


def _line(sock: socket.socket) -> bytes:
    line = bytearray()
    while not line.endswith(b"\r\n") and len(line) < 512:
        byte = sock.recv(1)
        if not byte:
            raise OSError("closed")
        line += byte
    return bytes(line)


def _gone() -> UnreachableError:
    return UnreachableError("The machine's display is gone.", safe="What is on its disks is safe.")


def _bad() -> BadInputError:
    return BadInputError("The machine's display sent something that cannot be read.", safe="Its connection was closed.")
