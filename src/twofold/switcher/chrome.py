"""What stands around the guest: the top bar, the rail, and on a phone the handle. All drawn, nothing themed."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from PySide6.QtCore import QPointF, QRect, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QWidget

from twofold.switcher import card as words
from twofold.switcher import look
from twofold.switcher.card import Card, Face, Transfer


def mark(painter: QPainter, rect: QRectF, card: Card | Face, size: int) -> None:
    """The workspace's mark: its first letter on its colour."""
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(card.colour))
    painter.drawRoundedRect(rect, rect.width() * 0.24, rect.width() * 0.24)
    painter.setPen(QColor("white"))
    painter.setFont(look.font(size, bold=True))
    painter.drawText(rect, Qt.AlignmentFlag.AlignCenter, card.title[:1].upper())


class _Plate(QWidget):
    """A drawn piece with things to press: `_spots` maps a name to where it is."""

    pressed = Signal(str)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setMouseTracking(True)
        self.spots: dict[str, QRect] = {}
        self._over = ""

    def _find(self, event: QMouseEvent) -> str:
        at = event.position().toPoint()
        return next((name for name, rect in self.spots.items() if rect.contains(at)), "")

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton and (name := self._find(event)):
            self.pressed.emit(name)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if (over := self._find(event)) != self._over:
            self._over = over
            self.setCursor(Qt.CursorShape.PointingHandCursor if over else Qt.CursorShape.ArrowCursor)
            self.update()

    def leaveEvent(self, event: object) -> None:
        self._over = ""
        self.update()


class Bar(_Plate):
    """Mark and name, search, the three facts, the lease. As a phone's handle: mark, name, three dots, a grip."""

    def __init__(self, parent: QWidget, metrics: look.Metrics, key: str) -> None:
        super().__init__(parent)
        self._metrics, self._key = metrics, key
        self._card: Card | None = None
        self._transfer: Transfer | None = None
        self._away = False
        self._told: object = None  # what is drawn

    def show_card(self, card: Card | None, transfer: Transfer | None = None, *, away: bool = False) -> None:
        """`away`: nobody tells us how things are now."""
        told = (card, away, card and (words.pills(card, transfer), words.lease(card), time.strftime("%H:%M")))
        if told != self._told:
            self._told, self._card, self._transfer, self._away = told, card, transfer, away
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), look.BAR)
        if self._card is not None:
            (self._phone if self._metrics.phone else self._desktop)(painter, self._card)

    def _desktop(self, painter: QPainter, card: Card) -> None:
        height = self.height()
        mark(painter, QRectF(8, 5, 22, 22), card, 13)
        painter.setFont(look.font(13, bold=True))
        painter.setPen(look.TEXT)
        wide = painter.fontMetrics().horizontalAdvance(card.title)
        painter.drawText(QRectF(38, 0, wide + 4, height), Qt.AlignmentFlag.AlignVCenter, card.title)
        search = QRect(38 + wide + 20, 4, 250, 24)
        title = QRect(4, 3, 38 + wide, 26)
        self.spots = {"search": search, "details": title}
        if self._over == "details":
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(255, 255, 255, 24))
            painter.drawRoundedRect(QRectF(title), 6, 6)
        painter.setPen(QPen(look.LINE, 1))
        painter.setBrush(look.HOVER if self._over == "search" else look.RAISED)
        painter.drawRoundedRect(QRectF(search).adjusted(0.5, 0.5, -0.5, -0.5), 6, 6)
        glass(painter, QPointF(search.left() + 15, search.center().y() + 0.5), look.QUIET)
        painter.setFont(look.font(12))
        painter.setPen(look.QUIET)
        painter.drawText(search.adjusted(28, 0, -8, 0), Qt.AlignmentFlag.AlignVCenter, "Search applications")
        painter.setFont(look.font(11))
        painter.drawText(
            search.adjusted(0, 0, -10, 0), Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight, "Ctrl+Space"
        )
        right = self.width() - 12.0
        if self._away:
            self._pill(painter, words.Pill("Twofold does not answer; it is tried again", False, late=True), right)
            return
        if text := words.lease(card):
            painter.setFont(look.font(12))
            painter.setPen(look.BUSY if card.warning is not None or card.shut else look.QUIET)
            advance = painter.fontMetrics().horizontalAdvance(text)
            if right - advance > search.right() + 420:
                where = QRectF(right - advance, 0, advance + 2, height)
                painter.drawText(where, Qt.AlignmentFlag.AlignVCenter, text)
                self.spots["lease"] = where.toRect()
                right -= advance + 16
        for pill, name in zip(reversed(words.pills(card, self._transfer)), ("server", "", ""), strict=True):
            left = self._pill(painter, pill, right, over=bool(name) and self._over == name)
            if name:
                self.spots[name] = QRect(round(left), 4, round(right - left), 24)
            right = left - 6

    def _pill(self, painter: QPainter, pill: words.Pill, right: float, *, over: bool = False) -> float:
        painter.setFont(look.font(12))
        wide = painter.fontMetrics().horizontalAdvance(pill.text) + 32 + (60 if pill.share is not None else 0)
        rect = QRectF(right - wide, 5, wide, 22)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(look.HOVER if over else look.RAISED)
        painter.drawRoundedRect(rect, 11, 11)
        dot(painter, QPointF(rect.left() + 13, rect.center().y()), pill.sure, late=pill.late)
        if pill.share is not None:
            track = QRectF(rect.right() - 56, rect.center().y() - 2, 44, 4)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(look.LINE)
            painter.drawRoundedRect(track, 2, 2)
            painter.setBrush(look.GOOD)
            painter.drawRoundedRect(QRectF(track.left(), track.top(), max(4.0, 44 * pill.share), 4), 2, 2)
        painter.setPen(look.BUSY if pill.late else look.TEXT if pill.sure else look.QUIET)
        painter.drawText(rect.adjusted(22, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, pill.text)
        return rect.left()

    def _phone(self, painter: QPainter, card: Card) -> None:
        self.spots = {"server": QRect(self.width() - 64, 0, 64, self.height()), "search": self.rect()}
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(look.LINE)
        painter.drawRoundedRect(QRectF(self.width() / 2 - 22, self.height() - 8, 44, 4), 2, 2)
        mark(painter, QRectF(10, 8, 26, 26), card, 15)
        painter.setFont(look.font(15, bold=True))
        painter.setPen(look.TEXT)
        painter.drawText(QRectF(46, 0, self.width() - 236, 42), Qt.AlignmentFlag.AlignVCenter, card.title)
        for index, pill in enumerate(words.pills(card, self._transfer)):
            at = QPointF(self.width() - 48 + index * 14, 21)
            dot(painter, at, pill.sure and not self._away, late=pill.late or self._away)
        painter.setFont(look.font(13))
        urgent = card.warning is not None or card.shut
        painter.setPen(look.BUSY if urgent else look.QUIET)
        painter.drawText(
            QRectF(self.width() - 184, 0, 120, 42),
            Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight,
            words.lease(card) if urgent else time.strftime("%H:%M"),
        )


class Rail(_Plate):
    """Personal, then the workspaces, each with its colour and key."""

    def __init__(self, parent: QWidget, key: str) -> None:
        super().__init__(parent)
        self._cards: Sequence[Card] = ()
        self._current, self._key = "", key
        self._marks: Collection[str] = ()

    def show_cards(self, cards: Sequence[Card], current: str, marks: Collection[str] = ()) -> None:
        """`marks`: those with a notification that nobody has seen."""
        self._cards, self._current, self._marks = cards, current, set(marks)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), look.BAR)
        self.spots = {"personal": QRect(0, 4, self.width(), 68)}
        self._hover(painter, "personal")
        house(painter, QPointF(self.width() / 2, 24), look.TEXT)
        self._label(painter, QRectF(0, 42, self.width(), 14), "Personal", look.TEXT)
        self._label(painter, QRectF(0, 55, self.width(), 14), self._key)
        painter.setPen(QPen(look.LINE, 1))
        painter.drawLine(QPointF(14, 76.5), QPointF(self.width() - 14, 76.5))
        top = 84
        for card in self._cards:
            self.spots[card.name] = QRect(0, top, self.width(), 76)
            self._hover(painter, card.name)
            mark(painter, QRectF(self.width() / 2 - 19, top + 5, 38, 38), card, 18)
            if card.name == self._current:
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(look.TEXT)
                painter.drawRoundedRect(QRectF(0, top + 9, 3, 30), 1.5, 1.5)
            if not card.in_memory:
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(QColor(18, 22, 27, 130))
                painter.drawRoundedRect(QRectF(self.width() / 2 - 19, top + 5, 38, 38), 9, 9)
            if card.name in self._marks:
                painter.setPen(QPen(look.BAR, 2))
                painter.setBrush(look.BUSY)
                painter.drawEllipse(QPointF(self.width() / 2 + 18, top + 7), 6, 6)
            self._label(painter, QRectF(0, top + 45, self.width(), 14), card.title, look.TEXT)
            self._label(painter, QRectF(0, top + 58, self.width(), 14), f"Ctrl Alt {card.key}" if card.key else "")
            top += 80

    def _hover(self, painter: QPainter, name: str) -> None:
        if self._over == name:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(look.RAISED)
            painter.drawRoundedRect(QRectF(self.spots[name]).adjusted(5, 0, -5, 0), 8, 8)

    def _label(self, painter: QPainter, rect: QRectF, text: str, colour: QColor = look.QUIET) -> None:
        painter.setFont(look.font(10))
        painter.setPen(colour)
        short = painter.fontMetrics().elidedText(text, Qt.TextElideMode.ElideRight, round(rect.width()) - 4)
        painter.drawText(rect, Qt.AlignmentFlag.AlignCenter, short)


def dot(painter: QPainter, at: QPointF, sure: bool, *, late: bool = False) -> None:
    """A full dot for a fact that holds, a ring for one that does not, a triangle for one that ought to; no colour is needed."""
    painter.setPen(Qt.PenStyle.NoPen if sure or late else QPen(look.QUIET, 1.4))
    painter.setBrush(look.BUSY if late else look.GOOD if sure else Qt.BrushStyle.NoBrush)
    if late:
        painter.drawPolygon(QPolygonF([at + QPointF(0, -4.5), at + QPointF(5, 4), at + QPointF(-5, 4)]))
    else:
        painter.drawEllipse(at, 4, 4)


def glass(painter: QPainter, at: QPointF, colour: QColor) -> None:
    painter.setPen(QPen(colour, 1.6, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap))
    painter.setBrush(Qt.BrushStyle.NoBrush)
    painter.drawEllipse(at + QPointF(-1, -1), 4.2, 4.2)
    painter.drawLine(at + QPointF(2.2, 2.2), at + QPointF(5.4, 5.4))


def house(painter: QPainter, at: QPointF, colour: QColor) -> None:
    painter.setPen(QPen(colour, 1.8, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap, Qt.PenJoinStyle.RoundJoin))
    painter.setBrush(Qt.BrushStyle.NoBrush)
    points = [(-11, 0), (0, -10), (11, 0)]
    painter.drawPolyline(QPolygonF([at + QPointF(x, y) for x, y in points]))
    walls = [(-8, -2), (-8, 10), (8, 10), (8, -2)]
    painter.drawPolyline(QPolygonF([at + QPointF(x, y) for x, y in walls]))
    door = [(-2.5, 10), (-2.5, 4), (2.5, 4), (2.5, 10)]
    painter.drawPolyline(QPolygonF([at + QPointF(x, y) for x, y in door]))
