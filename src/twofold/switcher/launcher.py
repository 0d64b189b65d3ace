"""The guest's applications over its dimmed picture, found by typing. On a phone a sheet from below, four wide."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QPoint, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QImage, QImageReader, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QWheelEvent
from PySide6.QtWidgets import QLineEdit, QWidget

from twofold.switcher import card as words
from twofold.switcher import look
from twofold.switcher.card import Card
from twofold.switcher.chrome import dot, mark

_SIDE = 256
_BYTES = 64 << 10


@dataclass(frozen=True)
class App:
    """One installed application, as the guest said and the agent checked."""

    id: str
    name: str
    comment: str
    keywords: str
    icon: str

    @classmethod
    def from_wire(cls, untrusted_app: dict[str, Any]) -> App:
        def text(key: str, limit: int) -> str:
            value = untrusted_app.get(key, "")
            value = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            return "".join(c for c in value[:limit] if c.isprintable())

        return cls(text("id", 200), text("name", 80), text("comment", 200), text("keywords", 400), text("icon", 64))


def matching(apps: Sequence[App], typed: str) -> list[App]:
    """Applications for what was typed: names that start so first, then names and ids, then words that describe it."""
    wanted = typed.casefold().split()

    def rank(app: App) -> int | None:
        name, rest = app.name.casefold(), f"{app.comment} {app.keywords}".casefold()
        if not wanted or name.startswith(" ".join(wanted)):
            return 0
        if all(word in name or word in app.id.casefold() for word in wanted):
            return 1
        return 2 if all(word in name or word in rest for word in wanted) else None

    ranked = [(found, app.name.casefold(), app) for app in apps if (found := rank(app)) is not None]
    return [app for _, _, app in sorted(ranked, key=lambda each: each[:2])]


def icon(untrusted_png: str) -> QImage | None:
    """Decode an icon; None where it is no PNG of at most 64 KiB and 256 x 256."""
    try:
        data = base64.b64decode(untrusted_png[: _BYTES * 2], validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(data) > _BYTES or not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if not (1 <= width <= _SIDE and 1 <= height <= _SIDE):
        return None
    QImageReader.setAllocationLimit(16)
    image = QImage.fromData(data)
    return None if image.isNull() or image.width() > _SIDE or image.height() > _SIDE else image


class Launcher(QWidget):
    """`launch` carries an application's id; `left` says that the person is done; `personal` that they want their own side,
    `other` another workspace, `details` what can be done with this one."""

    launch = Signal(str)
    left = Signal()
    personal = Signal()
    other = Signal(str)
    details = Signal()

    def __init__(self, parent: QWidget, metrics: look.Metrics) -> None:
        super().__init__(parent)
        self._metrics = metrics
        self._apps: list[App] = []
        self._shown: list[App] = []
        self._icons: dict[str, QImage] = {}
        self._chosen = self._scroll = 0
        self._card: Card | None = None
        self._cards: Sequence[Card] = ()
        self._note = ""
        self.search = QLineEdit(self, placeholderText="Type to search applications")
        self.search.setFont(look.font(17))
        self.search.setFrame(False)
        self.search.setStyleSheet(
            f"QLineEdit{{background:{look.RAISED.name()};color:{look.TEXT.name()};border:1px solid {look.LINE.name()};"
            "border-radius:10px;padding:0 14px;selection-background-color:#3b6ea8}"
        )
        self.search.textChanged.connect(self._filter)
        self.search.installEventFilter(self)
        self.setMouseTracking(True)
        self.hide()

    def open(self, card: Card, cards: Sequence[Card]) -> None:
        self._cards = cards
        self._lay()
        self._card, self._note = card, "" if card.runs else "Applications are there once the workspace runs."
        self.search.clear()
        self._filter()
        self.show()
        self.raise_()
        self.search.setFocus()

    def show_apps(self, apps: list[App]) -> None:
        self._apps = apps
        self._filter()

    def show_icon(self, name: str, image: QImage) -> None:
        self._icons[name] = image
        self.update()

    def missing(self) -> set[str]:
        return {app.icon for app in self._apps if app.icon} - self._icons.keys()

    def _filter(self) -> None:
        self._shown, self._chosen, self._scroll = matching(self._apps, self.search.text()), 0, 0
        self.update()

    # -- geometry -----------------------------------------------------------------------------------------------------

    @property
    def _aside(self) -> bool:
        """A phone that is held on its side."""
        return self._metrics.phone and self.width() > self.height()

    def _panel(self) -> QRect:
        if self._metrics.phone:
            top = 12 if self._aside else self.height() * 34 // 100
            return QRect(0, top, self.width(), self.height() - top)
        return QRect(0, 0, self.width(), self.height())

    def _grid(self) -> tuple[QRect, int, QSize]:
        panel = self._panel()
        if self._metrics.phone:
            columns = (panel.width() - 16) // 132 if self._aside else 4
            cell = QSize((panel.width() - 16) // columns, 108)
            return panel.adjusted(8, 98 if self._aside else 160, -8, 0), columns, cell
        cell = QSize(132, 124)
        columns = max(1, min(7, (panel.width() - 80) // cell.width()))
        left = (panel.width() - columns * cell.width()) // 2
        return QRect(left, 118, columns * cell.width(), panel.height() - 118), columns, cell

    def cell(self, index: int) -> QRect:
        grid, columns, size = self._grid()
        at = grid.topLeft() + QPoint(index % columns * size.width(), index // columns * size.height() - self._scroll)
        return QRect(at, size)

    def places(self) -> dict[str, tuple[int, int]]:
        """Where each shown application is, in window pixels; for those who press it without eyes."""
        found = {}
        for index, app in enumerate(self._shown):
            at = self.mapTo(self.window(), self.cell(index).center())
            found[app.id] = (at.x(), at.y())
        return found

    def resizeEvent(self, event: object) -> None:
        self._lay()

    def _lay(self) -> None:
        panel = self._panel()
        if self._aside:  # between the workspaces and the buttons
            left = self._mark(len(self._cards)).left()
            self.search.setGeometry(left, panel.top() + 15, self._more().left() - left - 12, 46)
            return
        wide = panel.width() - 32 if self._metrics.phone else min(560, panel.width() - 80)
        top = panel.top() + (106 if self._metrics.phone else 48)
        self.search.setGeometry((panel.width() - wide) // 2, top, wide, 46)

    # -- painting -----------------------------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.fillRect(self.rect(), look.DIM)
        if self._metrics.phone:
            self._sheet(painter)
        grid, _, _ = self._grid()
        painter.setClipRect(grid)
        for index, app in enumerate(self._shown):
            self._app(painter, app, QRectF(self.cell(index)), chosen=index == self._chosen)
        if not self._shown:
            painter.setFont(look.font(15))
            painter.setPen(look.QUIET)
            nothing = self._note or (
                "No application is called that." if self._apps else "Asking for the applications …"
            )
            painter.drawText(
                grid.adjusted(0, 24, 0, 0), Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignTop, nothing
            )

    def _sheet(self, painter: QPainter) -> None:
        panel = QRectF(self._panel())
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(look.BAR)
        painter.drawRoundedRect(panel.adjusted(0, 0, 0, 24), 18, 18)
        painter.setBrush(look.LINE)
        painter.drawRoundedRect(QRectF(panel.width() / 2 - 22, panel.top() + 8, 44, 4), 2, 2)
        if self._card is None:
            return
        for index, each in enumerate(self._cards):
            mark(painter, QRectF(self._mark(index)), each, 17)
            if each.name == self._card.name:
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(look.TEXT)
                painter.drawRoundedRect(QRectF(self._mark(index).adjusted(8, 39, -8, 5)), 1.5, 1.5)
        left, line = 18.0, panel.top() + (72 if self._aside else 80)
        painter.setFont(look.font(12))
        for pill in words.pills(self._card):
            dot(painter, QRectF(left, line, 8, 8).center(), pill.sure)
            painter.setPen(look.TEXT if pill.sure else look.QUIET)
            room = int(self.width() - left - 26)
            text = painter.fontMetrics().elidedText(pill.text, Qt.TextElideMode.ElideRight, room)
            wide = painter.fontMetrics().horizontalAdvance(text)
            painter.drawText(QRectF(left + 14, line - 10, wide + 4, 28), Qt.AlignmentFlag.AlignVCenter, text)
            left += wide + 26
        for place, label in ((self._home(), "Personal"), (self._more(), "Details")):
            painter.setPen(QPen(look.LINE, 1))
            painter.setBrush(look.RAISED)
            painter.drawRoundedRect(QRectF(place), 9, 9)
            painter.setPen(look.TEXT)
            painter.setFont(look.font(13, bold=True))
            painter.drawText(place, Qt.AlignmentFlag.AlignCenter, label)

    def _mark(self, index: int) -> QRect:
        return QRect(16 + index * 48, self._panel().top() + 20, 36, 36)

    def _home(self) -> QRect:
        return QRect(self.width() - 100, self._panel().top() + 20, 84, 36)

    def _more(self) -> QRect:
        return self._home().translated(-92, 0)

    def more(self) -> QRect:
        """Where a phone's button for the details is; empty elsewhere."""
        return self._more() if self._metrics.phone else QRect()

    def _app(self, painter: QPainter, app: App, rect: QRectF, *, chosen: bool) -> None:
        if chosen:
            painter.setPen(QPen(QColor(255, 255, 255, 70), 1))
            painter.setBrush(QColor(255, 255, 255, 26))
            painter.drawRoundedRect(rect.adjusted(5, 3, -5, -3), 12, 12)
        box = QRectF(rect.center().x() - 26, rect.top() + 14, 52, 52)
        image = self._icons.get(app.icon)
        if image is not None:
            painter.drawImage(box, image)
        else:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(look.HOVER)
            painter.drawRoundedRect(box, 12, 12)
            painter.setPen(look.TEXT)
            painter.setFont(look.font(22, bold=True))
            painter.drawText(box, Qt.AlignmentFlag.AlignCenter, app.name[:1].upper())
        painter.setFont(look.font(13))
        painter.setPen(look.TEXT)
        metrics = painter.fontMetrics()
        text = metrics.elidedText(app.name, Qt.TextElideMode.ElideRight, int(rect.width()) - 14)
        painter.drawText(QRectF(rect.left(), box.bottom() + 8, rect.width(), 22), Qt.AlignmentFlag.AlignCenter, text)

    # -- input --------------------------------------------------------------------------------------------------------

    def eventFilter(self, watched: object, event: Any) -> bool:
        return isinstance(event, QKeyEvent) and event.type() == QKeyEvent.Type.KeyPress and self._key(event)

    def _key(self, event: QKeyEvent) -> bool:
        columns = self._grid()[1]
        steps = {Qt.Key.Key_Down: columns, Qt.Key.Key_Up: -columns, Qt.Key.Key_Tab: 1, Qt.Key.Key_Backtab: -1}
        if event.key() == Qt.Key.Key_Escape:
            self.left.emit()
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            if self._shown:
                self.launch.emit(self._shown[self._chosen].id)
        elif event.key() == Qt.Key.Key_Space and event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self.left.emit()
        elif event.key() in steps or (event.key() in (Qt.Key.Key_Left, Qt.Key.Key_Right) and not self.search.text()):
            step = steps.get(Qt.Key(event.key()), 1 if event.key() == Qt.Key.Key_Right else -1)
            if 0 <= self._chosen + step < len(self._shown):
                self._chosen += step
            self._reveal()
        else:
            return False
        return True

    def _reveal(self) -> None:
        grid, rect = self._grid()[0], self.cell(self._chosen)
        self._scroll += max(0, rect.bottom() - grid.bottom() + 8) - max(0, grid.top() - rect.top())
        self.update()

    def wheelEvent(self, event: QWheelEvent) -> None:
        grid, columns, size = self._grid()
        high = max(0, (len(self._shown) + columns - 1) // columns * size.height() - grid.height())
        self._scroll = min(max(0, self._scroll - event.angleDelta().y() // 2), high)
        self.update()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        for index in range(len(self._shown)):
            if self.cell(index).contains(event.position().toPoint()) and index != self._chosen:
                self._chosen = index
                self.update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        at = event.position().toPoint()
        if self._metrics.phone and self._home().contains(at):
            self.personal.emit()
            return
        if self.more().contains(at):
            self.details.emit()
            return
        for index, each in enumerate(self._cards if self._metrics.phone else ()):
            if self._mark(index).contains(at):
                self.other.emit(each.name)
                return
        for index, app in enumerate(self._shown):
            if self.cell(index).contains(at) and self._grid()[0].contains(at):
                self.launch.emit(app.id)
                return
        if not self._panel().contains(at) or not self._metrics.phone:
            self.left.emit()
