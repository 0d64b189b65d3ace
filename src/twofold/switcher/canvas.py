"""The guest's area: paints its memory, and turns pointer, wheel and fingers into the guest's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from PySide6.QtCore import QEvent, QPoint, QPointF, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QEventPoint, QImage, QMouseEvent, QPainter, QPaintEvent, QTouchEvent, QWheelEvent
from PySide6.QtWidgets import QWidget

from twofold.switcher import look
from twofold.switcher.session import Session

_BUTTONS: Final = {
    Qt.MouseButton.LeftButton: 0, Qt.MouseButton.MiddleButton: 1, Qt.MouseButton.RightButton: 2,
    Qt.MouseButton.BackButton: 5, Qt.MouseButton.ForwardButton: 6,
}  # fmt: skip
_KINDS: Final = {
    QEventPoint.State.Pressed: 0, QEventPoint.State.Updated: 1, QEventPoint.State.Released: 2,
}  # fmt: skip


class Canvas(QWidget):
    """`resized` carries the area in device pixels, which is what the guest is asked to be."""

    resized = Signal(QSize)

    def __init__(self, parent: QWidget, *, pointer_as_touch: bool) -> None:
        super().__init__(parent)
        self.session: Session | None = None
        self.pointer_as_touch = pointer_as_touch
        self.still_work: Callable[[], bool] = lambda: True  # asked before anything is pressed in the guest
        self.left_at = 0  # X's time of the key that put Work away: what was clicked after it is not the guest's
        self.setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.setAttribute(Qt.WidgetAttribute.WA_AcceptTouchEvents)
        self.setMouseTracking(True)
        self._turned = QPoint()
        self._finger = False

    # -- geometry -----------------------------------------------------------------------------------------------------

    def area(self) -> QRect:
        """This widget in the window's device pixels; whole pixels inside it, so that a guest pixel is a screen pixel."""
        ratio = self.devicePixelRatioF()
        at = self.mapTo(self.window(), QPoint(0, 0))
        left, top = math.ceil(at.x() * ratio - 1e-6), math.ceil(at.y() * ratio - 1e-6)
        right = math.floor((at.x() + self.width()) * ratio + 1e-6)
        bottom = math.floor((at.y() + self.height()) * ratio + 1e-6)
        return QRect(left, top, right - left, bottom - top)

    def _target(self, image: QImage) -> QRectF:
        """Where the picture goes, in device pixels of the window: as it is where it fits, else whole and centred."""
        area = self.area()
        if image.size() == area.size():
            return QRectF(area)
        scale = min(area.width() / image.width(), area.height() / image.height())
        size = QSize(round(image.width() * scale), round(image.height() * scale))
        left = area.left() + (area.width() - size.width()) // 2
        return QRectF(left, area.top() + (area.height() - size.height()) // 2, size.width(), size.height())

    def _guest(self, at: QPointF) -> tuple[float, float] | None:
        """A point of this widget in guest pixels, held inside the picture."""
        image = self.session.image if self.session else None
        if image is None:
            return None
        ratio, origin = self.devicePixelRatioF(), self.mapTo(self.window(), QPoint(0, 0))
        target = self._target(image)
        x = ((origin.x() + at.x()) * ratio - target.left()) * image.width() / target.width()
        y = ((origin.y() + at.y()) * ratio - target.top()) * image.height() / target.height()
        return min(max(x, 0.0), image.width() - 1.0), min(max(y, 0.0), image.height() - 1.0)

    def damage(self, rect: QRect) -> None:
        """Repaint what shows these guest pixels, and nothing else."""
        image = self.session.image if self.session else None
        if image is None:
            return
        target, ratio = self._target(image), self.devicePixelRatioF()
        origin = self.mapTo(self.window(), QPoint(0, 0))
        kx, ky = target.width() / image.width(), target.height() / image.height()
        shown = QRectF(
            (target.left() + rect.left() * kx) / ratio - origin.x(),
            (target.top() + rect.top() * ky) / ratio - origin.y(),
            rect.width() * kx / ratio,
            rect.height() * ky / ratio,
        )
        self.update(shown.toAlignedRect().adjusted(-1, -1, 1, 1) if kx != 1 else shown.toAlignedRect())

    # -- painting -----------------------------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        image = self.session.image if self.session else None
        if image is None:
            painter.fillRect(event.rect(), look.GROUND)
            return
        ratio = self.devicePixelRatioF()
        origin = self.mapTo(self.window(), QPoint(0, 0))
        target = self._target(image)
        if target.size() != QRectF(self.area()).size() or target.size() != QRectF(image.rect()).size():
            painter.fillRect(event.rect(), look.GROUND)
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.scale(1 / ratio, 1 / ratio)
        painter.translate(-origin.x() * ratio, -origin.y() * ratio)
        painter.drawImage(target, image, QRectF(image.rect()))

    def resizeEvent(self, event: object) -> None:
        self.resized.emit(self.area().size())

    # -- input --------------------------------------------------------------------------------------------------------

    def _open(self, when: int, *, press: bool = True) -> bool:
        """Whether input may pass: the guest is live, and the event is no later than the key that put it away."""
        live = self.session is not None and self.session.live and self.session.display is not None
        return live and not (self.left_at and when >= self.left_at) and (not press or self.still_work())

    def _pointer(self, event: QMouseEvent, down: bool | None) -> None:
        at = self._guest(event.position())
        if at is None or self.session is None or self.session.display is None:
            return
        display = self.session.display
        if down is not False and not self._open(event.timestamp(), press=down is True):
            return
        if self.pointer_as_touch:
            if event.button() == Qt.MouseButton.LeftButton or self._finger:
                kind = 1 if down is None else 0 if down else 2
                self._finger = kind != 2
                display.touch(kind, 0, *at)
            return
        display.point(int(at[0]), int(at[1]))
        if down is not None and event.button() in _BUTTONS:
            display.button(_BUTTONS[event.button()], down)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._pointer(event, True)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        self._pointer(event, True)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self._pointer(event, False)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self._pointer(event, None)

    def wheelEvent(self, event: QWheelEvent) -> None:
        if not self._open(event.timestamp()) or self.session is None or self.session.display is None:
            return
        self._turned += event.angleDelta()
        for turned, plus, minus in ((self._turned.y(), 3, 4), (self._turned.x(), 7, 8)):
            notches = int(turned / 120)  # eighths of a degree; a notch is 15 degrees (Qt, QWheelEvent)
            if notches:
                self.session.display.wheel(plus if notches > 0 else minus, abs(notches))
        self._turned -= QPoint(int(self._turned.x() / 120) * 120, int(self._turned.y() / 120) * 120)

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QTouchEvent):
            self._touch(event)
            return True
        return bool(super().event(event))

    def _touch(self, event: QTouchEvent) -> None:
        if self.session is None or self.session.display is None:
            return
        cancelled = event.type() == QEvent.Type.TouchCancel
        for point in event.points():
            at, kind = self._guest(point.position()), 3 if cancelled else _KINDS.get(point.state())
            if at is None or kind is None or (kind == 0 and not self._open(event.timestamp())):
                continue
            self.session.display.touch(kind, point.id() % 10, *at)
