"""One company, one device and one booted workspace for all tests of this folder; a person's desk for each that wants one."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from demo.desk import KEY, Desk
from demo.stage import PERSON, WORKSPACE, Stage
from tests.harness import probe
from tests.harness.belongings import OURS
from tests.harness.probe import Picture
from twofold.agent.client import Client
from twofold.server.client import Admin

FIELD = "twofold-probe-text"
OUT = Path(__file__).resolve().parents[3] / "out" / "whole"


@dataclass
class Whole:
    """Everything that runs: `client` speaks to the device's agent, `admin` to the server."""

    stage: Stage
    admin: Admin
    client: Client

    @contextmanager
    def desk(
        self,
        width: int = 1280,
        height: int = 800,
        *more: str,
        editor: bool = True,
        phone: bool = False,
        **environment: str,
    ) -> Iterator[Sight]:
        """A person's X server with window manager, editor and switcher; `more` are words for the switcher."""
        with Sight(self.stage, OUT, width, height, phone=phone) as desk:
            if editor:
                desk.open_editor()
            desk.open_switcher(*more, **environment)
            desk.wait_said("run", "running", 20)
            yield desk

    def up(self, workspace: str, what: str, seconds: float = 90) -> None:
        """Wait until the agent says `what` of a workspace."""
        until(lambda: bool(self.client.call("info", workspace=workspace)[what]), f"{workspace}: {what}", seconds)

    @property
    def number(self) -> int:
        """The workspace's, as administrators know it."""
        return int(self.admin.find_workspace(PERSON, WORKSPACE)["number"])

    @property
    def owner(self) -> Path:
        """The home folder of the person whose device it is."""
        return self.stage.home.parent

    def info(self) -> dict[str, Any]:
        return self.client.call("info", workspace=WORKSPACE)

    def ask(self, verb: str) -> int:
        """As an administrator; returns the request's number."""
        return int(self.admin.ask(self.number, verb)["command"])

    def receipt(self, asked: int) -> dict[str, Any]:
        """What the device says that it did, once it has."""

        def now() -> dict[str, Any] | None:
            rows = self.admin.list_asked(self.number)
            found: dict[str, Any] | None = next(row["receipt"] for row in rows if row["command"] == asked)
            return found

        until(lambda: now() is not None, "the receipt", 60)
        told = now()
        assert told is not None
        return told

    def launch(self, app: str) -> None:
        self.client.call("launch", workspace=WORKSPACE, app=app)

    def apps(self) -> list[str]:
        """Whose windows the guest has, the active one last."""
        windows = self.client.call("windows", workspace=WORKSPACE)["windows"]
        return [window["app"] for window in sorted(windows, key=lambda window: bool(window["active"]))]

    def field(self, desk: Sight) -> None:
        """Have the probe's text field in front in the guest, whatever windows earlier tests left there. Work is in front."""
        if FIELD not in self.apps():
            self.launch(FIELD)
        until(lambda: desk.text() is not None, "the guest's text field", 40)
        for further in range(1, 9):
            windows = self.client.call("windows", workspace=WORKSPACE)["windows"]
            if any(window["active"] and window["app"] == FIELD for window in windows):
                return
            desk.hands.down("Alt_L")  # held: each Tab goes to the one that was in front before
            for _ in range(further):
                time.sleep(0.05)
                desk.hands.key("Tab", hold=0.04)
            desk.hands.up("Alt_L")
            time.sleep(0.5)
        raise AssertionError(f"the text field does not come to the front: {self.apps()}")


class Sight(Desk):
    """A desk that reads all of the probe's marks."""

    def picture(self) -> Picture:
        """The guest's part of the root window, RGB, as it is now."""
        now = self.guest[:200, :500]
        return np.stack([now >> 16 & 255, now >> 8 & 255, now & 255], axis=-1).astype(np.uint8)

    def marks(self) -> tuple[probe.Status, probe.Pointing]:
        """Both rows of the strip, whole."""
        deadline = time.monotonic() + 10
        while True:
            try:
                seen = self.picture()
                return probe.status(seen), probe.pointing(seen)
            except probe.NoMarks:
                assert time.monotonic() < deadline, "the probe's strip is not on the screen"
                time.sleep(0.005)

    def text(self) -> str | None:
        """What the guest's text field holds."""
        try:
            return probe.text(self.picture())
        except probe.NoMarks:
            return None

    def settled(self) -> tuple[probe.Status, probe.Pointing]:
        """The marks once nothing has been added for a while: all that was on its way has arrived."""
        before, since = self.marks(), time.monotonic()
        while time.monotonic() - since < 0.6:
            time.sleep(0.02)
            now = self.marks()
            if (now[0].presses, now[1]) != (before[0].presses, before[1]):
                before, since = now, time.monotonic()
        return before

    def switch(self) -> float:
        """Press the switch key and let it go at once: the next press may follow at any gap."""
        return self.hands.key(KEY)

    def chord(self, key: str, modifier: str) -> None:
        """A key with a modifier at the pace of a quick hand."""
        self.hands.down(modifier)
        time.sleep(0.05)
        self.hands.key(key, hold=0.04)
        time.sleep(0.05)
        self.hands.up(modifier)

    def to_work(self) -> None:
        if not self.said.get("shown"):
            self.switch()
        self.wait_said("shown", True, 10)
        self.wait_said("live", True, 20)

    def to_personal(self) -> None:
        if self.said.get("shown"):
            self.switch()
        self.wait_said("shown", False, 10)


def until(check: Callable[[], bool], what: str, seconds: float = 20, every: float = 0.02) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(every)


@pytest.fixture(scope="package")
def whole() -> Iterator[Whole]:
    """Server, agent and the business image's workspace, booted, with the probe's strip on its screen."""
    home = Path(tempfile.mkdtemp(prefix="tf-whole-"))  # short: sockets lie below
    before = os.environ.get("TWOFOLD_HOME")
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, home, ignore_errors=True)
        undo.callback(_restore, before)
        stage = undo.enter_context(Stage(home / OURS, Console(quiet=True)))
        _, admin, client = stage.ready()
        made = Whole(stage, admin, client)
        began = time.monotonic()
        client.finish("start", workspace=WORKSPACE)
        made.up(WORKSPACE, "session_up")
        print(f"\nboot to desktop: {time.monotonic() - began:.1f} s")
        made.launch("twofold-probe")
        yield made


@pytest.fixture(scope="module")
def desk(whole: Whole) -> Iterator[Sight]:
    """The usual desk, for the tests of one file."""
    with whole.desk() as made:
        yield made


def _restore(home: str | None) -> None:
    if home is None:
        os.environ.pop("TWOFOLD_HOME", None)
    else:
        os.environ["TWOFOLD_HOME"] = home
