"""The switcher's window lies over the screen there is: a real X server's monitors come, go and change under it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest

from tests.harness.xserver import XServer, end, xserver
from twofold.platform.run import run, spawn

SOURCE = Path(__file__).resolve().parents[2] / "src"
WINDOW = """
import sys
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication
from twofold.switcher import look
from twofold.switcher.window import Window
app = QApplication([])
window = Window(look.PHONE, "Pause", pointer_as_touch=False)
window.show()
window.follow_screens()
tell = QTimer()
tell.timeout.connect(lambda: print(*window.geometry().getRect(), flush=True))
tell.start(50)
app.exec()
"""


@pytest.fixture
def place() -> Iterator[tuple[XServer, IO[bytes]]]:
    with ExitStack() as undo:
        server = undo.enter_context(xserver(1280, 800))
        env = server.environment(PYTHONPATH=str(SOURCE))
        process = spawn([sys.executable, "-c", WINDOW], env=env, stdout=-1)
        undo.callback(end, process)
        assert process.stdout is not None
        yield server, undo.enter_context(process.stdout)


def lies(told: IO[bytes], wanted: tuple[int, int, int, int]) -> bool:
    """Whether the window comes to lie there soon."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if tuple(map(int, told.readline().split())) == wanted:
            return True
    return False


def test_it_follows_the_monitors_that_there_are(place: tuple[XServer, IO[bytes]]) -> None:
    server, told = place

    def xrandr(*words: str) -> None:
        run(["xrandr", "-display", server.name, *words])

    assert lies(told, (0, 0, 1280, 800))
    xrandr("--setmonitor", "small", "640/200x400/100+0+0", "screen")  # the first one's place is taken by another
    assert lies(told, (0, 0, 640, 400))
    xrandr("--setmonitor", "other", "1280/400x800/200+0+0", "none")
    xrandr("--delmonitor", "small")
    assert lies(told, (0, 0, 1280, 800)), "it stayed with a monitor that has gone"
