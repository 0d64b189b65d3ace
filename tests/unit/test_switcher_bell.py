"""Notifications in the switcher: shown by a service on a real bus, tapped, put away, taken back; by a mark where there is none.

The window is Qt's own on no screen; the agent at the other end of its socket is these tests."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.sessionbus import Peer, Shower, session_bus
from tests.unit.test_switcher import WIRE, card
from tests.unit.test_switcher_notices import POLICY, Line, Shown, where

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
NOTICE = {
    "event": "notice",
    "workspace": "work",
    "notice": 5,
    "app": "a",
    "name": "Mousepad",
    "summary": "",
    "body": "",
}


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with session_bus(tmp_path) as made:
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", made)
        yield made


@pytest.fixture
def shower(address: str) -> Iterator[Shower]:
    made = Shower(address, ["body", "body-markup", "actions"])
    yield made
    made.close()


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    other = WIRE | {"workspace": "two", "title": "Beta", "key": 2, "colour": "#7a3e9d"}
    made.cards = [WIRE | {"policy": POLICY, "whereabouts": where(int(time.time()))}, other]
    yield made
    made.ours.close()


def personal(shown: Shown) -> None:
    from twofold.switcher.side import Moved, Side

    shown.desk._on_moved(Moved(Side.PERSONAL, 0))


@pytest.fixture
def shown(qtbot: Any, line: Line, address: str) -> Iterator[Shown]:
    made = Shown(qtbot, line)
    personal(made)
    yield made
    made.close()


def wait(shown: Shown, check: Any) -> None:
    shown.qtbot.waitUntil(check, timeout=5000)


def test_it_is_shown_with_the_workspaces_name_and_as_text(shown: Shown, line: Line, shower: Shower) -> None:
    line.tell(**NOTICE)
    wait(shown, lambda: shower.shown == {100: ("Acme: Mousepad", "")})
    line.tell(**NOTICE | {"notice": 6, "summary": "<b>Due</b>", "body": "<a href='http://x'>1 & 2</a>"})
    wait(shown, lambda: len(shower.shown) == 2)
    assert shower.shown[101] == ("Acme: <b>Due</b>", "&lt;a href='http://x'&gt;1 &amp; 2&lt;/a&gt;"), (
        "a body is markup to this one"
    )
    shower.able = ["body"]
    line.tell(**NOTICE | {"notice": 6, "summary": "Due", "body": "1 & 2"})
    wait(shown, lambda: shower.shown[101] == ("Acme: Due", "1 & 2"))
    assert shower.replaced == [101], "the same notification, said anew"
    line.tell(**NOTICE | {"notice": 7, "name": ""})
    wait(shown, lambda: shower.shown.get(102) == ("Acme: a notification", ""))


def test_a_tap_brings_that_workspace_and_reaches_the_guest(shown: Shown, line: Line, shower: Shower) -> None:
    line.tell(**NOTICE | {"workspace": "two"})
    wait(shown, lambda: 100 in shower.shown)
    shower.says(shower.client, "ActionInvoked", "us", 100, "other")
    shower.says(shower.client, "ActionInvoked", "us", 99, "default")
    shown.qtbot.wait(100)
    assert shown.wished == []
    shower.says(shower.client, "ActionInvoked", "us", 100, "default")
    wait(shown, lambda: shown.wished == ["work"])
    assert shown.desk.session is not None and shown.desk.session.card.name == "two"
    wait(shown, lambda: ("tapped", {"workspace": "two", "notice": 5}) in line.asked)
    wait(shown, lambda: shower.closed == [100])


def test_nobody_but_the_service_says_that_it_was_tapped(shown: Shown, line: Line, shower: Shower, address: str) -> None:
    line.tell(**NOTICE)
    wait(shown, lambda: 100 in shower.shown)
    stranger = Peer(address, lambda peer, message: None)
    stranger.begin()
    name, path = "org.freedesktop.Notifications", "/org/freedesktop/Notifications"
    stranger.does(lambda on: on.signal(shower.client, path, name, "ActionInvoked", "us", 100, "default"))
    stranger.does(lambda on: on.signal(shower.client, path, name, "NotificationClosed", "uu", 100, 2))
    stranger.does(lambda on: on.signal(shower.client, path, name, "NotificationClosed", "s", "rubbish"))
    shown.qtbot.wait(200)
    stranger.close()
    assert shown.wished == [] and not any(verb in ("tapped", "dismissed") for verb, _ in line.asked)
    shower.says(shower.client, "NotificationClosed", "uu", 100, 2)
    wait(shown, lambda: ("dismissed", {"workspace": "work", "notice": 5}) in line.asked)
    assert shown.wished == []


def test_what_is_taken_back_goes_and_with_the_workspace_all_of_it(shown: Shown, line: Line, shower: Shower) -> None:
    for number in (5, 6, 7):
        line.tell(**NOTICE | {"notice": number})
    line.tell(**NOTICE | {"notice": 8, "workspace": "two"})
    wait(shown, lambda: len(shower.shown) == 4)
    line.tell(event="notice-gone", workspace="work", notice=6)
    wait(shown, lambda: shower.closed == [101])
    line.tell(event="removed", workspace="work")
    wait(shown, lambda: sorted(shower.closed) == [100, 101, 102])
    shown.desk.close()
    wait(shown, lambda: sorted(shower.closed) == [100, 101, 102, 103])


def test_an_agent_that_was_away_tells_anew_what_still_holds(shown: Shown, line: Line, shower: Shower) -> None:
    line.tell(**NOTICE)
    wait(shown, lambda: 100 in shower.shown)
    shown.link.here.emit(False)
    shown.link.here.emit(True)
    wait(shown, lambda: shower.closed == [100])


def test_taken_back_before_the_service_has_answered_it_goes_as_well(shown: Shown, line: Line, shower: Shower) -> None:
    line.tell(**NOTICE)
    line.tell(event="notice-gone", workspace="work", notice=5)
    wait(shown, lambda: shower.closed == [100])


def test_with_work_in_front_nothing_is_posted_and_it_is_said_there(shown: Shown, line: Line, shower: Shower) -> None:
    from twofold.switcher.side import Moved, Side

    shown.desk._on_moved(Moved(Side.WORK, 0))
    note = shown.window.note
    line.tell(**NOTICE | {"summary": "Due", "body": "today"})
    wait(shown, lambda: note.isVisible() and note._text == "Acme: Due · today")
    line.tell(**NOTICE | {"workspace": "two"})
    wait(shown, lambda: note._text == "Beta: Mousepad")
    assert shown.desk._bell.marks == {"two"}, "the one that is not in front has a mark"
    shown.qtbot.wait(100)
    assert shower.shown == {}
    shown.desk.bring("two")
    assert not shown.desk._bell.marks


@pytest.mark.parametrize("bus", [True, False])
def test_without_a_service_there_is_a_mark_and_no_error(
    shown: Shown, line: Line, bus: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not bus:
        shown.desk._bell._service._address = "unix:path=/nothing"
    line.tell(**NOTICE)
    wait(shown, lambda: shown.desk._bell.marks == {"work"})
    rail = shown.window.rail
    shown.window.repaint()
    at = rail.spots["work"]
    shot = rail.grab().toImage()

    def busy() -> int:
        from twofold.switcher import look

        spots = [(x, y) for x in range(at.width()) for y in range(at.top(), at.top() + 20)]
        return sum(shot.pixelColor(x, y) == look.BUSY for x, y in spots)

    assert busy() > 30
    assert not shown.window.note.isVisible() and not shown.told()
    from twofold.switcher.side import Moved, Side

    shown.desk._on_moved(Moved(Side.WORK, 0))
    shot = rail.grab().toImage()
    assert busy() == 0, "it has been seen"


def test_a_service_that_ends_is_followed_by_the_next(shown: Shown, line: Line, address: str) -> None:
    first = Shower(address, [])
    line.tell(**NOTICE)
    wait(shown, lambda: len(first.shown) == 1)
    first.close()
    second = Shower(address, [])
    line.tell(**NOTICE | {"notice": 6})
    wait(shown, lambda: second.shown == {100: ("Acme: Mousepad", "")})
    second.close()


def test_the_persons_bus_is_found_where_programs_look_for_it(tmp_path: Path) -> None:
    from twofold.switcher.bell import address

    assert address({"DBUS_SESSION_BUS_ADDRESS": "unix:path=/x"}) == "unix:path=/x"
    assert address({"XDG_RUNTIME_DIR": str(tmp_path)}) == address({}) == ""
    (tmp_path / "bus").touch()
    assert address({"XDG_RUNTIME_DIR": str(tmp_path)}) == f"unix:path={tmp_path}/bus"


def test_a_notice_that_is_none_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from twofold.switcher.bell import Bell, Service

    service, posted = Service(""), list[object]()
    monkeypatch.setattr(service, "post", lambda *words: posted.append(words))
    bell = Bell(None, service)  # type: ignore[arg-type]
    for number in (None, "5", 5.0, True):
        bell.heard({"event": "notice", "notice": number}, card(), front="")
    assert not posted
    bell.heard({"event": "notice", "notice": 5}, card(), front="")
    assert len(posted) == 1
