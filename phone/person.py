"""What a person does with a phone that has Work on it: every step is a touch or a key, and counts when a photograph shows it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from phone.handset import HEIGHT, WIDTH, Handset, NeverSeenError, Picture, differing, like

WORK, NOTES, TERMINAL, KEYBOARD = (62, 1116), (186, 1116), (310, 1116), (440, 1116)  # the dock
NOTICE, TAP = slice(44, 240), (WIDTH // 2, 94)  # a notification: its rows, and where a finger goes
EDGE, UP = (WIDTH // 2, HEIGHT - 8), (WIDTH // 2, HEIGHT - 308)  # the swipe: from the strip below the dock, upwards
HANDLE, SERVER = (270, 72), (502, 72)  # of the switcher: its sheet, and what it knows of the back up
BLUE = (11, 107, 176)  # the workspace's colour
_DOCK, _BAR, _GROUND = (0x2B, 0x5F, 0x8A), (0x12, 0x16, 0x1B), (0x0C, 0x0F, 0x13)
_TOP, _BOTTOM = 94, 1080  # rows of the guest's area while no keyboard is open
_KEYS = 830  # what is below may be the keyboard, which comes by itself
_SHEET = 589  # where the sheet's first row of applications begins
_LETTERS = (("qwertyuiop", 27, 939), ("asdfghjkl", 54, 980), ("zxcvbnm", 108, 1021))
_LINE = 17  # pixels from one line of the guest's terminal to the next


class Person:
    """One phone's owner. `keep` puts a photograph down, where its name is wanted."""

    def __init__(self, phone: Handset, keep: Callable[[str, Picture], None]) -> None:
        self.phone, self._keep = phone, keep

    def shot(self, name: str) -> None:
        self._keep(name, self.phone.photograph())

    # Their own side

    def at_home(self, seconds: float) -> float:
        """Wait for the personal side; returns the seconds since power-on."""
        return self.phone.until(at_home, seconds, "the personal side")

    def terminal(self, *lines: str) -> None:
        """Open the terminal by touch and type commands on a keyboard that is plugged in."""
        before = self.phone.photograph()
        self.phone.tap(*TERMINAL)
        self.phone.changed(before, 90, 0.5)
        self.still(90)
        for line in lines:
            self.phone.type(line + "\n", 0.05)

    def leave_terminal(self) -> None:
        before = self.phone.photograph()
        self.phone.type("exit\n", 0.05)
        self.phone.changed(before, 60, 0.3)

    # The way between the sides: a tap on the dock, or with `swipe` the gesture; the same both ways

    def to_work(self, seconds: float = 120, *, swipe: bool = False) -> float:
        """Bring Work to the front; returns the seconds from the touch to its colour around it. Touched again while it starts."""
        return self._switch(in_work, "Work", seconds, swipe)

    def to_personal(self, seconds: float = 60, *, swipe: bool = False) -> float:
        return self._switch(lambda now: not in_work(now), "the personal side", seconds, swipe)

    def _switch(self, seen: Callable[[Picture], bool], what: str, seconds: float, swipe: bool) -> float:
        deadline = time.monotonic() + seconds
        while True:
            touched = time.monotonic()
            if swipe:
                self.phone.swipe(EDGE, UP)
            else:
                self.phone.tap(*WORK)
            try:
                self.phone.until(seen, min(20, seconds), what)
                return time.monotonic() - touched
            except NeverSeenError:
                if time.monotonic() > deadline:
                    raise

    # In Work

    def press(self, below: int, seconds: float = 30) -> None:
        """Press the button in the workspace's colour that stands below this row."""
        self.phone.until(lambda now: button(now, below) is not None, seconds, "a button")
        where = button(self.phone.photograph(), below)
        assert where is not None
        before = self.phone.photograph()
        self.phone.tap(*where)
        self.phone.changed(before, 60, 0.003)

    def desktop(self, seconds: float) -> float:
        """Wait for the business desktop; returns the seconds that took."""
        began = time.monotonic()
        self.phone.until(desktop, seconds, "the business desktop")
        took = time.monotonic() - began
        self.still(180)
        return took

    def open(self, index: int, seconds: float = 180) -> float:
        """Open the sheet by its handle, and the application at `index` by touch; returns the seconds to its window."""
        before = self.phone.photograph()
        self.phone.tap(*HANDLE)
        self.phone.until(sheet, 90, "the sheet")
        x, y = WIDTH // 2 - 256 + 128 * (index % 4) + 64, _SHEET + 108 * (index // 4) + 54
        self.phone.until(lambda now: drawn(now[y - 40 : y + 12, x - 26 : x + 26]), 60, "its icon")
        self.still(60)
        self.shot("sheet")
        touched = time.monotonic()
        self.phone.tap(x, y)
        self.phone.until(
            lambda now: not sheet(now) and differing(before[_TOP:_KEYS], now[_TOP:_KEYS]) > 0.1,
            seconds,
            "its window",
        )
        took = time.monotonic() - touched
        self.still(120)
        return took

    def keyboard(self, *, shown: bool) -> None:
        """Have the on-screen keyboard, or not; the guest makes room for it."""
        before = self.phone.photograph()
        self.phone.tap(*KEYBOARD)
        self.phone.until(
            lambda now: keyboard(now) is shown and differing(before, now) > 0.1,
            60,
            f"the keyboard {'' if shown else 'gone'}",
        )
        self.phone.until(filled, 240, "the guest in the new size")
        self.still(120)

    def into_text(self, seconds: float = 120) -> float:
        """Tap into the text of the program in front; returns the seconds until the keyboard is open, which opens by itself."""
        touched = time.monotonic()
        self.phone.tap(WIDTH // 2, 500)
        self.phone.until(keyboard, seconds, "the keyboard, by itself")
        took = time.monotonic() - touched
        self.phone.until(filled, 240, "the guest in the new size")
        self.still(120)
        return took

    def touch_type(self, text: str) -> None:
        """Type small letters, spaces and Return on the on-screen keyboard."""
        for character in text:
            self.phone.tap(*key(character), held=0.15)
            time.sleep(0.35)

    def still(self, seconds: float, quiet: float = 3) -> None:
        """Wait until only small things (a caret, a clock) change."""
        deadline = time.monotonic() + seconds
        last, since = self.phone.photograph(), time.monotonic()
        while time.monotonic() - since < quiet:
            assert time.monotonic() < deadline, "the screen never came to rest"
            time.sleep(0.3)
            now = self.phone.photograph()
            if differing(last, now) > 0.002:
                since = time.monotonic()
            last = now


def at_home(now: Picture) -> bool:
    """The owner's dock stands, and nobody's colour is around the screen."""
    return bool(like(_DOCK, now[1092:1140, 10:114]).mean() > 0.5) and not in_work(now)


def in_work(now: Picture) -> bool:
    return bool(like(BLUE, now[60:800, 1:5]).mean() > 0.95)


def sheet(now: Picture) -> bool:
    """The sheet with applications lies over the guest."""
    return bool(like(_BAR, now[_BOTTOM - 80 : _BOTTOM - 10, 20:520]).mean() > 0.9)


def desktop(now: Picture) -> bool:
    """The guest's panel stands at its foot, with the white figures of its clock; above it neither black nor our own page."""
    clock, wall = now[_BOTTOM - 40 : _BOTTOM, 440:530], now[_TOP + 100 : _BOTTOM - 100, 10:530]
    plain = float(like((0, 0, 0), wall, 2).mean() + like(_GROUND, wall, 2).mean())
    return in_work(now) and bool((clock.min(axis=2) > 0xE0).any()) and plain < 0.5


def line(now: Picture, number: int) -> Picture:
    """One line of the guest's terminal, counted from 0; without what stands at its sides."""
    top = 124 + _LINE * number
    return now[top : top + _LINE, 6:400].copy()


def reads(now: Picture, number: int, wanted: Picture) -> bool:
    """Whether that line of the terminal shows the same text as a `line` that was photographed before."""
    top = 124 + _LINE * number
    places = (now[top + by : top + by + _LINE, 6:400] for by in range(-3, 4))  # window frames may differ by pixels
    return float((wanted.min(axis=2) > 150).sum()) > 40 and any(differing(place, wanted) < 0.005 for place in places)


def drawn(part: Picture) -> bool:
    return len(np.unique(part.reshape(-1, 3), axis=0)) > 8


def keyboard(now: Picture) -> bool:
    """The on-screen keyboard stands above the dock: Work's lower edge is higher."""
    return not bool(like(BLUE, now[1060:1078, 1:5]).mean() > 0.9)


def filled(now: Picture) -> bool:
    """The guest has followed the window's size: nothing of our ground is left at its sides."""
    return in_work(now) and not bool(like(_GROUND, now[110:800, 8:40], 2).mean() > 0.9)


def button(now: Picture, below: int) -> tuple[int, int] | None:
    """The middle of the first block of the workspace's colour below a row that is as wide and high as a button."""
    rows = like(BLUE, now[below:_BOTTOM, 20:520]).sum(axis=1) > 50
    run = 0
    for at, is_blue in enumerate(rows):
        run = run + 1 if is_blue else 0
        if run >= 30:
            middle = below + at - 12
            columns = np.nonzero(like(BLUE, now[middle - 14 : middle - 10, 20:520]).all(axis=0))[0]
            return 20 + int(columns.mean()), middle
    return None


def key(character: str) -> tuple[int, int]:
    """Where the on-screen keyboard (wvkbd's mobintl at this size) has a small letter, the space or Return."""
    for letters, left, row in _LETTERS:
        if character in letters:
            return left + 54 * letters.index(character), row
    return {" ": (297, 1062), "\n": (499, 1062)}[character]
