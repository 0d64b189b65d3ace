"""What a person can have done in the switcher: the unlock code, checking in, discarding, backing up, as the policy allows it.

The window is Qt's own on no screen; the agent at the other end of its socket is these tests."""

from __future__ import annotations

import gc
import hashlib
import os
import secrets
import string
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_switcher import WIRE, card
from tests.unit.test_switcher_notices import MOVING, POLICY, Line, Shown, where
from twofold.model.errors import ConflictError, RefusedError
from twofold.switcher import forms
from twofold.switcher.secret import LIMIT, Secret

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
MAY = POLICY | {"checkin": True, "discard": True}
LOSS = {"backed_up": int(time.time()) - 3600, "seconds": 3600, "changed": 12_300_000, "open": True}
JOB = MOVING | {"whole": 48_000_000}


# Words


def test_what_the_policy_forbids_is_shown_as_not_allowed_with_the_reason() -> None:
    may = forms.details(card(policy=MAY))
    assert [row.choice and row.choice.verb for row in may.rows] == ["backup", forms.CHECK_IN, forms.DISCARD]
    no = forms.details(card(policy=MAY | {"replicate": False, "checkin": False, "discard": False}))
    assert [row.choice for row in no.rows] == [None] * 3
    assert all("Your company does not let it" in row.text for row in no.rows)
    coded = forms.details(card(policy=MAY | {"unlock": True}, code="open"))
    assert coded.rows[-1].choice is not None and coded.rows[-1].choice.verb == forms.CODE


@pytest.mark.parametrize(
    ("run", "said"), [("running", "go on working"), ("suspended", "is woken"), ("off", "What is new is backed up, and")]
)
def test_a_check_in_says_what_happens(run: str, said: str) -> None:
    form = forms.check_in(card(run=run, policy=MAY))
    words = " ".join(text for _, text in form.text)
    assert said in words
    assert ("not saved" in words) == (run != "off"), "nothing is lost where nothing is open"


@pytest.mark.parametrize(
    ("changed", "opened", "lost"),
    [(12_300_000, True, "12.3 MB written since"), (0, False, "nothing: all of it"), (0, True, "what is open in it now"),
     (None, False, "what was written since")],
)  # fmt: skip
def test_discarding_says_what_is_lost_and_what_is_safe(changed: int | None, opened: bool, lost: str) -> None:
    form = forms.discard(card(policy=MAY), LOSS | {"changed": changed, "open": opened})
    said = dict(form.text)
    assert lost in said[forms.LOST]
    assert "on the server at" in said[forms.SAFE] and "yours" in said[forms.SAFE]
    assert [each.verb for each in form.choices] == [forms.SAVED_DISCARD, "discard", forms.BACK]
    never = dict(forms.discard(card(policy=MAY), LOSS | {"backed_up": 0}).text)
    assert "never backed up" in never[forms.LOST] and "server" not in never[forms.SAFE]


@given(st.lists(st.one_of(st.text(max_size=8), st.none()), max_size=60))
def test_a_secret_is_what_was_typed_and_then_nothing(typed: list[str | None]) -> None:
    secret, expected = Secret(), ""
    for each in typed:
        if each is None:
            secret.back()
            expected = expected[:-1]
        else:
            with suppress(UnicodeEncodeError):
                secret.type(each)
                expected = (expected + "".join(char for char in each if char.isprintable()))[:LIMIT]
    assert len(secret) == len(expected)
    assert secret.take() == expected
    assert len(secret) == 0 and not any(secret._bytes)


# The window


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    made.cards = [WIRE | {"policy": MAY, "whereabouts": where(int(time.time()))}]
    yield made
    with suppress(OSError):
        made.ours.close()


@pytest.fixture
def shown(qtbot: Any, line: Line) -> Iterator[Shown]:
    made = Shown(qtbot, line)
    yield made
    made.close()


def reads(shown: Shown, name: str) -> None:
    sheet = shown.window.sheet
    shown.qtbot.waitUntil(lambda: (sheet.form.name if sheet.form else "") == name, timeout=5000)


def press(shown: Shown, spot: str) -> None:
    from PySide6.QtCore import Qt

    shown.window.sheet.repaint()
    shown.qtbot.mouseClick(shown.window.sheet, Qt.MouseButton.LeftButton, pos=shown.window.sheet.spots[spot].center())


def typed(shown: Shown, text: str) -> None:
    shown.qtbot.keyClicks(shown.window.sheet, text)


def asked(shown: Shown, verb: str, **args: Any) -> None:
    wanted = (verb, {"workspace": "work"} | args)
    shown.qtbot.waitUntil(lambda: wanted in shown.line.asked, timeout=5000)


def job(verb: str, state: str = "running", **more: Any) -> dict[str, Any]:
    return JOB | {"verb": verb, "state": state} | more


def test_the_code_is_asked_for_tried_and_it_starts(shown: Shown, line: Line) -> None:
    """A wrong one says how many tries are left; what was typed for the window waits for no guest."""
    line.answers["unlock"] = RefusedError("This is not the unlock code.", next="3 more tries, then it is locked.")
    locked = line.cards[0] | {"event": "workspace", "run": "off", "shut": "code", "code": "locked"}
    line.tell(**locked)
    reads(shown, "code")
    shown.qtbot.waitUntil(lambda: "typing" in shown.wished, timeout=5000)
    keys = shown.desk._keys
    keys.key(30, True)
    assert keys.waiting == 0, "it would be typed into the guest when that is live"
    typed(shown, "wrong one\r")
    asked(shown, "unlock", code="wrong one", new=False)
    sheet = shown.window.sheet
    shown.qtbot.waitUntil(lambda: sheet.form is not None and "3 more tries" in sheet.form.text[0][1], timeout=5000)
    assert all(len(each) == 0 for each in sheet.secrets)
    line.answers["unlock"] = {"code": "open"}
    typed(shown, "right one")
    press(shown, "give")
    asked(shown, "start")
    line.tell(**line.cards[0] | {"event": "workspace", "run": "starting", "code": "open"})
    reads(shown, "")


def test_no_copy_of_a_code_stays(shown: Shown, line: Line) -> None:
    """Neither in the line of what is asked, nor with an error that is shown."""
    code = "".join(secrets.choice(string.ascii_letters) for _ in range(40))
    line.answers["unlock"] = RefusedError("This is not the unlock code.", next="3 more tries, then it is locked.")
    line.tell(**line.cards[0] | {"event": "workspace", "run": "off", "shut": "code", "code": "locked"})
    reads(shown, "code")
    for char in code:
        typed(shown, char)
    digest = hashlib.sha256(code.encode()).digest()
    del code
    press(shown, "give")
    shown.qtbot.waitUntil(lambda: any(verb == "unlock" for verb, _ in line.asked), timeout=5000)
    line.asked.clear()  # these tests' own
    sheet = shown.window.sheet
    shown.qtbot.waitUntil(lambda: sheet.form is not None and "3 more" in sheet.form.text[0][1], timeout=5000)
    gc.collect()
    assert len(sheet.secrets[0]) == 0 and not any(sheet.secrets[0]._bytes)
    frames = [frame for thread in sys._current_frames().values() for frame in _outwards(thread)]
    held = [type(each) for each in [*gc.get_objects(), *frames] if _holds(each, digest)]
    assert held == []


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _holds(thing: object, digest: bytes, deep: int = 3) -> bool:
    """Whether it, or what lies in it, is that text; a frame holds its locals, whoever keeps it: a thread or a traceback."""
    if type(thing) is str:
        return len(thing) == 40 and hashlib.sha256(thing.encode()).digest() == digest
    if isinstance(thing, FrameType):
        return any(_holds(each, digest, deep - 1) for each in list(thing.f_locals.values()))
    kept: list[object] = []
    if type(thing) is dict:
        kept = list(thing.values())
    elif type(thing) in (list, tuple, set):
        kept = list(thing)  # type: ignore[call-overload]
    return deep > 0 and any(_holds(each, digest, deep - 1) for each in kept)


def test_a_code_is_chosen_twice_the_same(shown: Shown, line: Line) -> None:
    line.tell(**line.cards[0] | {"event": "workspace", "run": "off", "shut": "code", "code": ""})
    reads(shown, "new")
    typed(shown, "first one\rfirst two\r")
    sheet = shown.window.sheet
    shown.qtbot.waitUntil(lambda: sheet.form is not None and "not the same" in sheet.form.text[0][1], timeout=5000)
    assert not any(verb == "unlock" for verb, _ in line.asked)
    typed(shown, "first one\rfirst one\r")
    asked(shown, "unlock", code="first one", new=True)
    asked(shown, "start")


@pytest.mark.parametrize("answer_first", [True, False])
def test_too_many_wrong_codes_are_said_to_have_erased_it(shown: Shown, line: Line, answer_first: bool) -> None:
    """The answer and the event come on two connections, in any order."""
    gone = RefusedError("There were too many of them: Acme has been erased here.", safe="What was backed up is there.")
    line.tell(**line.cards[0] | {"event": "workspace", "run": "off", "shut": "code", "code": "locked"})
    reads(shown, "code")
    wipe = job("wipe", operation="x", total=0)
    page = shown.window.page
    if not answer_first:
        card_ = shown.desk.session.card if shown.desk.session else card()
        line.tell(**wipe)
        line.tell(event="removed", workspace="work")
        shown.qtbot.waitUntil(lambda: shown.desk.session is None, timeout=5000)
        shown.desk._clerk._wrong(card_, gone)
    else:
        line.answers["unlock"] = gone
        typed(shown, "wrong one\r")
        shown.qtbot.waitUntil(lambda: any(verb == "unlock" for verb, _ in line.asked), timeout=5000)
        shown.qtbot.waitUntil(lambda: bool(shown.desk._speaker._erased), timeout=5000)
        line.tell(**wipe)
        line.tell(event="removed", workspace="work")
    shown.qtbot.waitUntil(
        lambda: page.isVisible() and page._notice is not None and "erased here" in page._notice.head, timeout=5000
    )


def test_a_code_is_typed_by_touch_on_a_phone(qtbot: Any, line: Line) -> None:
    line.cards = [line.cards[0] | {"run": "off", "shut": "code", "code": "locked"}]
    shown = Shown(qtbot, line, phone=True)
    try:
        reads(shown, "code")
        for key in ("a", "⇧", "B", "123", "@", "abc", "space", "7", "x", "⌫"):
            press(shown, f"key {key}")
        assert len(shown.window.sheet.secrets[0]) == 5
        spots, inside = shown.window.sheet.spots, shown.window.sheet.rect()
        assert all(inside.contains(rect) and rect.width() >= 36 and rect.height() >= 44 for rect in spots.values())
        press(shown, "key ⏎")
        asked(shown, "unlock", code="aB@ 7", new=False)
    finally:
        shown.close()


def test_another_workspace_is_a_chord_away_from_one_that_wants_its_code(shown: Shown, line: Line) -> None:
    from PySide6.QtCore import Qt

    line.tell(**line.cards[0] | {"event": "workspace", "workspace": "other", "key": 2})
    line.tell(**line.cards[0] | {"event": "workspace", "run": "off", "shut": "code", "code": "locked"})
    reads(shown, "code")
    both = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.AltModifier
    typed(shown, "secret")
    shown.qtbot.keyClick(shown.window.sheet, Qt.Key.Key_2, both)
    reads(shown, "")
    assert shown.desk.session is not None and shown.desk.session.card.name == "other"
    assert len(shown.window.sheet.secrets[0]) == 0, "what was typed for one is nothing to another"
    shown.desk.bring("work")
    reads(shown, "code")
    shown.qtbot.keyClick(shown.window.sheet, Qt.Key.Key_0, both)
    assert shown.wished[-1:] == ["personal"]


def test_a_check_in_is_explained_watched_and_stopped(shown: Shown, line: Line) -> None:
    shown.press_bar("details")
    reads(shown, "details")
    shown.qtbot.waitUntil(lambda: shown.wished[-1:] == ["typing"], timeout=5000)
    press(shown, forms.CHECK_IN)
    reads(shown, forms.CHECK_IN)
    assert not any(verb == "checkin" for verb, _ in line.asked), "nothing was asked yet"
    press(shown, "checkin")
    asked(shown, "checkin", stop=True)
    line.tell(**job("checkin"))
    reads(shown, "going")
    form = shown.window.sheet.form
    assert form is not None
    shown.qtbot.waitUntil(lambda: (shown.window.sheet.form or form).share == 0.25, timeout=5000)
    press(shown, "stop")
    shown.qtbot.waitUntil(lambda: ("cancel", {"operation": "ab"}) in line.asked, timeout=5000)
    press(shown, "close")  # hidden, it is told of at the head of the guest
    reads(shown, "")
    shown.says("Checking Acme in")
    error = {"code": "timeout", "happened": "Acme did not shut down.", "safe": "It is still running.", "next": ""}
    line.tell(**job("checkin", "failed", error=error))
    shown.says("")
    assert "did not shut down" in shown.window.note._text


def test_a_check_in_that_fails_says_what_is_safe_and_one_that_ends_says_goodbye(shown: Shown, line: Line) -> None:
    shown.press_bar("details")
    reads(shown, "details")
    line.answers["checkin"] = ConflictError("Acme is busy.", safe="Nothing was changed.", next="Do:  twofold stop work")
    press(shown, forms.CHECK_IN)
    press(shown, "checkin")
    reads(shown, "failed")
    form = shown.window.sheet.form
    assert form is not None
    assert dict(form.text) == {forms.BAD: "Acme is busy.", forms.SAFE: "Nothing was changed."}, "no command line"
    del line.answers["checkin"]
    press(shown, "back")
    reads(shown, "details")
    press(shown, forms.CHECK_IN)
    press(shown, "checkin")
    line.tell(**job("checkin"))
    reads(shown, "going")
    line.tell(event="removed", workspace="work")
    reads(shown, "")
    page = shown.window.page
    shown.qtbot.waitUntil(
        lambda: page._notice is not None and "back with your company" in page._notice.head, timeout=5000
    )


def test_discarding_asks_the_agent_what_is_lost_and_then_the_person(shown: Shown, line: Line) -> None:
    shown.press_bar("details")
    reads(shown, "details")
    press(shown, forms.DISCARD)
    asked(shown, "loss")
    reads(shown, forms.DISCARD)
    sheet = shown.window.sheet
    assert "discard" not in sheet.spots, "not before it is known"
    shown.qtbot.waitUntil(lambda: ("job", {"operation": "ab"}) in line.asked, timeout=5000)
    line.tell(**job("loss", "done", result=LOSS))
    shown.qtbot.waitUntil(lambda: "discard" in sheet.spots, timeout=5000)
    from PySide6.QtCore import Qt

    shown.qtbot.keyClick(sheet, Qt.Key.Key_Return)
    asked(shown, "discard", yes=True, backup=True, stop=True)  # Enter is never the one that loses something


def test_a_back_up_is_watched_and_said_to_be_done(shown: Shown, line: Line) -> None:
    shown.press_bar("details")
    reads(shown, "details")
    press(shown, "backup")
    asked(shown, "backup")
    reads(shown, "going")
    shown.qtbot.waitUntil(lambda: ("job", {"operation": "ab"}) in line.asked, timeout=5000)
    line.tell(**job("backup", "done"))
    reads(shown, "done")
    press(shown, "close")
    reads(shown, "")
    shown.qtbot.waitUntil(lambda: shown.wished[-1:] == ["typing"] or "work" in shown.wished, timeout=5000)
