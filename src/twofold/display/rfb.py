"""What may pass between a viewer and a machine's RFB screen (RFC 6143, version 3.8), checked outside the guest.

Both sides are untrusted: the viewer is a browser, the server a QEMU whose guest may be hostile. Bytes pass through unchanged,
message by message; clipboard messages pass only in the directions that the policy allows, and what is not known ends the
conversation. So that every message's end can be found, the viewer's offers are cut down: one pixel format, and encodings of
known length.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass

from twofold.display.rects import Refused, Some, Take, on, read, rectangle
from twofold.model.errors import BadInputError

VERSION = b"RFB 003.008\n"
CUT_LIMIT = 1 << 20  # bytes of one clipboard message
_NONE = 1  # the security type: whoever has the stream is whom the agent gave it to
_NAME_LIMIT = 4096
# Encodings and pseudo-encodings that may be asked for (`rects.py` finds their ends); others are left out of the viewer's offer.
_TIGHT = (*range(-32, -22), *range(-256, -246))  # quality and compression levels: words to the server, no rectangles
KNOWN = frozenset((0, 1, 6, 7, 16, -223, -224, -239, -257, -258, -261, -307, -308, *_TIGHT))
CLIPBOARD = -1063131698  # 0xC0A1E5CE, the extended clipboard
_CAPS, _REQUEST, _PEEK, _NOTIFY, _PROVIDE = (1 << bit for bit in (24, 25, 26, 27, 28))
_Grammar = Generator[Take, "bytes | None", None]


@dataclass(frozen=True)
class Rules:
    """Asked at each message, so that a changed policy holds at once. `to_work`: what the viewer's clipboard has may go in."""

    to_work: Callable[[], bool]
    from_work: Callable[[], bool]


class Stream:
    """One direction: feed what came, get what may go on. What a message still lacks is waited for."""

    def __init__(self, messages: _Grammar) -> None:
        self._messages, self._held = messages, bytearray()
        self._wanted = next(messages)
        self._passing = 0  # bytes of the current step that are still to come
        self._begin()

    def feed(self, untrusted_bytes: bytes) -> bytes:
        """
        Raises:
            BadInputError: something that is not known, too large, or out of order. The conversation must end.
        """
        out, at, size = [], 0, len(untrusted_bytes)
        try:
            while at < size:
                part = untrusted_bytes[at : at + self._passing]
                at += len(part)
                self._passing -= len(part)
                if self._wanted.read:
                    self._held += part
                else:
                    out.append(part)
                if not self._passing:
                    out.append(self._step())
        except Refused as no:
            raise BadInputError(f"The screen's line was ended: {no}.", safe="The workspace goes on.") from no
        return b"".join(out)

    def _step(self) -> bytes:
        """The step is whole: hand it to the grammar, and do its next one; steps of no bytes are done at once."""
        out = b""
        while True:
            answer: bytes | None = bytes(self._held) if self._wanted.read else None
            self._held.clear()
            self._wanted = self._messages.send(answer)
            out += self._wanted.emit
            self._begin()
            if self._passing:
                return out

    def _begin(self) -> None:
        self._passing = self._wanted.count
        if self._wanted.count < 0:
            raise Refused("a length below zero")


class Session:
    """Both directions of one viewer, from the first byte. `viewer` takes what the viewer sends, `screen` what QEMU sends."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._asked = False  # the viewer has asked for pixels: its pixel format is settled
        self._viewer = Stream(self._from_viewer())
        self._screen = Stream(self._from_screen())

    def viewer(self, untrusted_bytes: bytes) -> bytes:
        """Raises: BadInputError."""
        return self._viewer.feed(untrusted_bytes)

    def screen(self, untrusted_bytes: bytes) -> bytes:
        """Raises: BadInputError."""
        return self._screen.feed(untrusted_bytes)

    def _from_viewer(self) -> _Grammar:
        if (yield from read(12)) != VERSION:
            raise Refused("the viewer speaks another version")
        if (yield from read(1, VERSION)) != bytes((_NONE,)):
            raise Refused("the viewer wants another kind of security")
        shared = yield from read(1, bytes((_NONE,)))
        del shared
        emit = b"\1"
        while True:
            kind = (yield from read(1, emit))[0]
            emit = yield from self._viewer_message(kind)

    def _viewer_message(self, kind: int) -> Some:
        head = bytes((kind,))
        match kind:
            case 0:
                return head + _settled((yield from read(19)), asked=self._asked)
            case 2:
                count = struct.unpack(">xH", (yield from read(3)))[0]
                if count > 256:
                    raise Refused("too many encodings")
                body = yield from read(4 * count)
                return self._offer(struct.unpack(f">{count}i", body))
            case 3:
                self._asked = True
                return head + (yield from read(9))
            case 4:
                return head + (yield from read(7))
            case 5:
                return head + (yield from read(5))
            case 6:
                return (yield from _cut(head, self._rules.to_work, self._rules.from_work))
            case 251:
                body = yield from read(7)
                width, height, screens = struct.unpack(">xHHBx", body)
                if not 1 <= screens <= 4 or not 1 <= width <= 8192 or not 1 <= height <= 8192:
                    raise Refused("a screen of no possible size")
                return head + body + (yield from read(16 * screens))
            case 255:
                body = yield from read(11)
                if body[0] != 0:  # 1 is sound, which has a policy of its own
                    raise Refused("an unknown message of the viewer")
                return head + body
        raise Refused(f"an unknown message of the viewer ({kind})")

    def _offer(self, encodings: tuple[int, ...]) -> bytes:
        either = self._rules.to_work() or self._rules.from_work()
        kept = [each for each in encodings if each in KNOWN or (each == CLIPBOARD and either)]
        return struct.pack(f">BxH{len(kept)}i", 2, len(kept), *kept)

    def _from_screen(self) -> _Grammar:
        if (yield from read(12)) != VERSION:
            raise Refused("the screen speaks another version")
        count = (yield from read(1, VERSION))[0]
        kinds = yield from read(count)
        if _NONE not in kinds:
            raise Refused("the screen wants a password")
        if (yield from read(4, bytes((1, _NONE)))) != bytes(4):
            raise Refused("the screen refuses")
        shape = yield from read(24, bytes(4))
        (length,) = struct.unpack(">I", shape[20:])
        if length > _NAME_LIMIT:
            raise Refused("the screen's name is too long")
        emit = shape + (yield from read(length))
        while True:
            kind = (yield from read(1, emit))[0]
            emit = yield from self._screen_message(kind)

    def _screen_message(self, kind: int) -> Some:
        head = bytes((kind,))
        match kind:
            case 0:
                body = yield from read(3)
                emit, count = head + body, struct.unpack(">xH", body)[0]
                for _ in range(count):
                    emit, last = yield from rectangle(emit)
                    if last:
                        break
                return emit
            case 1:
                body = yield from read(5)
                colours = struct.unpack(">xHH", body)[1]
                yield from on(6 * colours, head + body)
                return b""
            case 2:
                return head
            case 3:
                return (yield from _cut(head, self._rules.from_work, self._rules.to_work))
        raise Refused(f"an unknown message of the screen ({kind})")


def _cut(head: bytes, own: Callable[[], bool], other: Callable[[], bool]) -> Some:
    """One clipboard message. `own` is the direction that it travels: text, and word that there is some. A question for the
    other side's text belongs to the `other` direction."""
    body = yield from read(7)
    (length,) = struct.unpack(">3xi", body)
    size = abs(length)
    if size > CUT_LIMIT:
        raise Refused("a clipboard message that is too long")
    text = yield from read(size)
    if length >= 0:
        return head + body + text if own() else b""
    if size < 4:
        raise Refused("a clipboard message that is too short")
    (flags,) = struct.unpack(">I", text[:4])
    if flags & _CAPS:
        allowed = own() or other()
    elif flags & (_NOTIFY | _PROVIDE) and not flags & (_REQUEST | _PEEK):
        allowed = own()
    elif flags & (_REQUEST | _PEEK) and not flags & (_NOTIFY | _PROVIDE):
        allowed = other()
    else:
        raise Refused("a clipboard message of an unknown kind")
    return head + body + text if allowed else b""


def _settled(body: bytes, *, asked: bool) -> bytes:
    """The one pixel format: 32 bits, true colour, one byte each. It can't change under pixels that are on their way."""
    bits, depth, _, true, red, green, blue = struct.unpack(">3xBBBBHHH6x", body)
    if asked or (bits, depth, bool(true), red, green, blue) != (32, 24, True, 255, 255, 255):
        raise Refused("another pixel format")
    return body
