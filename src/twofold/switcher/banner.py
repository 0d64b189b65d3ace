"""A few words at the head of the guest's area that stay until they are answered: what is about to end, what is not backed up,
how far a back up is."""

from __future__ import annotations

from PySide6.QtCore import QRect, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from twofold.switcher import look
from twofold.switcher.notices import Told

_WIDE, _EDGE, _BUTTON = 560, 16, 36


class Banner(QWidget):
    """`pressed` carries a button's verb. `spots` maps the verbs to where their buttons are."""

    pressed = Signal(str)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._parent = parent
        self._told: Told | None = None
        self._colour = look.BUSY
        self.spots: dict[str, QRect] = {}
        self.setCursor(Qt.CursorShape.ArrowCursor)
        self.hide()

    @property
    def told(self) -> Told | None:
        """What is said now."""
        return self._told if self.isVisibleTo(self._parent) else None

    def tell(self, told: Told | None, colour: str = "") -> None:
        """Say this, in front of everything but the launcher; None: nothing. `colour` is the workspace's."""
        if told is None:
            self._told = None
            self.hide()
            return
        if told != self._told or not self.isVisibleTo(self._parent):
            self._told, self._colour = told, QColor(colour) if colour else look.BUSY
            self.place()
            self.show()
            self.raise_()
            self.update()

    def place(self) -> None:
        """Take the room that the words need."""
        if self._told is None:
            return
        wide = min(_WIDE, self._parent.width() - 16)
        inner = wide - 2 * _EDGE - 20
        head = self._height(self._told.head, inner, bold=True)
        text = self._height(self._told.text, inner, bold=False) + 4 if self._told.text else 0
        bar = 18 if self._told.share is not None else 0
        buttons = _BUTTON + 12 if self._told.buttons else 0
        self.setGeometry((self._parent.width() - wide) // 2, 12, wide, 2 * 14 + head + text + bar + buttons)
        at, top = wide - _EDGE, self.height() - 14 - _BUTTON
        self.spots = {}
        self.setFont(look.font(14, bold=True))
        for label, verb in reversed(self._told.buttons):
            room = self.fontMetrics().horizontalAdvance(label) + 32
            at -= room
            self.spots[verb] = QRect(at, top, room, _BUTTON)
            at -= 8

    def _height(self, text: str, wide: int, *, bold: bool) -> int:
        self.setFont(look.font(15 if bold else 14, bold=bold))
        return self.fontMetrics().boundingRect(QRect(0, 0, wide, 1000), int(Qt.TextFlag.TextWordWrap), text).height()

    def paintEvent(self, event: QPaintEvent) -> None:
        told = self._told
        if told is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(look.LINE)
        painter.setBrush(look.BAR)
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), 12, 12)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(look.BAD if told.bad else look.BUSY if told.warns else self._colour.lighter(130))
        painter.drawEllipse(QRectF(_EDGE, 20, 9, 9))
        left, wide, top = _EDGE + 20, self.width() - 2 * _EDGE - 20, 14
        top = self._words(painter, QRect(left, top, wide, 200), told.head, look.TEXT, bold=True)
        if told.text:
            top = self._words(painter, QRect(left, top + 4, wide, 200), told.text, look.QUIET, bold=False)
        if told.share is not None:
            track = QRectF(left, top + 10, wide, 6)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(look.RAISED)
            painter.drawRoundedRect(track, 3, 3)
            painter.setBrush(self._colour.lighter(130))
            painter.drawRoundedRect(QRectF(left, top + 10, max(6.0, wide * told.share), 6), 3, 3)
        painter.setFont(look.font(14, bold=True))
        for label, verb in told.buttons:
            spot = self.spots[verb]
            first = verb == told.buttons[0][1] and len(told.buttons) > 1
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(self._colour if first else look.HOVER)
            painter.drawRoundedRect(QRectF(spot), 8, 8)
            painter.setPen(QColor("white") if first else look.TEXT)
            painter.drawText(spot, Qt.AlignmentFlag.AlignCenter, label)

    def _words(self, painter: QPainter, rect: QRect, text: str, colour: QColor, *, bold: bool) -> int:
        painter.setFont(look.font(15 if bold else 14, bold=bold))
        painter.setPen(colour)
        flags = int(Qt.AlignmentFlag.AlignTop | Qt.TextFlag.TextWordWrap)
        painter.drawText(rect, flags, text)
        return rect.top() + painter.fontMetrics().boundingRect(rect, flags, text).height()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        at = event.position().toPoint()
        for verb, spot in self.spots.items():
            if spot.contains(at):
                self.pressed.emit(verb)
                return
