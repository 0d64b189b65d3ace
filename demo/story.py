"""What a person does at a desk with the guest behind the switcher, by keys and touches; every step counts when it is seen."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from demo.desk import Desk
from demo.stage import WORKSPACE, Stage
from tests.harness.screen import Pixels
from twofold.agent.client import Client

MOUSEPAD = "org.xfce.mousepad"
REPORT = "/home/user/Documents/report.txt"  # in the guest
# Where a lone editor's text stands in the guest's part of a screen of 1280 x 800, below its menus and above the panel.
_TEXT = (slice(160, 640), slice(290, 920))


class Story:
    """`times` is the stage's: seconds by step."""

    def __init__(self, stage: Stage, desk: Desk, client: Client) -> None:
        self.stage, self.desk, self.client = stage, desk, client
        self.times = stage.times

    def info(self, what: str = "") -> Any:
        found = self.client.call("info", workspace=WORKSPACE)
        return found[what] if what else found

    def wait_info(self, what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.info(what):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} never came: {self.info()}")
            time.sleep(0.02)

    def boot(self, name: str = "boot", shot: str = "desktop") -> None:
        """Start with Work in front, until its desktop can be used: `NAME_to_agent` and `NAME_to_desktop` in `times`."""
        desk, began = self.desk, time.monotonic()
        job = self.client.call("start", workspace=WORKSPACE)
        if not desk.said.get("shown"):
            desk.switch()
        time.sleep(1.5)
        desk.shot(f"starting-{shot}" if shot != "desktop" else "starting")
        for _ in self.client.follow(job, limit=120):
            pass
        self.times["accelerator"] = self.info("accelerator")
        self.wait_info("agent_up", 120)
        self.times[f"{name}_to_agent"] = round(time.monotonic() - began, 3)
        self.wait_info("session_up", 60)
        desk.wait_said("live", True, 30)
        # The desktop is usable once its panel stands: the white figures of its clock in the last rows, on the right.
        desk.screen.wait(lambda _: bool(np.any(desk.guest[-48:, -160:] & 0xE0E0E0 == 0xE0E0E0)), 60, 0.02)
        self.times[f"{name}_to_desktop"] = round(time.monotonic() - began, 3)
        desk.wait_still(30)
        desk.shot(shot)
        self.stage.say("Booted to a usable desktop", self.times[f"{name}_to_desktop"])

    def launch(self, app: str, by: str) -> None:
        """Open the launcher, find the application, start it; its window must change a good part of the guest's screen."""
        desk, hands = self.desk, self.desk.hands
        desk.wait_still(10)
        before = desk.guest.copy()
        if by == "keys":
            hands.key("space", "Control_L")
            desk.wait_said("launcher", True, 5)
            hands.type(app.rpartition(".")[2], 0.03)
            time.sleep(0.4)
            desk.shot("launcher")
            began = hands.key("Return")
        else:
            desk.tap_handle()
            began = desk.tap_app(app)
        desk.wait_said("launcher", False, 10)
        seen = desk.screen.wait(
            lambda _: not desk.said["launcher"] and float(np.mean(desk.guest != before)) > 0.08, 60, 0.01
        )
        name = f"{app.rpartition('.')[2]}{'-phone' if desk.phone else ''}"
        self.times.setdefault("app_launch", {})[name] = round(seen - began, 3)
        desk.wait_said("launched", app, 10)
        desk.wait_still(30)

    # -- the guest's editor, alone on its desktop -----------------------------------------------------------------------

    def text(self) -> Pixels:
        """The editor's text as it is on the screen now."""
        return self.desk.guest[_TEXT].copy()

    def save_as(self, path: str) -> None:
        self._in_dialog("s", path)

    def save(self) -> None:
        self.desk.hands.key("s", "Control_L")
        time.sleep(0.3)
        self.desk.wait_still(10)

    def open(self, path: str) -> None:
        self._in_dialog("o", path)

    def _in_dialog(self, key: str, path: str) -> None:
        desk = self.desk
        before = desk.guest.copy()
        desk.hands.key(key, "Control_L")
        desk.screen.wait(lambda _: float(np.mean(desk.guest != before)) > 0.05, 20, 0.01)
        desk.wait_still(20, 0.4)
        desk.hands.type(path, 0.02)
        time.sleep(0.3)
        dialog = desk.guest.copy()
        desk.hands.key("Return")
        desk.screen.wait(lambda _: float(np.mean(desk.guest != dialog)) > 0.05, 20, 0.01)
        desk.wait_still(20, 0.4)


def ink(text: Pixels, blank: Pixels) -> float:
    """Share of the pixels in which two states of the editor differ; a line of text is about half a percent."""
    return float(np.mean(text != blank))


def require_same(text: Pixels, wanted: Pixels, blank: Pixels, what: str) -> None:
    """Raises: AssertionError: it is not that text. A caret may stand elsewhere, which is less than a letter."""
    assert ink(wanted, blank) > 0.002, f"{what}: there was no text to look for"
    off = ink(text, wanted)
    assert off < 0.0005, f"{what}: {off:.2%} of the editor is another than it was"
