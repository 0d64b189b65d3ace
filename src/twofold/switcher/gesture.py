"""A phone's gesture: one finger, from the strip at the screen's lower edge upwards, changes sides. Both ways the same.

It listens beside the compositor and takes nothing away. It need not: a finger belongs to the surface on which it came down until
it is lifted, and the strip is a surface of the shell's own, so that nothing else ever hears of such a finger.

A program of its own, without Qt, that does nothing else: `python -m twofold.switcher.gesture` in the session of a phone's owner
(recipes/handset). What a person waits for is one message to the compositor, which has Work's picture already
(docs/decisions/0040-the-compositor-keeps-the-picture.md). `SIGUSR1` does the same, for a shell's button.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from twofold.model.errors import TwofoldError
from twofold.platform.toplevels import Toplevels

_EVENT: Final = struct.Struct("llHHi")
_SLOT, _X, _Y, _TRACKING = 47, 53, 54, 57  # linux/input-event-codes.h, ABS_MT_*
_LIMITS: Final = 0x80184540  # EVIOCGABS(0)
_SHORT, _LONG = 540, 1170  # pixels of the screen, upright
_STRIP, _FAR = 24, 110  # pixels: how high it begins (bars.jsonc), how far it goes
_SECONDS: Final = 1.5  # slower is no swipe
_APP: Final = "twofold"  # Work's window to the compositor (twofold.switcher.waygate)


def seen(x: float, y: float, turned: str) -> tuple[float, float]:
    """Where a place of the glass is for its owner, in pixels; `x` and `y` are parts of the glass, which knows of no turning.
    `turned`: how the picture is (wlr-randr --transform)."""
    if turned == "90":
        return (1 - y) * _LONG, x * _SHORT
    return (y * _LONG, (1 - x) * _SHORT) if turned == "270" else (x * _SHORT, y * _LONG)


class Swipe:
    """Told each event of a touch screen; `done` is called once for each swipe, `turned` asked when a finger comes down."""

    def __init__(
        self, wide: int, high: int, done: Callable[[], None], turned: Callable[[], str] = lambda: "normal"
    ) -> None:
        self._wide, self._high, self._done, self._turned = wide, high, done, turned
        self._picture = "normal"
        self._slot = 0
        self._places: dict[int, list[float]] = {}
        self._down: set[int] = set()
        self._wanted = False  # the finger that came down now may be a swipe's
        self._began: tuple[float, float, float] | None = None  # its place and time

    def hear(self, kind: int, code: int, value: int, at: float) -> None:
        if kind == 3 and code == _SLOT:
            self._slot = value
        elif kind == 3 and code == _TRACKING:
            (self._down.add if value >= 0 else self._down.discard)(self._slot)
            self._wanted, self._began = self._down == {self._slot} and value >= 0, None
        elif kind == 3 and code in (_X, _Y):
            part = value / (self._wide if code == _X else self._high)
            self._places.setdefault(self._slot, [0, 0])[code - _X] = part
        elif kind == 0:
            x, y = self._places.get(self._slot, (0, 0))
            self._judge(x, y, at)

    def _judge(self, x: float, y: float, at: float) -> None:
        if self._wanted:
            self._picture = self._turned()
        x, y = seen(x, y, self._picture)
        if self._wanted:
            foot = _LONG if self._picture == "normal" else _SHORT
            self._wanted, self._began = False, (x, y, at) if y >= foot - _STRIP else None
        elif self._began:
            from_x, from_y, since = self._began
            up, aside = from_y - y, abs(x - from_x)
            if at - since > _SECONDS or aside > max(up, _STRIP):
                self._began = None
            elif up >= _FAR:
                self._began = None
                self._done()


class Sides:
    """Which side is in front, and the way to the other. `folder` is the session's (XDG_RUNTIME_DIR)."""

    def __init__(self, windows: Toplevels, folder: Path) -> None:
        self._windows, self._folder = windows, folder

    def change(self) -> None:
        """Bring Work to the front, or put it away. A dark screen in a pocket feels many things, and does nothing."""
        if (self._folder / "screen-off").exists():
            return
        work = self._windows.find(_APP)
        if work is None:
            self._wake()
        elif work.active:
            self._windows.minimise(work)
        else:
            self._windows.activate(work)

    def turned(self) -> str:
        """How the picture is turned (recipes/handset, turn)."""
        try:
            return (self._folder / "turned").read_text().strip()
        except OSError:
            return "normal"

    def _wake(self) -> None:
        """The switcher has taken its window back, and brings it again; or it is not there yet."""
        try:
            os.kill(int((self._folder / "switcher.pid").read_text()), signal.SIGUSR1)
        except (OSError, ValueError):
            return


def screen() -> tuple[int, int, int]:
    """The touch screen, waited for: its descriptor, largest x, largest y."""
    while True:
        for path in sorted(Path("/dev/input").glob("event*")):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                x, y = (struct.unpack("6i", fcntl.ioctl(fd, _LIMITS + axis, bytes(24)))[2] for axis in (_X, _Y))
            except OSError:
                x = y = 0
            if x and y:
                return fd, x, y
            os.close(fd)
        time.sleep(0.2)


def main() -> int:
    folder = Path(os.environ["XDG_RUNTIME_DIR"])
    heard, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        windows = Toplevels()
        sides = Sides(windows, folder)
        fd, wide, high = screen()
        swipe = Swipe(wide, high, sides.change, sides.turned)
        _hurry()
        (folder / "gesture.pid").write_text(f"{os.getpid()}\n")  # a line, as the shell reads them
        while True:
            ready = select.select([fd, windows.fileno(), heard], [], [])[0]
            if windows.fileno() in ready:  # first, so that it is known which side is in front
                windows.receive()
            if heard in ready:
                for _ in os.read(heard, 64):
                    sides.change()
            if fd in ready:
                data = os.read(fd, _EVENT.size * 64)
                for seconds, micro, kind, code, value in _EVENT.iter_unpack(data):
                    swipe.hear(kind, code, value, seconds + micro / 1e6)
    except TwofoldError as error:
        print(error, file=sys.stderr)  # noqa: T201 - this is the command's own voice
        return error.exit_code


def _hurry() -> None:
    """Before whatever computes, as the compositor itself: this runs for a moment, and a person waits."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        return  # where the session may not (RLIMIT_RTPRIO) it takes its turn


if __name__ == "__main__":
    sys.exit(main())
