"""Marks: values drawn as black and white squares, so that a test reads them from pixels.

A row is 64 squares of CELL pixels: 1 0 1 1, four bits of kind, 56 bits of payload; below it the same row inverted, so that a
torn or overdrawn one is never taken for a value. A kind says what the payload is and never changes its meaning; a reader
refuses kinds that it does not know. Kind 1: 24 bits of Unix time in ms, 24 bits of key presses, 8 bits of check. Kind 2: 12 bits
of touches begun, 12 bits of button presses, where the last touch began (2 x 12 bits: 4096ths of the screen), 8 bits of check.
Kinds 4 to 15: text, two characters a row: 2 x 21 bits of code point, 5 bits of length in all, 9 bits of check.
"""

from __future__ import annotations

CELL = 6
COLUMNS = 64
STATUS, POINTING, TEXT = 1, 2, 4
TEXT_ROWS = 12
MAX_TEXT = 2 * TEXT_ROWS
TEXT_TOP = 24  # pixels from the top of the screen; the status row is at the very top, pointing below it
_SYNC = 0b1011


def _row(kind: int, payload: int) -> int:
    return _SYNC << 60 | kind << 56 | payload


def check(value: int, bits: int) -> int:
    """A small sum over `value`, never 0 for 0."""
    total, mask = 0x5A, (1 << bits) - 1
    while value:
        total = (total * 31 + (value & 0xFF)) & 0xFFFF
        value >>= 8
    return (total ^ total >> 7) & mask


def status_row(unix_ms: int, presses: int) -> int:
    """64 bits, most significant first."""
    body = (unix_ms & 0xFFFFFF) << 24 | presses & 0xFFFFFF
    return _row(STATUS, body << 8 | check(body, 8))


def pointing_row(touches: int, buttons: int, x: int, y: int) -> int:
    """64 bits; `x` and `y` are 4096ths of the screen's width and height."""
    body = 0
    for value in (touches, buttons, x, y):
        body = body << 12 | value & 0xFFF
    return _row(POINTING, body << 8 | check(body, 8))


def text_rows(text: str) -> list[int]:
    """The last MAX_TEXT characters of `text` as TEXT_ROWS rows."""
    codes = [ord(letter) for letter in text[-MAX_TEXT:]]
    length = len(codes)
    codes += [0] * (MAX_TEXT - length)
    rows = []
    for index in range(TEXT_ROWS):
        body = (codes[2 * index] << 21 | codes[2 * index + 1]) << 5 | length
        rows.append(_row(TEXT + index, body << 9 | check(body << 4 | index, 9)))
    return rows
