"""Reads the guest's marks from pixels: the other half of twofold.guest.marks, of its own making."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CELL, COLUMNS, TEXT_TOP, TEXT_ROWS = 6, 64, 24, 12
Picture = NDArray[np.uint8]


class NoMarks(ValueError):  # noqa: N818 - it is an answer
    """There are no whole marks at that place: not shown, torn, or drawn over."""


@dataclass(frozen=True)
class Status:
    """`clock` is the guest's Unix time in ms, modulo 2^24; `presses` counts key presses, modulo 2^24."""

    clock: int
    presses: int

    def age(self, unix_ms: int) -> int:
        """How many ms before `unix_ms` the guest drew this (negative: its clock is ahead)."""
        return (unix_ms - self.clock + (1 << 23)) % (1 << 24) - (1 << 23)


@dataclass(frozen=True)
class Pointing:
    """Touches begun and button presses, both modulo 4096; `x`, `y`: where the last touch began, as parts of the screen."""

    touches: int
    buttons: int
    x: float
    y: float


def _row(picture: Picture, left: int, top: int) -> tuple[int, int]:
    """(kind, payload) of the row whose upper left corner is at `left`, `top`."""
    y, x = top + CELL // 2, left + CELL // 2
    if picture.ndim != 3 or picture.shape[0] < top + 2 * CELL or picture.shape[1] < left + COLUMNS * CELL:
        raise NoMarks("the picture is too small")
    light = picture[:, :, :3].mean(axis=2)
    upper = light[y, x : x + COLUMNS * CELL : CELL]
    lower = light[y + CELL, x : x + COLUMNS * CELL : CELL]
    bits = upper > 127
    if not np.all(bits != (lower > 127)) or np.any((upper > 60) & (upper < 195)):
        raise NoMarks("torn or drawn over")
    value = int("".join("1" if bit else "0" for bit in bits), 2)
    if value >> 60 != 0b1011:
        raise NoMarks("no sync")
    return value >> 56 & 0xF, value & (1 << 56) - 1


def _check(value: int, bits: int) -> int:
    total = 0x5A
    while value:
        total = (total * 31 + (value & 0xFF)) & 0xFFFF
        value >>= 8
    return (total ^ total >> 7) & (1 << bits) - 1


def status(picture: Picture, left: int = 0, top: int = 0) -> Status:
    """The time and the count; `left`, `top` is where the guest's screen begins in the picture (RGB, uint8).

    Raises:
        NoMarks: they are not whole there.
    """
    kind, payload = _row(picture, left, top)
    body = payload >> 8
    if kind != 1 or payload & 0xFF != _check(body, 8):
        raise NoMarks("no status")
    return Status(body >> 24, body & 0xFFFFFF)


def pointing(picture: Picture, left: int = 0, top: int = 0) -> Pointing:
    """The row below the status.

    Raises:
        NoMarks: it is not whole there.
    """
    kind, payload = _row(picture, left, top + 2 * CELL)
    body = payload >> 8
    if kind != 2 or payload & 0xFF != _check(body, 8):
        raise NoMarks("no pointing")
    touches, buttons, x, y = (body >> shift & 0xFFF for shift in (36, 24, 12, 0))
    return Pointing(touches, buttons, x / 4096, y / 4096)


def text(picture: Picture, left: int = 0, top: int = 0) -> str:
    """What the text field holds (its last 24 characters).

    Raises:
        NoMarks: the rows are not whole, or do not belong together.
    """
    letters: list[str] = []
    length = None
    for index in range(TEXT_ROWS):
        kind, payload = _row(picture, left, top + TEXT_TOP + 2 * CELL * index)
        body = payload >> 9
        if kind != 4 + index or payload & 0x1FF != _check(body << 4 | index, 9):
            raise NoMarks(f"no text row {index}")
        if length not in (None, body & 31):
            raise NoMarks("rows of two moments")
        length = body & 31
        letters += [chr(code) for code in (body >> 26, body >> 5 & 0x1FFFFF)]
    return "".join(letters[:length])
