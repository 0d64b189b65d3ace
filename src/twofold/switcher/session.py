"""One workspace in the switcher: its machine's display, the picture to show, and where its keys go."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from PySide6.QtCore import QObject, QRect, QTimer, Signal
from PySide6.QtGui import QImage

from twofold.display.frame import R5G6B5, Frame
from twofold.display.machine import Display
from twofold.model.errors import TwofoldError
from twofold.model.workspace import RunState
from twofold.platform import cgroup
from twofold.platform.dirs import dirs
from twofold.switcher.card import Card, Transfer
from twofold.switcher.side import Locks

_HELD: Final = 256
_BOOT_PATIENCE: Final = 60.0  # seconds after which a machine's picture is shown although its desktop never reported


class Keys:
    """Where the gate sends keys: the machine in front. Keys that come before it is live wait here and are given to it then.

    `on_held` is called, on the gate's thread, when one more key press waits.
    """

    def __init__(self) -> None:
        self.on_held: Callable[[], None] = lambda: None
        self._display: Display | None = None
        self._held: deque[tuple[int, bool]] = deque(maxlen=_HELD)
        self._locks: Locks | None = None
        self._lock = threading.Lock()
        self.ready = False
        self._holds = True

    @property
    def waiting(self) -> int:
        """Key presses that wait."""
        with self._lock:
            return sum(down for _, down in self._held)

    def aim(self, display: Display | None, *, live: bool) -> None:
        """From now on keys are this machine's; what waited is its, if it was waited for."""
        with self._lock:
            if display is not self._display:
                if self._display is not None:
                    self._display.release_all()
                    self._held.clear()
                self._display = display
            self.ready = live and display is not None
            if self.ready and display is not None:
                if self._locks is not None:
                    display.locks(self._locks.caps, self._locks.num)
                    self._locks = None
                while self._held:
                    display.key(*self._held.popleft())

    def hold(self, on: bool) -> None:
        """Whether keys wait for what is not live. What is meant for our own window must wait for no guest."""
        with self._lock:
            self._holds = on
            if not on:
                self._held.clear()

    def key(self, code: int, down: bool) -> None:
        with self._lock:
            if self.ready and self._display is not None:
                self._display.key(code, down)
                return
            if not self._holds:
                return
            self._held.append((code, down))
        if down:
            self.on_held()

    def release_all(self) -> None:
        with self._lock:
            self._held.clear()
            if self._display is not None:
                self._display.release_all()

    def locks(self, locks: Locks) -> None:
        with self._lock:
            if self.ready and self._display is not None:
                self._display.locks(locks.caps, locks.num)
            else:
                self._locks = locks


class Session(QObject):
    """`painted` carries the guest pixels that changed; `moved` says that anything else did."""

    painted = Signal(QRect)
    moved = Signal()
    _changed = Signal()
    _ended = Signal(object)

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card
        self.display: Display | None = None
        self.image: QImage | None = None
        self.live = False
        self.retained_at = 0.0
        self.progress: tuple[str, int, int] | None = None
        self.transfer: Transfer | None = None  # a back up under way
        self.leave: Transfer | None = None  # a check-in or a discard under way
        self.leaving = ""  # the verb by which it is about to leave this device
        self.asked = False  # a display was asked for and has not come yet
        self._frame: Frame | None = None
        self._serial = 0
        self._watched = False
        self._booting_since = 0.0
        self._changed.connect(self._look)
        self._ended.connect(self._lost)

    def update_card(self, card: Card) -> None:
        if card.run is RunState.STARTING and self.card.run is not RunState.STARTING:
            self._booting_since = time.monotonic()
        if not card.has_screen and self.card.has_screen:
            self.keep()
        if card.run is not self.card.run:
            self.progress = None
        self.card = card
        self.live = self._alive()
        self.moved.emit()

    def _alive(self) -> bool:
        """The picture is the guest's screen as it is now, and the guest runs: keys reach it."""
        seen = self._watched and self.display is not None and self.display.current
        return seen and self.card.runs and self.image is not None

    @property
    def booting(self) -> bool:
        """The machine runs and its desktop is not there yet."""
        return (
            self.card.runs
            and self.card.has_agent
            and not self.card.session_up
            and bool(self._booting_since)
            and time.monotonic() - self._booting_since < _BOOT_PATIENCE
        )

    def attach(self, sock: socket.socket) -> None:
        self.asked = False
        self.detach()
        self._serial = 0  # it counts the new display's pictures
        self.display = Display(sock, changed=self._changed.emit, ended=self._ended.emit, sound=self.card.sound_out)
        self._share()
        self.moved.emit()

    def detach(self) -> None:
        display, self.display = self.display, None
        if display is not None:
            self.keep()
            display.close()

    def watch(self, on: bool) -> None:
        """Whether anybody looks. Not looked at, the machine draws for nobody; its picture is live at once or when it comes."""
        self._watched = on
        if self.display is None:
            return
        if not on:
            self.retained_at = time.time()
        self.display.watch(on)
        self.live = self._alive()
        QTimer.singleShot(0, self._share)  # the picture first

    def _share(self) -> None:
        cgroup.prefer(dirs().workspace_runtime(self.card.name).name, front=self._watched)

    def keep(self) -> None:
        """Keep the last picture as our own: the memory it lies in is about to go."""
        self.live = False
        if self.image is not None and self._frame is not None:
            self.image, self._frame = self.image.copy(), None
            self.retained_at = time.time()

    def _look(self) -> None:
        if self.display is None:
            return
        picture = self.display.picture
        damage, frame = picture.take(), picture.frame
        if frame is not None and frame is not self._frame:
            self._frame = frame
            form = QImage.Format.Format_RGB16 if frame.format == R5G6B5 else QImage.Format.Format_RGB32
            self.image = QImage(frame.pixels, frame.width, frame.height, frame.stride, form)
        if picture.serial != self._serial:
            self._serial = picture.serial
            self.live = self._alive()
            self.moved.emit()
        if damage is not None:
            self.painted.emit(QRect(damage.x, damage.y, damage.width, damage.height))

    def _lost(self, _: TwofoldError) -> None:
        self.detach()
        self.moved.emit()
