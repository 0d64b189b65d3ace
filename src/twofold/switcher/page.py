"""What stands over the guest's area when there is nothing live in it, and the small notes that come and go."""

from __future__ import annotations

from PySide6.QtCore import QRect, QRectF, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from twofold.switcher import look
from twofold.switcher.card import Card, Face
from twofold.switcher.chrome import mark
from twofold.switcher.notices import Notice

_BYTES = 100_000  # fewer are nothing to count


class Page(QWidget):
    """One state: what happened, what is safe, the next button. `pressed` carries the verb to ask the agent for."""

    pressed = Signal(str)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._notice: Notice | None = None
        self._card: Card | Face | None = None
        self._progress: tuple[str, int, int] | None = None
        self._button = QRect()
        self._covers = True
        self.hide()

    def tell(self, card: Card | Face, notice: Notice, progress: tuple[str, int, int] | None, *, covers: bool) -> None:
        """`covers`: there is no picture below that is worth being seen through."""
        now = (card, notice, progress, covers)
        if now != (self._card, self._notice, self._progress, self._covers):
            self._card, self._notice, self._progress, self._covers = now
            self.update()
        self.show()

    def paintEvent(self, event: QPaintEvent) -> None:
        if self._notice is None or self._card is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), look.GROUND if self._covers else look.DIM)
        wide = min(460, self.width() - 48)
        left, top = (self.width() - wide) / 2, max(40.0, self.height() / 2 - 170)
        mark(painter, QRectF(self.width() / 2 - 32, top, 64, 64), self._card, 30)
        top += 86
        top = (
            self._text(painter, QRectF(left, top, wide, 200), self._notice.head, look.font(24, bold=True), look.TEXT)
            + 10
        )
        if self._notice.busy:
            top = self._bar(painter, left, top + 12, wide)
        if self._notice.text:
            top = self._text(painter, QRectF(left, top, wide, 300), self._notice.text, look.font(15), look.QUIET) + 8
        if self._notice.safe:
            top = self._text(painter, QRectF(left, top, wide, 200), self._notice.safe, look.font(15), look.GOOD) + 8
        self._button = QRect()
        if self._notice.button:
            self._button = QRect(int(self.width() / 2 - 80), int(top) + 18, 160, 44)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(self._card.colour))
            painter.drawRoundedRect(QRectF(self._button), 10, 10)
            painter.setPen(QColor("white"))
            painter.setFont(look.font(15, bold=True))
            painter.drawText(self._button, Qt.AlignmentFlag.AlignCenter, self._notice.button)

    def _text(self, painter: QPainter, rect: QRectF, text: str, font: object, colour: QColor) -> float:
        painter.setFont(font)  # type: ignore[arg-type]
        painter.setPen(colour)
        flags = Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignTop | Qt.TextFlag.TextWordWrap
        height = painter.boundingRect(rect, int(flags), text).height()
        painter.drawText(rect, int(flags), text)
        return rect.top() + height

    def _bar(self, painter: QPainter, left: float, top: float, wide: float) -> float:
        step, done, total = self._progress or ("", 0, 0)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(look.RAISED)
        track = QRectF(left + wide * 0.15, top, wide * 0.7, 6)
        painter.drawRoundedRect(track, 3, 3)
        if self._card is not None and total > 0:
            painter.setBrush(QColor(self._card.colour).lighter(130))
            painter.drawRoundedRect(QRectF(track.left(), top, max(6.0, track.width() * min(done / total, 1)), 6), 3, 3)
        if total >= _BYTES:
            step = f"{step}: {done / 1e6:.1f} of {total / 1e6:.1f} MB"
        return self._text(painter, QRectF(left, top + 18, wide, 60), step, look.font(14), look.QUIET) + 8

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if self._notice and self._button.contains(event.position().toPoint()):
            self.pressed.emit(self._notice.verb)


class Note(QWidget):
    """A line at the foot of the guest's area: starting an application, a retained picture, held keys."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._parent = parent
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self._text, self._colour = "", look.BUSY
        self._end = QTimer(self, singleShot=True)
        self._end.timeout.connect(self.hide)
        self.hide()

    def say(self, text: str, colour: QColor, seconds: float = 0) -> None:
        if not text:
            self.hide()
            return
        self._text, self._colour = text, colour
        self._place()
        self.update()
        self.show()
        self.raise_()
        self._end.stop()
        if seconds:
            self._end.start(int(seconds * 1000))

    def _place(self) -> None:
        self.setFont(look.font(14))
        parent = self._parent
        wide = min(self.fontMetrics().horizontalAdvance(self._text) + 56, parent.width() - 16)
        self.setGeometry((parent.width() - wide) // 2, parent.height() - 64, wide, 40)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(18, 22, 27, 240))
        painter.drawRoundedRect(QRectF(self.rect()), 20, 20)
        painter.setBrush(self._colour)
        painter.drawEllipse(QRectF(18, 16, 8, 8))
        painter.setFont(look.font(14))
        painter.setPen(look.TEXT)
        text = painter.fontMetrics().elidedText(self._text, Qt.TextElideMode.ElideRight, self.width() - 52)
        painter.drawText(self.rect().adjusted(36, 0, -12, 0), Qt.AlignmentFlag.AlignVCenter, text)
