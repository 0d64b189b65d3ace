"""Where a rectangle of an RFB framebuffer update ends, for the encodings that `rfb.py` lets a viewer ask for. The pixels
themselves pass unread."""

from __future__ import annotations

import struct
from collections.abc import Generator
from dataclasses import dataclass

_SIDE = 8192  # pixels of a screen's side, at most
_DATA = 64 << 20  # bytes of one compressed piece, at most
_FILL, _JPEG = 8, 9


class Refused(Exception):  # noqa: N818 - what happened is a refusal, told as BadInputError
    """Something that may not pass; its text says what."""


@dataclass(frozen=True)
class Take:
    """One step: first `emit` goes on, then the next `count` bytes are handed back (`read`), or passed on."""

    count: int
    emit: bytes = b""
    read: bool = False


Steps = Generator[Take, "bytes | None", tuple[bytes, bool]]
Some = Generator[Take, "bytes | None", bytes]
Done = Generator[Take, "bytes | None", None]


def rectangle(emit: bytes) -> Steps:
    """One rectangle, its header first; `emit` goes on before it. Returns what is still to go on, and whether it was the last."""
    head = yield from read(12, emit)
    _, _, width, height, encoding = struct.unpack(">HHHHi", head)
    if width > _SIDE or height > _SIDE:
        raise Refused("a rectangle beyond any screen")
    match encoding:
        case 0:
            yield from on(4 * width * height, head)
        case 1:
            yield from on(4, head)
        case 6 | 16:
            size = yield from read(4, head)
            yield from on(_bounded(struct.unpack(">I", size)[0]), size)
        case 7:
            yield from _tight(width, height, head)
        case -239:
            yield from on(width * height * 4 + (width + 7) // 8 * height, head)
        case -224:
            return head, True
        case -223 | -257 | -258:
            return head, False
        case -261:
            yield from on(1, head)
        case -307:
            size = yield from read(4, head)
            yield from on(min(struct.unpack(">I", size)[0], _DATA), size)
        case -308:
            count = yield from read(4, head)
            yield from on(16 * count[0], count)
        case _:
            raise Refused(f"an unknown encoding ({encoding})")
    return b"", False


def _tight(width: int, height: int, emit: bytes) -> Done:
    """Tight (rfbproto, 7.7.6), of pixels of three bytes."""
    control = yield from read(1, emit)
    kind = control[0] >> 4
    if kind == _FILL:
        yield from on(3, control)
        return
    if kind == _JPEG:
        yield from _compact(control)
        return
    if kind > _JPEG:
        raise Refused("an unknown kind of compression")
    bits, head = 24, control
    if kind & 4:
        filter_ = yield from read(1, head)
        head = filter_
        if filter_[0] == 1:
            count = yield from read(1, head)
            colours = count[0] + 1
            bits = 1 if colours <= 2 else 8
            head = b""
            yield from on(3 * colours, count)
        elif filter_[0] not in (0, 2):
            raise Refused("an unknown filter")
    plain = (width * bits + 7) // 8 * height
    if plain < 12:  # too little to be compressed
        yield from on(plain, head)
    else:
        yield from _compact(head)


def _compact(emit: bytes) -> Done:
    """A length of one to three bytes, and so many bytes."""
    length = shift = 0
    while True:
        byte = yield from read(1, emit)
        emit = byte
        length |= (byte[0] & (0x7F if shift < 14 else 0xFF)) << shift
        shift += 7
        if byte[0] < 0x80 or shift == 21:
            yield from on(_bounded(length), emit)
            return


def _bounded(length: int) -> int:
    if length > _DATA:
        raise Refused("a piece of a picture that is too long")
    return length


def read(count: int, emit: bytes = b"") -> Some:
    return (yield Take(count, emit, read=True)) or b""


def on(count: int, emit: bytes = b"") -> Done:
    yield Take(count, emit)
