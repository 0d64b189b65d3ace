"""The gate of a phone: the compositor gives every key to one window, and Work is a window like another
(docs/decisions/0040-the-compositor-keeps-the-picture.md).

Nothing is grabbed and nothing is mapped for a switch. Work's window stays mapped for good, in front or put away, and the
compositor keeps its last picture; whoever changes sides (the swipe, the dock's button, a notification, we) asks the compositor to
bring it to the front or to put it away. Which side is in front is told by the focus alone, so there is no moment in which keys
and picture could belong to two lives.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Final

from PySide6.QtCore import QEvent, QObject, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QWidget

from twofold.display.keys import from_x
from twofold.model.errors import TwofoldError
from twofold.platform.toplevels import Toplevels
from twofold.switcher.side import DEVICE_KEYS, KeySink, Layout, Moved, Side

APP: Final = "twofold"  # the window's name to the compositor (xdg_toplevel.set_app_id)
_KEYS: Final = (QEvent.Type.KeyPress, QEvent.Type.KeyRelease, QEvent.Type.ShortcutOverride)
_DIGITS: Final = dict(zip((11, *range(2, 11)), "0123456789", strict=True))  # linux/input-event-codes.h, KEY_0 and on
_SPACE: Final = 57
_SHIFT, _CONTROL, _ALT = (
    Qt.KeyboardModifier.ShiftModifier,
    Qt.KeyboardModifier.ControlModifier,
    Qt.KeyboardModifier.AltModifier,
)
_MODIFIERS: Final = ((_SHIFT, (42, 54)), (_CONTROL, (29, 97)), (_ALT, (56, 100)))  # left and right
_TRIES, _AGAIN = 100, 50  # how often, and after how many ms, a window that comes again is asked for


def front(environment: Mapping[str, str], *, work: bool) -> None:
    """Have the compositor bring Work's window to the front, or put it away.

    Raises:
        TwofoldError: it can't be asked.
    """
    windows = Toplevels(environment)
    try:
        window = windows.find(APP)
        if window is not None:
            (windows.activate if work else windows.minimise)(window)
            windows.settle()
    finally:
        windows.close()


class WayGate(QObject):
    """Stands before `window`, which is shown. `wish` may be called from any thread; the rest is the GUI's thread's."""

    _wished = Signal(object)

    def __init__(
        self,
        window: QWidget,
        sink: KeySink,
        environment: Mapping[str, str],
        *,
        on_move: Callable[[Moved], None] = lambda moved: None,
        on_chord: Callable[[str], None] = lambda chord: None,
        on_layout: Callable[[Layout], None] = lambda layout: None,
        front: Callable[..., None] = front,
    ) -> None:
        super().__init__()
        self.side = Side.PERSONAL
        self._sink, self._environment, self._front = sink, environment, front
        self._on_move, self._on_chord, self._on_layout = on_move, on_chord, on_layout
        self._down: set[int] = set()
        self._lent: dict[int, list[int]] = {}  # modifiers that were pressed with a key, to be let go with it
        self._held: set[int] = set()  # whose release is nobody's: the press was ours
        self._widget, self._window = window, window.windowHandle()
        self._exposed = (False, QSize())
        self._ended = False
        self._wished.connect(self._grant, Qt.ConnectionType.AutoConnection)

    def start(self) -> None:
        self._window.installEventFilter(self)
        self._window.activeChanged.connect(self._follow)
        self._window.visibleChanged.connect(self._follow)
        # labwc's keyboard has the layout that its environment names (labwc(1), XKB_DEFAULT_LAYOUT).
        words = (self._environment.get(f"XKB_DEFAULT_{name}", "") for name in ("MODEL", "LAYOUT", "VARIANT", "OPTIONS"))
        model, layout, variant, options = words
        self._on_layout(Layout(model or "pc105", layout or "us", variant, options))
        self._follow()

    def close(self) -> None:
        """Let go of what is down in the guest. Idempotent."""
        if not self._ended:
            self._ended = True
            self._window.removeEventFilter(self)
            self._window.activeChanged.disconnect(self._follow)
            self._window.visibleChanged.disconnect(self._follow)
            self._let_go()

    def withdraw(self) -> None:
        """Take the window back, and with it the picture that the compositor keeps of it."""
        self._widget.hide()

    def wish(self, side: Side) -> None:
        self._wished.emit(side)

    def still_work(self) -> bool:
        """Whether the guest has the input. A touch comes on the same connection as the focus, in order."""
        return self.side is Side.WORK

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Expose:
            return self._known()
        if self.side is not Side.WORK or event.type() not in _KEYS:
            return False
        # Before anything of Qt's own: Tab, Return and short cuts are the guest's like any key.
        if isinstance(event, QKeyEvent) and event.type() != QEvent.Type.ShortcutOverride and not event.isAutoRepeat():
            self._key(from_x(event.nativeScanCode()), event.modifiers(), down=event.type() == QEvent.Type.KeyPress)
        event.accept()
        return True

    def _known(self) -> bool:
        """Whether the compositor shows just what it showed before. At each change of focus Qt would hand it all of the window
        once more, which on a small machine takes as long as the switch."""
        before, self._exposed = self._exposed, (self._window.isExposed(), self._window.size())
        return self._exposed == before

    def _key(self, code: int, held: Qt.KeyboardModifier, *, down: bool) -> None:
        if not down:
            if code in self._held:
                self._held.discard(code)
            elif code in self._down:
                for each in (code, *self._lent.pop(code, ())):
                    self._down.discard(each)
                    self._sink.key(each, False)
            return
        control, alt = (bool(held & each) for each in (_CONTROL, _ALT))
        if code == _SPACE and control and not alt and not held & Qt.KeyboardModifier.MetaModifier:
            self._grant(Side.TYPING)
        elif code in _DIGITS and control and alt:
            self._held.add(code)
            self._let_go()
            self._on_chord(_DIGITS[code])
        elif code > 0 and code not in self._down and code not in DEVICE_KEYS:
            # An on-screen keyboard says that Shift is on, and presses none.
            missing = [
                keys[0] for on, keys in _MODIFIERS if held & on and code not in keys and not self._down & {*keys}
            ]
            self._lent[code] = missing
            for each in (*missing, code):
                self._down.add(each)
                self._sink.key(each, True)

    def _follow(self) -> None:
        """The focus has come or gone."""
        if self._window.isActive() and self._window.isVisible():
            if self.side is Side.PERSONAL:
                self._move(Side.WORK)
        elif self.side is not Side.PERSONAL:
            self._move(Side.PERSONAL)

    def _grant(self, side: Side) -> None:
        if side is self.side or (side is Side.TYPING and self.side is Side.PERSONAL):
            return
        if not self._widget.isVisible():
            self._widget.showMaximized()
            self._bring(_TRIES)
        elif Side.PERSONAL in (side, self.side):
            try:
                self._front(self._environment, work=side is Side.WORK)
            except TwofoldError:
                return  # the side stays as it is, which the person sees
        else:
            self._move(side)

    def _bring(self, tries: int) -> None:
        """A window that comes again is a new one to the compositor, and is put away by the shell's rule like the first."""
        if self.side is Side.PERSONAL and tries and not self._ended:
            with contextlib.suppress(TwofoldError):
                self._front(self._environment, work=True)
            QTimer.singleShot(_AGAIN, lambda: self._bring(tries - 1))

    def _let_go(self) -> None:
        self._down.clear()
        self._lent.clear()
        self._sink.release_all()

    def _move(self, side: Side) -> None:
        if self.side is Side.WORK:
            self._let_go()
        self.side = side
        self._on_move(Moved(side, 0, time.monotonic()))
