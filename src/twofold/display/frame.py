"""The guest's picture: memory shared by QEMU, checked before it is mapped, never copied."""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from dataclasses import dataclass, field
from typing import Final

from twofold.model.errors import BadInputError

MAX_SIDE: Final = 8192  # pixels; larger than any screen this is shown on, small enough that no product below overflows
# pixman formats (pixman.h) by what QImage calls them: bytes per pixel.
X8R8G8B8: Final = 0x20020888
A8R8G8B8: Final = 0x20028888
R5G6B5: Final = 0x10020565
_BYTES: Final = {X8R8G8B8: 4, A8R8G8B8: 4, R5G6B5: 2}


@dataclass(frozen=True)
class Rect:
    """In guest pixels."""

    x: int
    y: int
    width: int
    height: int

    def united(self, other: Rect) -> Rect:
        x, y = min(self.x, other.x), min(self.y, other.y)
        right = max(self.x + self.width, other.x + other.width)
        return Rect(x, y, right - x, max(self.y + self.height, other.y + other.height) - y)

    def clipped(self, width: int, height: int) -> Rect | None:
        x, y = min(max(self.x, 0), width), min(max(self.y, 0), height)
        right, bottom = min(max(self.x + self.width, x), width), min(max(self.y + self.height, y), height)
        return Rect(x, y, right - x, bottom - y) if right > x and bottom > y else None


@dataclass(frozen=True)
class Frame:
    """`pixels` holds `height` rows of `stride` bytes, row 0 first; shared memory that changes under the reader, or our own."""

    width: int
    height: int
    stride: int
    format: int
    pixels: memoryview = field(repr=False)

    @property
    def whole(self) -> Rect:
        return Rect(0, 0, self.width, self.height)


@dataclass(frozen=True)
class Cursor:
    """`pixels` is premultiplied ARGB, 4 bytes a pixel, rows without padding."""

    width: int
    height: int
    hot_x: int
    hot_y: int
    pixels: bytes = field(repr=False)


def check(untrusted_width: int, untrusted_height: int, untrusted_stride: int, untrusted_format: int) -> int:
    """Bytes that such a picture takes.

    Raises:
        BadInputError: the numbers do not describe a picture that can be shown.
    """
    each = _BYTES.get(untrusted_format)
    if each is None:
        raise BadInputError(f"The machine's display uses a pixel format that we don't know ({untrusted_format:#x}).")
    if not (1 <= untrusted_width <= MAX_SIDE and 1 <= untrusted_height <= MAX_SIDE):
        raise BadInputError("The machine's display has an impossible size.")
    if untrusted_stride % 4 or not untrusted_width * each <= untrusted_stride <= MAX_SIDE * 8:
        raise BadInputError("The machine's display has rows of an impossible length.")
    return untrusted_stride * untrusted_height


def mapped(
    untrusted_fd: int,
    untrusted_offset: int,
    untrusted_width: int,
    untrusted_height: int,
    untrusted_stride: int,
    untrusted_format: int,
) -> Frame:
    """Map a picture that QEMU shares. The descriptor stays the caller's.

    Raises:
        BadInputError: it is no memory file, or too small for what is claimed to be in it.
    """
    size = check(untrusted_width, untrusted_height, untrusted_stride, untrusted_format)
    _keep_size(untrusted_fd)
    facts = os.fstat(untrusted_fd)
    end = untrusted_offset + size
    if not stat.S_ISREG(facts.st_mode) or untrusted_offset < 0 or end > facts.st_size:
        raise BadInputError("The machine's display names more memory than it shares.")
    memory = mmap.mmap(untrusted_fd, end, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    view = memoryview(memory)[untrusted_offset:end]
    return Frame(untrusted_width, untrusted_height, untrusted_stride, untrusted_format, view)


def _keep_size(fd: int) -> None:
    """Seal the memory against shrinking, where it can be sealed: a reader of cut memory is killed by SIGBUS."""
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except OSError:
        # Not sealable (made by another means): then only a QEMU that was broken into could cut it, and we would end.
        pass


def copied(width: int, height: int, stride: int, untrusted_format: int, untrusted_pixels: bytes) -> Frame:
    """A picture that came in a message.

    Raises:
        BadInputError: it is shorter than it claims.
    """
    if len(untrusted_pixels) < check(width, height, stride, untrusted_format):
        raise BadInputError("The machine's display sent less of a picture than it said.")
    return Frame(width, height, stride, untrusted_format, memoryview(bytearray(untrusted_pixels)))


def patched(frame: Frame, x: int, y: int, width: int, height: int, stride: int, untrusted_pixels: bytes) -> Rect:
    """Copy a part that came in a message into our own picture; returns what changed.

    Raises:
        BadInputError: it lies outside the picture or is shorter than it claims.
    """
    size = check(width, height, stride, frame.format)
    if x < 0 or y < 0 or x + width > frame.width or y + height > frame.height or len(untrusted_pixels) < size:
        raise BadInputError("The machine's display sent a part that does not fit its picture.")
    if frame.pixels.readonly:
        raise BadInputError("The machine's display mixes shared and sent pictures.")
    each = _BYTES[frame.format]
    for row in range(height):
        start = (y + row) * frame.stride + x * each
        frame.pixels[start : start + width * each] = untrusted_pixels[row * stride : row * stride + width * each]
    return Rect(x, y, width, height)
