"""A program in Work posts a notification: the person's own notification service shows it, as far as the policy lets it, and a
click on it leads to that program's window."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from demo.stage import COLOUR, WORKSPACE
from tests.harness.sessionbus import session_bus
from tests.harness.xserver import end
from tests.vm.whole.conftest import Sight, Whole, until
from twofold.model.names import PALETTE
from twofold.model.policy import Policy, Scope
from twofold.platform.run import spawn

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]
EDITOR, OTHER, POSTS = "org.xfce.mousepad", "galculator", "twofold-probe-notice"
DUNST = """[global]
    origin = top-right
    offset = 40x60
    width = 420
    frame_width = 12
    font = DejaVu Sans 14
    idle_threshold = 0
    mouse_left_click = do_action, close_current
[urgency_normal]
    background = "#ffffff"
    foreground = "#000000"
    timeout = 0
"""


@contextmanager
def shower(desk: Sight, address: str, folder: Path) -> Iterator[None]:
    """The person's notification service: dunst, with its own look."""
    config = folder / "dunstrc"
    config.write_text(DUNST)
    environment = desk.server.environment(
        DBUS_SESSION_BUS_ADDRESS=address, HOME=str(folder), XDG_CACHE_HOME=str(folder)
    )
    process = spawn(["dunst", "-conf", str(config)], env=environment)
    try:
        yield
    finally:
        end(process)


def framed(desk: Sight) -> tuple[np.ndarray, np.ndarray]:
    """Where the screen has the workspace's colour: on the personal side only a notification's frame is of it."""
    rows, columns = np.nonzero(desk.screen.array & 0xFFFFFF == int(PALETTE[COLOUR][1:], 16))
    return rows, columns


def ink(desk: Sight) -> int:
    """How much is written inside the frame."""
    rows, columns = framed(desk)
    inside = desk.screen.array[rows.min() : rows.max(), columns.min() : columns.max()] & 0xFF
    return int(np.count_nonzero(inside < 100))


def let(whole: Whole, level: str) -> None:
    whole.admin.set_policy(Scope.WORKSPACE, str(whole.number), Policy(notifications=level).said())
    until(lambda: whole.info()["policy"]["notifications"] == level, f"the policy {level}", 30)


def close(whole: Whole, desk: Sight) -> None:
    """The guest is everybody's: let it be as it was."""
    for _ in range(30):
        windows = whole.client.call("windows", workspace=WORKSPACE)["windows"]
        if not {EDITOR, OTHER} & {window["app"] for window in windows}:
            return
        active = next((window["app"] for window in windows if window["active"]), "")
        desk.chord("F4" if active in (EDITOR, OTHER) else "Tab", "Alt_L")
        time.sleep(0.3)
    raise AssertionError("the editor and the calculator do not end")


def test_a_click_on_a_notification_leads_to_the_program_that_posted_it(whole: Whole, tmp_path: Path) -> None:
    with ExitStack() as undo:
        address = undo.enter_context(session_bus(tmp_path))
        desk = undo.enter_context(whole.desk(editor=False, DBUS_SESSION_BUS_ADDRESS=address))
        undo.enter_context(shower(desk, address, tmp_path))
        if {EDITOR, OTHER} & set(whole.apps()):  # an earlier test's
            desk.to_work()
            close(whole, desk)
            desk.to_personal()
        whole.launch(POSTS)  # by the default policy: it goes nowhere
        for app in (EDITOR, OTHER):
            whole.launch(app)
            until(lambda app=app: whole.apps()[-1:] == [app], app, 40)  # type: ignore[misc]
        assert framed(desk)[0].size == 0, "a notification is shown that the policy does not let through"

        undo.callback(let, whole, "none")
        let(whole, "app")
        whole.launch(POSTS)
        until(lambda: framed(desk)[0].size > 2000, "the notification", 20)
        time.sleep(0.3)
        desk.shot("notification-app")
        short = ink(desk)
        let(whole, "full")
        until(lambda: framed(desk)[0].size > 2000 and ink(desk) > 1.3 * short, "more than the application's name", 20)
        desk.shot("notification-full")
        assert whole.apps()[-1] == OTHER and not desk.said.get("shown")
        rows, columns = framed(desk)
        desk.hands.click(int(np.median(columns)), int(rows.min() + rows.max()) // 2)
        desk.wait_said("shown", True, 10)
        desk.wait_said("workspace", WORKSPACE, 5)
        desk.wait_said("live", True, 20)
        until(lambda: whole.apps()[-1] == EDITOR, "the editor's window in front", 10)
        desk.shot("notification-tapped")
        close(whole, desk)
        desk.to_personal()
        time.sleep(0.5)
        assert framed(desk)[0].size == 0
