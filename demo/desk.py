"""A person's desk for the headless demo: an X server, a window manager, a text editor of their own, the switcher, two hands."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from demo.stage import Stage
from tests.harness import probe
from tests.harness.injector import Injector
from tests.harness.screen import Pixels, Screen
from tests.harness.xserver import XServer, end, window_manager, xserver

KEY = "Pause"


class Desk:
    """`screen` are the root window's pixels, `hands` inject keys and touches, `where` is the guest's area on the root window."""

    def __init__(
        self,
        stage: Stage,
        pictures: Path,
        width: int,
        height: int,
        *,
        phone: bool,
        server: AbstractContextManager[XServer] | None = None,
        look: Callable[[XServer], Screen] = Screen,
        owner: str = "",
        shots: Iterator[int] | None = None,
        note: Path | None = None,
    ) -> None:
        """Pictures are numbered by `shots`, which several desks may share, and bear `owner` then. `note` is what the personal
        editor opens; by default a new one."""
        self.stage, self.pictures, self.phone, self._owner = stage, pictures, phone, owner
        self._undo = ExitStack()
        self.server = self._undo.enter_context(server or xserver(width, height))
        self._undo.enter_context(window_manager(self.server))
        self.hands = Injector(self.server)
        self._undo.callback(self.hands.close)
        self._lifter = Injector(self.server)  # lets the key go while the first pair of hands does something else
        self._undo.callback(self._lifter.close)
        self.hands.paint_root(0xC9B79C)  # a desktop of the person's own, nothing like the company's
        self.screen = look(self.server)
        self.note = note or stage.home / f"personal-{width}.txt"
        if note is None:
            self.note.write_text("")
        self.said: dict[str, Any] = {}
        self._shots = shots or count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def open_editor(self) -> None:
        """The personal side's own program: a text editor on a note, in front and with the focus."""
        blank = self.screen.copy()
        keep = str(self.stage.home)  # what it remembers of itself is no part of anybody's home
        environment = self.server.environment(
            GSETTINGS_BACKEND="memory", NO_AT_BRIDGE="1", XDG_CONFIG_HOME=keep, XDG_DATA_HOME=keep, XDG_CACHE_HOME=keep
        )
        self.stage.start(["mousepad", "--disable-server", str(self.note)], environment, log=self._log("editor"))
        self.screen.wait(lambda now: float(np.mean(now != blank)) > 0.1, 20)
        time.sleep(1)

    def open_switcher(self, *more: str, **environment: str) -> float:
        """Start the switcher; returns the seconds until it said that its window stands ready behind the personal side."""
        reader, writer = os.pipe()
        words = [
            sys.executable,
            "-m",
            "twofold.switcher",
            "--socket",
            str(self.stage.dirs.agent_socket),
            "--key",
            KEY,
            "--status-fd",
            str(writer),
        ]
        if self.phone:
            words += ["--phone", "--pointer-as-touch"]
        began = time.monotonic()
        env = self.server.environment(**environment)
        self.switcher = self.stage.start([*words, *more], env, log=self._log("switcher"), pass_fds=[writer])
        self._undo.callback(end, self.switcher)
        os.close(writer)
        threading.Thread(target=self._listen, args=(reader,), daemon=True).start()
        self.wait_said("ready", True, 20)
        return time.monotonic() - began

    def _log(self, name: str) -> Any:
        return self._undo.enter_context((self.stage.home / f"{name}.log").open("ab"))

    def _listen(self, reader: int) -> None:
        with os.fdopen(reader) as lines:
            for line in lines:
                self.said.update(json.loads(line))

    def wait_said(self, what: str, value: object, seconds: float) -> None:
        """Wait until the switcher says so. What it says steers the demo; what counts is seen on pixels."""
        deadline = time.monotonic() + seconds
        while self.said.get(what) != value:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the switcher never said {what} = {value!r}; it said {self.said}")
            time.sleep(0.005)

    @property
    def guest(self) -> Pixels:
        """The guest's part of the screen, live."""
        x, y, width, height = self.said["guest"]
        return self.screen.array[y : y + height, x : x + width]

    def reading(self) -> probe.Status | None:
        """What the probe's strip in the guest shows now, or None where no whole strip is on the screen."""
        strip = self.guest[: 2 * probe.CELL, : probe.COLUMNS * probe.CELL]
        colours = np.stack([strip >> 16 & 255, strip >> 8 & 255, strip & 255], axis=-1).astype(np.uint8)
        try:
            return probe.status(colours)
        except probe.NoMarks:
            return None

    def wait_reading(self, seconds: float = 10) -> probe.Status:
        deadline = time.monotonic() + seconds
        while (reading := self.reading()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError("the probe's strip is not on the screen")
            time.sleep(0.002)
        return reading

    def wait_still(self, seconds: float, quiet: float = 0.7) -> None:
        """Wait until nothing but small things (a caret, a clock, the probe's strip) has changed for `quiet` seconds."""
        deadline = time.monotonic() + seconds
        last, since = self.screen.copy(), time.monotonic()
        while time.monotonic() - since < quiet:
            if time.monotonic() > deadline:
                raise TimeoutError("the screen never came to rest")
            time.sleep(0.05)
            now = self.screen.copy()
            if float(np.mean(now != last)) > 0.01:
                since = time.monotonic()
            last = now

    def shot(self, name: str) -> None:
        prefix = "phone-" if self.phone else ""
        self.screen.save(self.pictures / f"{prefix}{next(self._shots):02d}-{self._owner}{name}.png")

    def switch(self) -> float:
        """Press the switch key; returns the monotonic time just before it went down. It is let go 30 ms later, by itself."""
        lift = threading.Timer(0.03, self._lifter.up, [KEY])
        pressed = time.monotonic()
        self.hands.down(KEY)
        lift.start()
        return pressed

    def tap(self, x: int, y: int) -> float:
        """A finger that comes down and goes up; returns the monotonic time just before it came down."""
        self.hands.move(x, y)
        pressed = time.monotonic()
        self.hands.button(True)
        time.sleep(0.06)
        self.hands.button(False)
        return pressed

    def tap_handle(self) -> None:
        """The handle at the top of the phone's form opens the sheet with the applications."""
        self.tap(self.server.width // 2, 28)
        self.wait_said("launcher", True, 10)

    def tap_app(self, app: str) -> float:
        deadline = time.monotonic() + 20
        while app not in self.said.get("apps", {}):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{app} is not on the sheet: {self.said.get('apps')}")
            time.sleep(0.02)
        time.sleep(0.5)
        self.shot("applications")
        return self.tap(*self.said["apps"][app])
