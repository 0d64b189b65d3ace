"""The on-screen keyboard that comes and goes with the focus in Work: the handset's own service on a real bus, with a program that
heeds wvkbd's signals, and what the switcher asks of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.onscreen import Keyboard
from tests.harness.sessionbus import Peer, session_bus
from tests.unit.test_switcher import WIRE
from tests.unit.test_switcher_notices import POLICY, Line, Shown, where
from twofold.guest import bus
from twofold.switcher import osk
from twofold.switcher.osk import NAME, PATH, Board, Opener, keyless

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


class Owner(Keyboard):
    """Their keyboard, seen by a test with an event loop."""

    def __init__(self, folder: Path, address: str, qtbot: Any) -> None:
        super().__init__(folder, address)
        self.qtbot = qtbot

    def wait(self, check: Any) -> None:
        self.qtbot.waitUntil(check, timeout=15_000)

    def sees(self, state: str) -> None:
        self.wait(lambda: self.keys == state)

    def stays(self, state: str, ms: int = 150) -> None:
        self.qtbot.wait(ms)
        assert self.keys == state


@pytest.fixture
def owner(qtbot: Any, tmp_path: Path) -> Iterator[Owner]:
    with session_bus(tmp_path) as address:
        made = Owner(tmp_path, address, qtbot)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def board(owner: Owner) -> Iterator[Board]:
    made = Board(owner.address)
    owner.wait(lambda: bool(made._owner))
    yield made
    made.close()


@pytest.fixture
def opener(board: Board, monkeypatch: pytest.MonkeyPatch) -> Opener:
    monkeypatch.setattr(osk, "_LINGERS", 40)
    made = Opener(board)
    made.stands("work", live=True)
    return made


def touch(opener: Opener) -> None:
    from PySide6.QtCore import QEvent

    assert not opener.eventFilter(opener, QEvent(QEvent.Type.TouchBegin))


def test_the_service_has_one_state_whoever_changes_it(owner: Owner, board: Board) -> None:
    heard: list[bool] = []
    board.changed.connect(heard.append)
    board.show(True)
    owner.sees("shown")
    assert board.visible and not heard, "our own wish came back as somebody else's"
    owner.press()
    owner.sees("hidden")
    owner.wait(lambda: heard == [False])
    other = Peer(owner.address, lambda _, message: None)
    other.begin()
    other.does(lambda on: on.call(NAME, PATH, NAME, "SetVisible", "b", True))
    owner.wait(lambda: heard == [False, True])
    answers: list[bus.Message] = []
    for member, signature, args in (("SetVisible", "s", ("yes",)), ("Vanish", "", ())):
        other.does(lambda on, m=member, s=signature, a=args: on.call(NAME, PATH, NAME, m, s, *a, then=answers.append))  # type: ignore[misc]
    owner.wait(lambda: [answer.kind for answer in answers] == [bus.ERROR] * 2)
    other.close()
    owner.stays("shown", 50)


def test_it_goes_and_comes_again_without_harm(owner: Owner, board: Board) -> None:
    came: list[int] = []
    board.came.connect(lambda: came.append(1))
    board.show(True)
    owner.sees("shown")
    owner.close()
    owner.wait(lambda: not board._owner)
    board.show(True)
    again = Owner(owner.folder, owner.address, owner.qtbot)
    owner.wait(lambda: bool(came))
    assert not board.visible
    (owner.folder / "keys").unlink(missing_ok=True)
    board.show(True)
    owner.sees("shown")
    again.close()


def test_it_comes_with_the_focus_and_goes_with_it(owner: Owner, opener: Opener) -> None:
    opener.heard("work", "text")
    owner.sees("shown")
    opener.heard("work", "")
    opener.heard("work", "email")
    owner.stays("shown")
    opener.heard("work", "")
    owner.sees("hidden")
    opener.heard("other", "text")
    owner.stays("hidden")
    opener.stands("other", live=True)
    owner.sees("shown")
    opener.stands("", live=True)
    owner.sees("hidden")
    opener.stands("other", live=False)
    owner.stays("hidden")
    opener.stands("other", live=True)
    owner.sees("shown")
    opener.stands("other", live=False)
    owner.stays("shown", 80)


def test_what_the_person_closed_stays_closed_until_they_touched_another_field(owner: Owner, opener: Opener) -> None:
    opener.heard("work", "text")
    owner.sees("shown")
    owner.press()
    owner.sees("hidden")
    owner.qtbot.wait(60)
    for kind in ("text", "", "terminal"):
        opener.heard("work", kind)
    owner.stays("hidden")
    opener.stands("", live=True)
    opener.stands("work", live=True)
    owner.stays("hidden")
    touch(opener)
    owner.stays("hidden", 50)
    opener.heard("work", "text")
    owner.sees("shown")


def test_what_the_person_opened_stays_until_a_field_has_lost_the_focus(owner: Owner, opener: Opener) -> None:
    owner.press()
    owner.sees("shown")
    owner.qtbot.wait(60)
    opener.heard("work", "")
    opener.stands("", live=True)
    opener.stands("work", live=True)
    owner.stays("shown")
    opener.heard("work", "text")
    opener.heard("work", "")
    owner.sees("hidden")


def test_a_guest_cannot_make_it_flap(owner: Owner, opener: Opener) -> None:
    opener._going.setInterval(1)  # else its lingering alone would keep it still
    for _ in range(3):
        opener.heard("work", "text")
        owner.sees("shown")
        opener.heard("work", "")
        owner.sees("hidden")
    opener.heard("work", "text")
    owner.stays("hidden")
    opener.stands("", live=True)
    opener.stands("work", live=True)
    owner.sees("shown")


def test_nobody_is_asked_where_the_person_has_keys(qtbot: Any) -> None:
    made = Opener(None)
    made.stands("work", live=True)
    made.heard("work", "text")
    made.heard("work", "")
    made.forget()
    made.close()


def test_a_phone_whose_bus_has_no_keyboard(tmp_path: Path, qtbot: Any) -> None:
    for address in ("", f"unix:path={tmp_path}/nothing"):
        made = Opener(Board(address))
        made.stands("work", live=True)
        made.heard("work", "text")
        made.close()


def test_the_switcher_passes_on_what_its_agent_says(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    from twofold.switcher.side import Moved, Side

    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", owner.address)
    line = Line()
    line.cards = [WIRE | {"policy": POLICY, "whereabouts": where(int(time.time()))}]
    shown = Shown(owner.qtbot, line, phone=True)
    session = shown.desk.session
    assert session is not None
    monkeypatch.setattr(session, "_alive", lambda: True)
    session.update_card(session.card)
    line.tell(event="focus", workspace="work", kind="text")
    owner.sees("shown")
    shown.desk._on_moved(Moved(Side.PERSONAL, 0))
    owner.sees("hidden")
    shown.desk._on_moved(Moved(Side.WORK, 0))
    owner.sees("shown")
    shown.desk._open_launcher(session)
    shown.desk._refresh()
    owner.sees("hidden")
    shown.close()
    line.ours.close()


TOUCH = """I: Bus=0018 Vendor=0000 Product=0000 Version=0000
N: Name="Goodix"
B: PROP=2
B: EV=b
B: KEY=400 0 0 0 0 0
B: ABS=3273800000000003

"""
BUTTONS = """N: Name="gpio-keys"
B: PROP=0
B: EV=3
B: KEY=10000000000000 0

"""
KEYBOARD = """N: Name="AT Translated Set 2 keyboard"
B: PROP=0
B: EV=120013
B: KEY=402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe
B: MSC=10

"""
PAD = """N: Name="Touchpad"
B: PROP=5
B: KEY=e520 10000 0 0 0 0
"""


@pytest.mark.parametrize(
    ("devices", "is_so"),
    [
        (TOUCH + BUTTONS, True),
        (TOUCH + KEYBOARD, False),
        (BUTTONS, False),
        (PAD, False),
        ("", False),
        ("B: KEY=zz\nB: PROP", False),
    ],
)
def test_a_device_without_a_keyboard_is_known(devices: str, is_so: bool) -> None:
    assert keyless(devices) is is_so
