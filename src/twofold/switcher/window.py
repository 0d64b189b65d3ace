"""The window that comes over the person's desktop: frame, bar, rail, the guest's area and what lies over it."""

from __future__ import annotations

from PySide6.QtCore import QRect, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QGuiApplication, QKeyEvent, QPainter, QPaintEvent, QScreen
from PySide6.QtWidgets import QWidget

from twofold.switcher import look
from twofold.switcher.banner import Banner
from twofold.switcher.canvas import Canvas
from twofold.switcher.card import Card, Transfer
from twofold.switcher.chrome import Bar, Rail
from twofold.switcher.launcher import Launcher
from twofold.switcher.page import Note, Page
from twofold.switcher.sheet import Sheet


class Window(QWidget):
    """Lays its parts out; knows nothing of gates or agents. `typed` carries keys that come while our own line has them."""

    typed = Signal(QKeyEvent)

    def __init__(self, metrics: look.Metrics, key: str, *, pointer_as_touch: bool, native: bool = False) -> None:
        # Override-redirect: the window manager never gives it the focus, so the focus never leaves the person's window. `native`:
        # a window like another, which Wayland's compositor places and focuses.
        kind = Qt.WindowType.Window if native else Qt.WindowType.BypassWindowManagerHint
        super().__init__(None, kind | Qt.WindowType.FramelessWindowHint)
        self.setWindowTitle("Twofold")
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.metrics = metrics
        self._colour = look.LINE
        self.bar = Bar(self, metrics, key)
        self.rail = Rail(self, key)
        self.rail.setVisible(not metrics.phone)
        self.stage = QWidget(self)
        self.canvas = Canvas(self.stage, pointer_as_touch=pointer_as_touch)
        self.page = Page(self.stage)
        self.banner = Banner(self.stage)
        self.sheet = Sheet(self.stage, metrics)
        self.launcher = Launcher(self.stage, metrics)
        self.note = Note(self.stage)

    def wear(self, card: Card | None, transfer: Transfer | None = None, *, away: bool = False) -> None:
        """Take a workspace's colour and facts; `away`: they are as the agent said them last, and it does not answer now."""
        colour = QColor(card.colour) if card else look.LINE
        if colour != self._colour:
            self._colour = colour
            self.update()
        self.bar.show_card(card, transfer, away=away)

    def resizeEvent(self, event: object) -> None:
        metrics, width, height = self.metrics, self.width(), self.height()
        frame = metrics.frame
        self.bar.setGeometry(frame, frame, width - 2 * frame, metrics.bar)
        top = frame + metrics.bar
        self.rail.setGeometry(frame, top, metrics.rail, height - top - frame)
        self.stage.setGeometry(frame + metrics.rail, top, width - 2 * frame - metrics.rail, height - top - frame)
        inside = QRect(0, 0, self.stage.width(), self.stage.height())
        for part in (self.canvas, self.page, self.sheet, self.launcher):
            part.setGeometry(inside)
        self.banner.place()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        whole, frame = self.rect(), self.metrics.frame
        for edge in (
            QRect(0, 0, whole.width(), frame),
            QRect(0, whole.height() - frame, whole.width(), frame),
            QRect(0, frame, frame, whole.height() - 2 * frame),
            QRect(whole.width() - frame, frame, frame, whole.height() - 2 * frame),
        ):
            painter.fillRect(edge, self._colour)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        self.typed.emit(event)

    def cover(self) -> None:
        """Lie over the whole screen that holds the pointer; on a phone between its owner's bars, above an open keyboard."""
        screen = QGuiApplication.screenAt(self.cursor().pos()) or QGuiApplication.primaryScreen()
        place = screen.availableGeometry() if self.metrics.phone else screen.geometry()
        if self.geometry() != place:
            self.setGeometry(place)

    def follow_screens(self) -> None:
        """Lie over the screen there is, from now on: screens change their size, go dark, are plugged in and out, and a new one is
        another object."""
        app = QGuiApplication.instance()
        assert isinstance(app, QGuiApplication)
        for screen in app.screens():
            self._follow(screen)
        app.screenAdded.connect(self._follow)
        app.screenRemoved.connect(self._soon)
        app.primaryScreenChanged.connect(self._soon)
        self.cover()

    def _soon(self) -> None:
        # Qt moves windows of a screen that goes by itself, after it has said so.
        QTimer.singleShot(0, self.cover)

    def _follow(self, screen: QScreen) -> None:
        screen.geometryChanged.connect(self.cover)
        screen.availableGeometryChanged.connect(self.cover)
        self._soon()
