"""What a person reads, chooses and types in our own window: a `Form`, drawn over the guest's area."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from PySide6.QtCore import QPoint, QRect, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QInputMethodEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QPixmap
from PySide6.QtWidgets import QWidget

from twofold.switcher import keyboard, look
from twofold.switcher.card import Card
from twofold.switcher.chrome import dot, mark
from twofold.switcher.forms import BAD, GRAVE, LOST, MAIN, SAFE, Choice, Form
from twofold.switcher.keyboard import Keyboard
from twofold.switcher.secret import Secret

_WIDE, _EDGE, _BUTTON, _FIELD = 600, 24, 44, 48
_SLACK: Final = 12  # pixels that a finger moves and still taps
_COLOURS: Final = {"": look.QUIET, LOST: look.BUSY, SAFE: look.GOOD, BAD: look.BAD}
_GRAVE: Final = QColor("#b3261e")


class Sheet(QWidget):
    """`pressed` carries a choice's verb, `chord` a digit with Control and Alt, which the gate does not hear while our own window
    has the keyboard. `spots` maps what can be pressed to where it is: verbs, `field N`, `key C`."""

    pressed = Signal(str)
    chord = Signal(str)

    def __init__(self, parent: QWidget, metrics: look.Metrics) -> None:
        super().__init__(parent)
        self._metrics = metrics
        self._form: Form | None = None
        self._card: Card | None = None
        self._covers = True
        self.secrets = Secret(), Secret()
        self._field = self._chosen = 0
        self._keys = Keyboard()
        self._touched = ""
        self._room, self._keyboard = QRect(), QRect()
        self._scroll = self._beyond = 0.0  # how far it is scrolled, and can be
        self._drag: tuple[int, float] | None = None  # where a finger came down, and how far it was scrolled then
        self._dragged = False
        self.spots: dict[str, QRect] = {}
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAttribute(Qt.WidgetAttribute.WA_InputMethodEnabled)
        self.setInputMethodHints(Qt.InputMethodHint.ImhHiddenText | Qt.InputMethodHint.ImhSensitiveData
                                 | Qt.InputMethodHint.ImhNoPredictiveText)  # fmt: skip
        self.setMouseTracking(True)
        self.hide()

    @property
    def form(self) -> Form | None:
        """What is shown now."""
        return self._form

    def show_form(self, form: Form | None, card: Card | None, *, covers: bool) -> None:
        """None: nothing. `covers`: there is no picture below that is worth being seen through. What was typed is kept for as long
        as the same form of the same workspace is up."""
        now, before = (form, card, covers), (self._form, self._card, self._covers)
        if form is None or card is None:
            if self._form is not None:
                self._form = None
                self.wipe()
                self.hide()
            return
        if self._form is None or self._card is None or (self._form.name, self._card.name) != (form.name, card.name):
            self.wipe()
            self._scroll = 0.0
        if self._form is None or _choices(self._form) != _choices(form):
            self._chosen = next((at for at, each in enumerate(_choices(form)) if each.kind == MAIN), 0)
        self._form, self._card, self._covers = now
        if now != before or not self.isVisible():
            self._measure()
            self.show()
            self.raise_()
            self.update()

    def wipe(self) -> None:
        """Forget what was typed."""
        for secret in self.secrets:
            secret.wipe()
        self._field = 0
        self.update()

    # -- what is drawn ------------------------------------------------------------------------------------------------

    @property
    def _touch(self) -> bool:
        return self._metrics.phone and self._form is not None and bool(self._form.fields)

    def _measure(self) -> None:
        """Find out where everything is, without a picture."""
        paper = QPixmap(1, 1)
        painter = QPainter(paper)
        self._panel = QRectF(0, 0, 0, 0)
        self._room, self._keyboard = self._rooms()
        high = self._flow(painter)
        wide = min(_WIDE, self._room.width() - 16)
        self._beyond = max(0.0, high + 16 - self._room.height())
        self._scroll = min(self._scroll, self._beyond)
        top = max(8.0, (self._room.height() - high) / 2) - self._scroll
        self._panel = QRectF((self._room.width() - wide) / 2, top, wide, high)
        self.spots = {}
        self._flow(painter)
        painter.end()
        if self._touch:
            self._keys.place(self._keyboard)
            self.spots = {name: rect for name, rect in self.spots.items() if not self._keyboard.contains(rect.center())}
            self.spots |= {f"key {key}": rect for key, rect in self._keys.spots.items()}

    def _rooms(self) -> tuple[QRect, QRect]:
        """For the form, and for keys to touch: below it, or beside it where the phone is held on its side."""
        whole = self.rect()
        if not self._touch:
            return whole, QRect()
        if whole.width() > whole.height():
            keys = QRect(0, 0, whole.width() * 11 // 20, keyboard.HEIGHT)
            keys.moveBottomRight(whole.bottomRight())
            return whole.adjusted(0, 0, -keys.width(), 0), keys
        keys = QRect(0, whole.height() - keyboard.HEIGHT, whole.width(), keyboard.HEIGHT)
        return whole.adjusted(0, 0, 0, -keys.height()), keys

    def resizeEvent(self, event: object) -> None:
        if self._form is not None:
            self._measure()

    def paintEvent(self, event: QPaintEvent) -> None:
        if self._form is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), look.GROUND if self._covers else look.DIM)
        painter.setPen(QPen(look.LINE, 1))
        painter.setBrush(look.BAR)
        painter.drawRoundedRect(self._panel.adjusted(0.5, 0.5, -0.5, -0.5), 16, 16)
        self._flow(painter)
        if self._touch:
            painter.fillRect(self._keyboard, look.BAR)
            self._keys.paint(painter, self._touched)

    def _flow(self, painter: QPainter) -> float:
        """Draw the form into the panel, from above; returns how high it is."""
        form, card = self._form, self._card
        assert form is not None and card is not None
        wide = min(_WIDE, self._room.width() - 16) - 2.0 * _EDGE
        left, top = self._panel.left() + _EDGE, self._panel.top() + _EDGE
        mark(painter, QRectF(left, top, 36, 36), card, 17)
        painter.setFont(look.font(20, bold=True))
        lift = max(0.0, (36 - painter.fontMetrics().height()) / 2)
        room = QRectF(left + 50, top + lift, wide - 50, 400)
        high = lift + self._words(painter, room, form.head, look.font(20, bold=True), look.TEXT)
        top += max(36.0, high) + 14
        for pill in form.facts:
            dot(painter, QRectF(left, top + 3.5, 10, 10).center(), pill.sure, late=pill.late)
            colour = look.BUSY if pill.late else look.TEXT if pill.sure else look.QUIET
            top += self._words(painter, QRectF(left + 20, top, wide - 20, 60), pill.text, look.font(14), colour) + 4
        top += 4 if form.facts else 0
        for kind, words in form.text:
            top += self._words(painter, QRectF(left, top, wide, 400), words, look.font(15), _COLOURS[kind]) + 8
        if form.share is not None:
            top = self._bar(painter, QRectF(left, top + 4, wide, 6), form.share) + 10
        for number, asks in enumerate(form.fields):
            top = self._line(painter, QRectF(left, top + 4, wide, _FIELD), number, asks) + 8
        for row in form.rows:
            top = self._row(painter, QRectF(left, top, wide, 0), row.head, row.text, row.choice)
        return self._buttons(painter, left, top + 8, wide, form.choices) + _EDGE - self._panel.top()

    def _words(self, painter: QPainter, rect: QRectF, text: str, font: object, colour: QColor) -> float:
        painter.setFont(font)  # type: ignore[arg-type]
        painter.setPen(colour)
        flags = int(Qt.AlignmentFlag.AlignTop | Qt.TextFlag.TextWordWrap)
        painter.drawText(rect, flags, text)
        return painter.boundingRect(rect, flags, text).height()

    def _bar(self, painter: QPainter, track: QRectF, share: float) -> float:
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(look.RAISED)
        painter.drawRoundedRect(track, 3, 3)
        assert self._card is not None
        painter.setBrush(QColor(self._card.colour).lighter(130))
        if share > 0:
            painter.drawRoundedRect(QRectF(track.left(), track.top(), max(6.0, track.width() * share), 6), 3, 3)
        return track.bottom()

    def _line(self, painter: QPainter, rect: QRectF, number: int, asks: str) -> float:
        self.spots[f"field {number}"] = rect.toRect()
        active, count = number == self._field, len(self.secrets[number])
        painter.setPen(QPen(look.TEXT if active else look.LINE, 1.5 if active else 1))
        painter.setBrush(look.RAISED)
        painter.drawRoundedRect(rect, 10, 10)
        inner = rect.adjusted(16, 0, -16, 0)
        painter.setFont(look.font(15))
        painter.setPen(look.QUIET)
        if not count:
            painter.drawText(inner, Qt.AlignmentFlag.AlignVCenter, asks)
        shown = min(count, int(inner.width() // 14))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(look.TEXT)
        for at in range(shown):
            painter.drawEllipse(QRectF(inner.left() + at * 14, inner.center().y() - 4, 8, 8))
        if active:
            painter.drawRect(QRectF(inner.left() - 4 + shown * 14, inner.center().y() - 10, 1.5, 20))
        return rect.bottom()

    def _row(self, painter: QPainter, rect: QRectF, head: str, text: str, choice: Choice | None) -> float:
        painter.setPen(QPen(look.LINE, 1))
        painter.drawLine(rect.topLeft(), rect.topRight())
        room, top = 134.0, rect.top() + 12
        inner = rect.width() - room - 16
        top += self._words(painter, QRectF(rect.left(), top, inner, 60), head, look.font(15, bold=True), look.TEXT) + 2
        top += self._words(painter, QRectF(rect.left(), top, inner, 200), text, look.font(14), look.QUIET) + 12
        top = max(top, rect.top() + _BUTTON + 20)
        place = QRectF(rect.right() - room, (rect.top() + top - _BUTTON) / 2, room, _BUTTON)
        if choice is not None:
            self._button(painter, place, choice)
        else:
            painter.setFont(look.font(14))
            painter.setPen(look.QUIET)
            painter.drawText(place, Qt.AlignmentFlag.AlignCenter, "Not allowed")
        return top

    def _buttons(self, painter: QPainter, left: float, top: float, wide: float, choices: tuple[Choice, ...]) -> float:
        """Beside each other from the right, the first at the left of them; under each other where there is no room for that."""
        painter.setFont(look.font(15, bold=True))
        rooms = [max(96.0, painter.fontMetrics().horizontalAdvance(each.label) + 40.0) for each in choices]
        if sum(rooms) + 10 * (len(rooms) - 1) > wide:
            for choice in choices:
                self._button(painter, QRectF(left, top, wide, _BUTTON), choice)
                top += _BUTTON + 10
            return top - 10
        at = left + wide - sum(rooms) - 10 * (len(rooms) - 1)
        for choice, room in zip(choices, rooms, strict=True):
            self._button(painter, QRectF(at, top, room, _BUTTON), choice)
            at += room + 10
        return top + _BUTTON

    def _button(self, painter: QPainter, rect: QRectF, choice: Choice) -> None:
        assert self._form is not None and self._card is not None
        self.spots[choice.verb] = rect.toRect()
        chosen = _choices(self._form)[self._chosen : self._chosen + 1] == [choice] and not self._metrics.phone
        painter.setPen(QPen(look.TEXT, 1.5) if chosen else Qt.PenStyle.NoPen)
        fill = {MAIN: QColor(self._card.colour), GRAVE: _GRAVE}.get(choice.kind, look.HOVER)
        painter.setBrush(fill)
        painter.drawRoundedRect(rect, 10, 10)
        painter.setFont(look.font(15, bold=True))
        painter.setPen(QColor("white"))
        painter.drawText(rect, Qt.AlignmentFlag.AlignCenter, choice.label)

    # -- input --------------------------------------------------------------------------------------------------------

    def _find(self, at: QPoint) -> str:
        return next((name for name, rect in self.spots.items() if rect.contains(at)), "")

    def mousePressEvent(self, event: QMouseEvent) -> None:
        name = self._find(event.position().toPoint())
        if self._beyond and not name.startswith("key "):
            self._drag, self._dragged = (event.position().toPoint().y(), self._scroll), False  # or a tap: its end shows
            return
        self._press(name)

    def _press(self, name: str) -> None:
        if name.startswith("key "):
            self._touched = name[4:]
            self._typed(self._keys.press(self._touched))
            self._measure()
        elif name.startswith("field "):
            self._field = int(name[6:])
        elif name:
            self.pressed.emit(name)
        self.update()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self._touched = ""
        tapped, self._drag = self._drag is not None and not self._dragged, None
        if tapped:
            self._press(self._find(event.position().toPoint()))
        self.update()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._drag is not None:
            at, was = self._drag
            by = at - event.position().toPoint().y()
            self._dragged = self._dragged or abs(by) > _SLACK
            if self._dragged:
                self._scroll = min(max(0.0, was + by), self._beyond)
                self._measure()
                self.update()
            return
        over = self._find(event.position().toPoint())
        self.setCursor(Qt.CursorShape.PointingHandCursor if over else Qt.CursorShape.ArrowCursor)

    def _typed(self, what: str) -> None:
        if what == keyboard.ERASE:
            self.secrets[self._field].back()
        elif what == keyboard.ENTER:
            self._go()
        else:
            self.secrets[self._field].type(what)

    def _go(self) -> None:
        """Enter: the next field, and behind the last one what is chosen."""
        form = self._form
        if form is None:
            return
        if form.fields and self._field < len(form.fields) - 1:
            self._field += 1
        elif choices := _choices(form):
            self.pressed.emit(choices[self._chosen].verb)

    def type_key(self, event: QKeyEvent) -> None:
        """A key of a real keyboard."""
        form = self._form
        if form is None:
            return
        count = max(1, len(_choices(form)))
        doing: dict[int, Callable[[], None]] = {
            Qt.Key.Key_Escape: lambda: self.pressed.emit(form.away) if form.away else self.wipe(),
            Qt.Key.Key_Return: self._go, Qt.Key.Key_Enter: self._go,
            Qt.Key.Key_Backspace: lambda: self._typed(keyboard.ERASE),
            Qt.Key.Key_Tab: lambda: self._turn(1, count), Qt.Key.Key_Backtab: lambda: self._turn(-1, count),
            Qt.Key.Key_Down: lambda: self._turn(1, count), Qt.Key.Key_Up: lambda: self._turn(-1, count),
        }  # fmt: skip
        both = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.AltModifier
        if event.modifiers() & both == both and Qt.Key.Key_0 <= event.key() <= Qt.Key.Key_9:
            self.chord.emit(str(event.key() - Qt.Key.Key_0))
        elif event.key() in doing:
            doing[event.key()]()
        elif form.fields and not event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self._typed(event.text())
        self.update()

    def _turn(self, by: int, count: int) -> None:
        """To the next button, or the next field where there are some."""
        fields = len(self._form.fields) if self._form is not None else 0
        if fields:
            self._field = (self._field + by) % fields
        else:
            self._chosen = (self._chosen + by) % count

    def keyPressEvent(self, event: QKeyEvent) -> None:
        self.type_key(event)

    def focusNextPrevChild(self, forward: bool) -> bool:
        return False  # Tab is ours

    def inputMethodEvent(self, event: QInputMethodEvent) -> None:
        """What dead keys and compose make."""
        if self._form is not None and self._form.fields:
            self._typed(event.commitString())
            self.update()
        event.accept()


def _choices(form: Form) -> list[Choice]:
    """All that can be chosen, in the order in which the keyboard goes through it."""
    return [*(row.choice for row in form.rows if row.choice is not None), *form.choices]
