"""A person's hands: keys and pointer injected into the X server by XTEST, indistinguishable from a device's."""

from __future__ import annotations

import time

from Xlib import XK, X, display
from Xlib.ext import xtest

from tests.harness.xserver import XServer

_SHIFTED = dict(zip('~!@#$%^&*()_+{}|:"<>?', "`1234567890-=[]\\;',./", strict=True))
_NAMES = {
    " ": "space", "\n": "Return", "\t": "Tab", "-": "minus", "=": "equal", "[": "bracketleft", "]": "bracketright",
    "\\": "backslash", ";": "semicolon", "'": "apostrophe", "`": "grave", ",": "comma", ".": "period", "/": "slash",
}  # fmt: skip


class Injector:
    """Keys are named by keysym ("Pause", "a"); `type` takes US text. All calls flush; none waits for a client."""

    def __init__(self, server: XServer) -> None:
        self._display = display.Display(server.name)
        self._root = self._display.screen().root

    def close(self) -> None:
        self._display.close()

    def paint_root(self, colour: int) -> None:
        """Give the root window a plain background, 0xRRGGBB."""
        self._root.change_attributes(background_pixel=colour)
        self._root.clear_area(0, 0, 0, 0)
        self._display.sync()

    def code(self, name: str) -> int:
        code: int = self._display.keysym_to_keycode(XK.string_to_keysym(_NAMES.get(name, name)))
        if not code:
            raise ValueError(f"no key gives {name!r} in this layout")
        return code

    def press_code(self, code: int, down: bool) -> None:
        xtest.fake_input(self._display, X.KeyPress if down else X.KeyRelease, code)
        self._display.flush()

    def down(self, name: str) -> None:
        self.press_code(self.code(name), True)

    def up(self, name: str) -> None:
        self.press_code(self.code(name), False)

    def key(self, name: str, *modifiers: str, hold: float = 0) -> float:
        """Press and release, with modifiers held. Returns the monotonic time just before the key went down."""
        for modifier in modifiers:
            self.down(modifier)
        pressed = time.monotonic()
        self.down(name)
        if hold:
            time.sleep(hold)
        self.up(name)
        for modifier in reversed(modifiers):
            self.up(modifier)
        return pressed

    def type(self, text: str, gap: float = 0.01) -> None:
        for char in text:
            if char.isupper() or char in _SHIFTED:
                self.key(_SHIFTED.get(char, char.lower()), "Shift_L")
            else:
                self.key(char)
            time.sleep(gap)

    def move(self, x: int, y: int) -> None:
        xtest.fake_input(self._display, X.MotionNotify, x=x, y=y)
        self._display.flush()

    def button(self, down: bool, number: int = 1) -> None:
        xtest.fake_input(self._display, X.ButtonPress if down else X.ButtonRelease, number)
        self._display.flush()

    def click(self, x: int, y: int, number: int = 1) -> float:
        self.move(x, y)
        pressed = time.monotonic()
        self.button(True, number)
        self.button(False, number)
        return pressed

    def drag(self, path: list[tuple[int, int]], gap: float = 0.01) -> None:
        self.move(*path[0])
        self.button(True)
        for point in path[1:]:
            time.sleep(gap)
            self.move(*point)
        self.button(False)

    def sync(self) -> None:
        self._display.sync()
