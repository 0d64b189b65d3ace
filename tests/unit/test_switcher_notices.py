"""What the switcher says beside the guest: what is about to end, what is not backed up, how far a back up is, why it is shut.

The window is Qt's own on no screen; the agent at the other end of its socket is these tests."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_switcher import WIRE, card
from twofold.model.errors import BadInputError, TwofoldError
from twofold.switcher import notices
from twofold.switcher.card import Transfer, lease, pills
from twofold.switcher.notices import back_up, farewell, notice, warned

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
NOW = int(time.time())
WARNING = {"code": "refused", "happened": "Acme locks on Sunday 14:00, unless it reaches your company's server.",
           "safe": "Your work stays on this disk, sealed.", "next": "Connect to the company's network."}  # fmt: skip
LOCKED = {"code": "refused", "happened": "Your company has locked Acme (asked by admin).", "safe": "Nothing was removed.",
          "next": "Ask your administrator; once it is unlocked there, it starts again."}  # fmt: skip
MOVING = {"event": "operation", "operation": "ab", "verb": "backup", "workspace": "work", "state": "running", "step": "sending",
          "done": 12_000_000, "total": 48_000_000, "left": 9, "error": None}  # fmt: skip
POLICY = {"sound_out": False, "replicate": True, "replicate_seconds": 12 * 3600, "defer": True}


def where(on_server_at: int) -> dict[str, Any]:
    return {"in_memory": True, "on_disk_verified_at": NOW, "on_server_at": on_server_at}


# Words


def test_the_end_of_the_right_to_run_is_counted_down_where_it_is_looked_for() -> None:
    ends = card(warning=WARNING, expires=int(time.time()) + 5 * 3600 + 90)
    assert lease(ends) == "ends in 5 h"
    assert lease(card(warning=WARNING, expires=int(time.time()) + 40 * 60 + 30)) == "ends in 40 min"
    told = warned(ends)
    assert told is not None
    assert (told.head, told.text, told.bad) == (WARNING["happened"], WARNING["next"], False)
    soon = warned(card(warning=WARNING, expires=int(time.time()) + 1800))
    assert soon is not None and soon.bad, "the last hour is another warning"


@pytest.mark.parametrize(
    ("hours", "every", "late"), [(25, 12, True), (23, 12, False), (1000, 0, False), (0, 12, False)]
)
def test_a_back_up_that_should_have_been_made_is_missed(hours: int, every: int, late: bool) -> None:
    since = int(time.time()) - hours * 3600 if hours else 0
    seen = card(whereabouts=where(since), policy=POLICY | {"replicate_seconds": every * 3600})
    pill, told = pills(seen)[2], warned(seen)
    assert (pill.late, told is not None) == (late, late)
    if told is not None:
        assert "not backed up since" in pill.text and "on this disk alone" in told.text
        assert told.buttons[0] == ("Back up now", "backup")


def test_what_the_policy_does_not_let_a_person_do_has_no_button() -> None:
    never = card(policy=POLICY | {"replicate": False, "defer": False})
    moving = Transfer.from_wire(MOVING)
    assert back_up(never, None, ours=False).buttons == (("OK", "close"),)
    assert back_up(never, moving, ours=False).buttons == (("OK", "close"),)
    may = card(policy=POLICY)
    assert [verb for _, verb in back_up(may, None, ours=False).buttons] == ["backup", "close"]
    assert [verb for _, verb in back_up(may, moving, ours=False).buttons] == ["defer", "close"]
    assert [verb for _, verb in back_up(may, moving, ours=True).buttons] == ["cancel", "close"]


def test_a_back_up_under_way_says_how_far_it_is() -> None:
    moving = Transfer.from_wire(MOVING)
    assert moving is not None
    assert moving.words == "Sending: 12.0 of 48.0 MB · 9 s left"
    assert pills(card(), moving)[2].share == back_up(card(policy=POLICY), moving, ours=False).share == 0.25
    assert Transfer.from_wire(MOVING | {"state": "done"}) is None
    assert Transfer.from_wire(MOVING | {"verb": "start"}) is None
    with pytest.raises(BadInputError):
        Transfer.from_wire(MOVING | {"done": "much"})


@pytest.mark.parametrize(("shut", "head"), [("locked", "Acme is locked"), ("away", "Acme is locked"),
                                            ("ended", "Acme has ended"), ("taken", "Acme was taken back"),
                                            ("assurance", "Acme may not run here")])  # fmt: skip
@pytest.mark.parametrize("run", ["off", "suspended"])
def test_what_is_shut_says_why_and_by_whom_and_names_no_command_line(shut: str, head: str, run: str) -> None:
    error = LOCKED | {"next": "Do this:  twofold backup work"}
    page = notice(card(run=run, shut=shut, error=error, memory_stored=run == "suspended", expires=NOW + 9 * 86400))
    assert page is not None
    assert page.head == head and "asked by admin" in page.text
    assert "twofold" not in page.text + page.safe and page.button
    assert lease(card(shut=shut, expires=NOW + 9 * 86400)) in ("locked", "ended", "taken back", "may not run here")


def test_a_code_that_is_wanted_stops_nothing_that_runs() -> None:
    page = notice(card(run="off", shut="code"))
    assert page is not None and page.head == "Acme wants your code"
    assert notice(card(run="running", shut="code")) is None, "an agent that began anew"


def test_what_was_sent_after_it_was_taken_is_not_offered_again() -> None:
    sent = {"code": "conflict", "happened": "It is kept beside it.", "safe": "Nothing was lost.", "next": ""}
    page = notice(card(run="off", shut="taken", error=sent))
    assert page is not None
    assert (page.text, page.verb) == ("It is kept beside it.", notices.PERSONAL)


def test_leaving_says_what_became_of_it() -> None:
    going = notice(card(run="off", custody="checking-in"))
    assert going is not None and going.busy and "Giving Acme back" in going.head
    assert "wiped" in farewell(card(), "wipe").head
    assert all("Nothing of yours" in farewell(card(), verb).safe for verb in ("wipe", "checkin", "discard", "remove"))


# The window


_LONG = ("backup", "checkin", "discard", "loss")


class Line:
    """The agent's end of the switcher's connections, and the `Dial` that leads to it."""

    def __init__(self) -> None:
        self.ours, self._theirs = socket.socketpair()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.cards: list[dict[str, Any]] = []
        self.answers: dict[str, dict[str, Any] | TwofoldError] = {}
        self.heard = threading.Event()

    def tell(self, **event: Any) -> None:
        self.ours.sendall(json.dumps(event).encode() + b"\n")

    def agent(self, _: Path) -> Line:
        return self

    def events(self, _: Path) -> Line:
        return self

    def call(self, verb: str, **args: Any) -> dict[str, Any]:
        self.asked.append((verb, args))
        if verb in self.answers:
            if isinstance(answer := self.answers[verb], TwofoldError):
                raise answer
            return answer
        return {"workspaces": self.cards} if verb == "list" else {"operation": "ab"} if verb in _LONG else {}

    def display(self, workspace: str) -> socket.socket:
        from twofold.model.errors import ConflictError

        raise ConflictError(f"{workspace} has no screen here.")

    def fileno(self) -> int:
        return self._theirs.fileno()

    def ready(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._theirs.recv(1 << 16).splitlines()]

    def say(self, verb: str, **args: Any) -> None:
        self.asked.append((verb, args))

    def close(self) -> None:
        pass


_ENDED: list[object] = []


class Shown:
    """A switcher's window with Work in front; `line` is its agent."""

    def __init__(self, qtbot: Any, line: Line, *, phone: bool = False, empty: bool = False) -> None:
        from PySide6.QtGui import QImage

        from twofold.switcher import look
        from twofold.switcher.desk import Desk
        from twofold.switcher.link import Link
        from twofold.switcher.session import Keys
        from twofold.switcher.window import Window

        self.qtbot, self.line, self.wished = qtbot, line, list[str]()
        self.window = Window(look.PHONE if phone else look.DESKTOP, "Pause", pointer_as_touch=False)
        self.window.resize(*(412, 915) if phone else (1280, 800))
        self.link = Link(Path("unused"), line)
        self.desk = Desk(self.window, self.link, Keys(), None)
        self.desk.wish = lambda side: self.wished.append(str(side))
        self.window.show()
        self.link.start()
        if not empty:
            self.qtbot.waitUntil(lambda: self.desk.session is not None, timeout=5000)
            assert self.desk.session is not None
            self.desk.session.image = QImage(1216, 760, QImage.Format.Format_RGB32)
            self.desk.session.image.fill(0x336699)
        self.look(True)

    def look(self, work: bool) -> None:
        from twofold.switcher.side import Moved, Side

        self.desk._on_moved(Moved(Side.WORK if work else Side.PERSONAL, 0))

    def close(self) -> None:
        """All of it stays: what it has set itself to do later knows the window, as in a process that lasts."""
        self.desk.close()
        self.window.hide()
        _ENDED.append(self)

    def told(self) -> str:
        banner = self.window.banner.told
        return banner.head if banner is not None else ""

    def says(self, words: str) -> None:
        self.qtbot.waitUntil(lambda: words in self.told() if words else not self.told(), timeout=5000)

    def press(self, verb: str) -> None:
        from PySide6.QtCore import Qt

        self.qtbot.mouseClick(
            self.window.banner, Qt.MouseButton.LeftButton, pos=self.window.banner.spots[verb].center()
        )

    def press_bar(self, spot: str) -> None:
        from PySide6.QtCore import Qt

        self.window.bar.repaint()
        self.qtbot.mouseClick(self.window.bar, Qt.MouseButton.LeftButton, pos=self.window.bar.spots[spot].center())


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    made.cards = [WIRE | {"policy": POLICY, "whereabouts": where(int(time.time()))}]
    yield made
    with suppress(OSError):
        made.ours.close()


@pytest.fixture
def shown(qtbot: Any, line: Line) -> Iterator[Shown]:
    made = Shown(qtbot, line)
    yield made
    made.close()


def test_a_warning_comes_stays_until_it_is_read_and_comes_again_in_the_last_hour(shown: Shown, line: Line) -> None:
    assert shown.told() == ""
    ends = line.cards[0] | {"event": "workspace", "warning": WARNING, "expires": int(time.time()) + 7200}
    line.tell(**ends)
    shown.says("locks on Sunday")
    shown.press("close")
    shown.says("")
    line.tell(**ends)
    shown.qtbot.wait(100)
    assert shown.told() == "", "it was read"
    line.tell(**ends | {"expires": int(time.time()) + 1800})
    shown.says("locks on Sunday")
    shown.press("close")
    shown.says("")
    shown.press_bar("lease")
    shown.says("locks on Sunday")
    line.tell(**line.cards[0] | {"event": "workspace"})
    shown.says("")


def test_a_back_up_is_asked_for_watched_and_put_off_from_the_pill(shown: Shown, line: Line) -> None:
    shown.press_bar("server")
    shown.says("Backed up just now")
    shown.press("backup")
    shown.qtbot.waitUntil(lambda: ("backup", {"workspace": "work"}) in line.asked, timeout=5000)
    line.tell(**MOVING)
    shown.says("Backing up Acme")
    banner = shown.window.banner
    assert banner.told is not None and banner.told.share == 0.25
    assert set(banner.spots) == {"cancel", "close"}, "what was begun here can be stopped here"
    shown.press("cancel")
    shown.qtbot.waitUntil(lambda: ("cancel", {"operation": "ab"}) in line.asked, timeout=5000)
    line.tell(**MOVING | {"operation": "cd"})
    shown.qtbot.waitUntil(lambda: set(banner.spots) == {"defer", "close"}, timeout=5000)
    shown.press("defer")
    shown.qtbot.waitUntil(lambda: ("defer", {"workspace": "work"}) in line.asked, timeout=5000)
    shown.says("")


def test_a_wipe_is_not_a_window_that_goes_away(shown: Shown, line: Line) -> None:
    line.tell(
        event="operation",
        operation="x",
        verb="wipe",
        workspace="work",
        state="running",
        step="",
        done=0,
        total=0,
        left=0,
    )
    line.tell(event="removed", workspace="work")
    page = shown.window.page
    shown.qtbot.waitUntil(
        lambda: page.isVisible() and page._notice is not None and "wiped" in page._notice.head, timeout=5000
    )
    assert shown.wished == [], "the person is told before their own side comes"
    from PySide6.QtCore import Qt

    page.repaint()
    shown.qtbot.mouseClick(page, Qt.MouseButton.LeftButton, pos=page._button.center())
    assert shown.wished == ["personal"]


def page(shown: Shown) -> str:
    notice = shown.window.page._notice
    return f"{notice.head}\n{notice.text}" if notice is not None and shown.window.page.isVisible() else ""


def test_where_no_workspace_is_it_says_what_became_of_the_last_one(qtbot: Any, line: Line) -> None:
    receipt = {"workspace": "work", "title": "Acme", "colour": "red", "verb": "wipe", "company": True, "token": 7,
               "removed_at": 1_800_000_000, "key_destroyed": True, "sealed_bytes_removed": 9}  # fmt: skip
    line.cards, line.answers = [], {"receipts": {"receipts": [receipt | {"title": "Before"}, receipt]}}
    shown = Shown(qtbot, line, empty=True)
    try:
        qtbot.waitUntil(lambda: "wiped Acme\n" in page(shown) and "January" in page(shown), timeout=5000)
        line.tell(**WIRE | {"event": "workspace", "policy": POLICY, "whereabouts": where(int(time.time()))})
        qtbot.waitUntil(lambda: "wiped" not in page(shown), timeout=5000)
        line.answers["receipts"] = TwofoldError("An older agent.")
        line.tell(event="removed", workspace="work")
        qtbot.waitUntil(lambda: "gone from this device" in page(shown), timeout=5000)  # until the person has seen it
        shown.look(False)
        shown.look(True)
        qtbot.waitUntil(lambda: "No Work on this device" in page(shown), timeout=5000)
    finally:
        shown.close()


def test_an_agent_that_does_not_answer_is_not_hidden_behind_old_facts(shown: Shown, line: Line) -> None:
    bar = shown.window.bar
    shown.qtbot.waitUntil(lambda: not bar._away, timeout=1000)
    shown.link.here.emit(False)
    shown.qtbot.wait(100)
    assert not bar._away, "a moment is nothing to speak of"
    shown.qtbot.waitUntil(lambda: bar._away, timeout=5000)
    shown.link.here.emit(True)
    shown.qtbot.waitUntil(lambda: not bar._away, timeout=5000)


def test_a_picture_that_somebody_keeps_is_taken_back_when_its_machine_runs_no_more_and_nobody_looks(
    shown: Shown, line: Line
) -> None:
    forgotten: list[str] = []
    shown.desk.forget = lambda: forgotten.append(shown.desk._current)

    def becomes(run: str) -> None:
        line.tell(**line.cards[0] | {"event": "workspace", "run": run})
        shown.qtbot.waitUntil(lambda: str(shown.desk.session and shown.desk.session.card.run) == run, timeout=5000)
        shown.qtbot.wait(20)

    becomes("suspended")  # somebody looks, and sees what it is painted over with
    becomes("running")
    assert not forgotten
    shown.look(False)
    assert not forgotten, "while it runs a picture of it is no more than its memory is"
    becomes("suspended")
    assert forgotten == ["work"]
    becomes("running")
    becomes("suspended")
    assert forgotten == ["work"], "nobody has seen it since"
    becomes("running")
    shown.look(True)
    shown.look(False)
    line.tell(event="removed", workspace="work")
    shown.qtbot.waitUntil(lambda: forgotten == ["work", ""], timeout=5000)
