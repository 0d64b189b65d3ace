"""The person's on-screen keyboard comes with the focus of a text field in Work and goes with it: real programs in the real guest,
the handset's own service on the person's bus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from demo.stage import WORKSPACE
from tests.harness.onscreen import Keyboard
from tests.harness.sessionbus import session_bus
from tests.vm.whole.conftest import Sight, Whole, until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]
EDITOR, NUMBERS, TERMINAL = "org.xfce.mousepad", "galculator", "lxterminal"


@pytest.fixture
def at(whole: Whole, tmp_path: Path) -> Iterator[tuple[Sight, Keyboard]]:
    with ExitStack() as undo:
        address = undo.enter_context(session_bus(tmp_path))
        keyboard = Keyboard(tmp_path, address)
        undo.callback(keyboard.close)
        desk = undo.enter_context(whole.desk(412, 915, editor=False, phone=True, DBUS_SESSION_BUS_ADDRESS=address))
        yield desk, keyboard
        clear(whole, desk)


def clear(whole: Whole, desk: Sight) -> None:
    """The guest is everybody's: let it be as it was."""
    desk.to_work()
    for _ in range(40):
        windows = whole.client.call("windows", workspace=WORKSPACE)["windows"]
        if not {EDITOR, NUMBERS, TERMINAL} & {window["app"] for window in windows}:
            return
        active = next((window["app"] for window in windows if window["active"]), "")
        desk.chord("F4" if active in (EDITOR, NUMBERS, TERMINAL) else "Tab", "Alt_L")
        time.sleep(0.3)
        desk.hands.key("Right")  # an editor that asks whether to save: do not
    raise AssertionError("the programs do not end")


def test_it_comes_and_goes_with_the_focus(whole: Whole, at: tuple[Sight, Keyboard]) -> None:
    desk, keyboard = at

    def sees(state: str, what: str, seconds: float = 40) -> None:
        until(lambda: keyboard.keys == state, f"the keyboard {state}: {what}", seconds)

    whole.launch(EDITOR)
    until(lambda: whole.apps()[-1:] == [EDITOR], "the editor", 40)
    time.sleep(1)
    assert keyboard.keys == "hidden", "it came although Work is not in front"
    desk.to_work()
    sees("shown", "the editor's text")
    whole.launch(NUMBERS)
    sees("hidden", "a calculator with keys of its own")
    whole.launch(TERMINAL)
    sees("shown", "a terminal")
    keyboard.press()
    sees("hidden", "closed by hand")
    desk.to_personal()
    desk.to_work()
    time.sleep(1)
    assert keyboard.keys == "hidden", "it came again although its person had closed it"
    keyboard.press()
    sees("shown", "opened by hand")
    desk.to_personal()
    sees("hidden", "on the personal side", 5)
    desk.to_work()
    sees("shown", "back in Work", 20)
    whole.client.finish("suspend", workspace=WORKSPACE)
    sees("hidden", "asleep", 20)
    whole.client.finish("start", workspace=WORKSPACE)
    whole.up(WORKSPACE, "session_up")
    sees("shown", "awake again, as it was left", 60)
