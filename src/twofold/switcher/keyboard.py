"""Keys to type with by touch, for what is typed into our own window: no other keyboard comes over it on a phone."""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QPoint, QRect, QRectF, Qt
from PySide6.QtGui import QPainter

from twofold.switcher import look

SHIFT, MORE, LETTERS, ERASE, SPACE, ENTER = "\u21e7", "123", "abc", "\u232b", "space", "\u23ce"
HEIGHT: Final = 5 * 52 + 12
_GAP: Final = 5
_ABC = ("1234567890", "qwertyuiop", "asdfghjkl", f"{SHIFT} zxcvbnm {ERASE}", f"{MORE} {SPACE} . {ENTER}")
_SIGNS = ("1234567890", "@#$%&*-+()", "!\"':;/?_=", "~`\\|<>{}[]^ " + ERASE, f"{LETTERS} {SPACE} , {ENTER}")
_WIDE = {SHIFT: 1.5, ERASE: 1.5, MORE: 1.5, LETTERS: 1.5, ENTER: 2.0, SPACE: 4.5}


class Keyboard:
    """Where its keys are, which layer is up. It is drawn and pressed by the widget that it lies in."""

    def __init__(self) -> None:
        self.spots: dict[str, QRect] = {}
        self._signs = self._shifted = False

    def place(self, within: QRect) -> None:
        self.spots, top = {}, within.top() + 6
        rows = _SIGNS if self._signs else _ABC
        for line in rows:
            keys = _keys(line)
            units = sum(_WIDE.get(key, 1.0) for key in keys)
            unit = (within.width() - 8) / max(10, units)
            wide = units * unit
            left = within.left() + 4 + (within.width() - 8 - wide) / 2
            for key in keys:
                room = _WIDE.get(key, 1.0) * unit
                self.spots[self._cap(key)] = QRect(round(left), top, round(room), 52)
                left += room
            top += 52

    def _cap(self, key: str) -> str:
        return key.upper() if self._shifted and len(key) == 1 and key.isalpha() else key

    def paint(self, painter: QPainter, pressed: str) -> None:
        for key, rect in self.spots.items():
            cap = QRectF(rect).adjusted(_GAP / 2, _GAP / 2, -_GAP / 2, -_GAP / 2)
            painter.setPen(Qt.PenStyle.NoPen)
            lit = key == pressed or (key == SHIFT and self._shifted)
            painter.setBrush(look.LINE if lit else look.HOVER if key not in _WIDE else look.RAISED)
            painter.drawRoundedRect(cap, 7, 7)
            painter.setPen(look.TEXT)
            painter.setFont(look.font(15 if key in (MORE, LETTERS, SPACE) else 20))
            painter.drawText(cap, Qt.AlignmentFlag.AlignCenter, key)

    def find(self, at: QPoint) -> str:
        return next((key for key, rect in self.spots.items() if rect.contains(at)), "")

    def press(self, key: str) -> str:
        """What was typed: a character, ERASE, ENTER, or nothing where another layer came up."""
        if key in (SHIFT, MORE, LETTERS):
            self._shifted, self._signs = key == SHIFT and not self._shifted, key == MORE
            return ""
        self._shifted = False
        return " " if key == SPACE else key


def _keys(line: str) -> list[str]:
    """A row in words: those that name a key are one, of others each character is."""
    words = line.split(" ")
    named = (*_WIDE,)
    return [key for word in words for key in ([word] if word in named else word)]
