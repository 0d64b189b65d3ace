"""What the switcher says and finds, without a screen: cards, pills, pages, the launcher's search, icons, honesty."""

from __future__ import annotations

import base64
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.model.errors import BadInputError
from twofold.model.workspace import RunState
from twofold.switcher.capabilities import session
from twofold.switcher.card import Card, ago, clock, lease, pills
from twofold.switcher.launcher import App, icon, matching
from twofold.switcher.notices import notice
from twofold.switcher.session import Keys
from twofold.switcher.side import Locks

WIRE: dict[str, Any] = {
    "workspace": "work", "title": "Acme", "colour": "#0b6bb0", "key": 1, "custody": "checked-out", "run": "running",
    "whereabouts": {"in_memory": True, "on_disk_verified_at": 1000, "on_server_at": 0}, "image": "i", "version": 1,
    "accelerator": "tcg", "agent_up": True, "session_up": True, "error": None, "policy": {"sound_out": True}, "expires": 0,
    "pid": 1, "memory_stored": False, "launched_at": 0, "has_agent": True,
}  # fmt: skip


def card(**changes: Any) -> Card:
    return Card.from_wire(WIRE | changes)


def test_the_three_facts_are_told_apart_and_never_dressed_up() -> None:
    memory, disk, server = pills(card())
    assert (memory.sure, disk.sure, server.sure) == (True, True, False)
    assert disk.text == f"on this disk · {clock(1000)}"
    assert server.text == "not on the server"
    off = pills(card(run="off", whereabouts={"in_memory": False, "on_disk_verified_at": 0, "on_server_at": 0}))
    assert not any(pill.sure for pill in off)


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "just now"), (180, "3 min ago"), (7300, "2 h ago"), (180_000, "2 d ago")]
)
def test_ago(seconds: int, words: str) -> None:
    assert ago(1000, 1000 + seconds) == words


def test_a_lease_that_ended_says_so() -> None:
    assert lease(card(expires=1)) == "lease ended"
    assert lease(card(expires=int(time.time()) + 90 * 3600)).startswith("offline until ")
    assert lease(card()) == ""


def test_what_is_not_all_here_is_not_called_offline() -> None:
    later = int(time.time()) + 90 * 3600
    assert lease(card(expires=later, base={"here": 439, "of": 1000})) == "online only · 43 % here"
    assert lease(card(base={"here": 0, "of": 1000})) == "online only · 0 % here"
    assert lease(card(expires=later, base={"here": 1000, "of": 1000})).startswith("offline until ")
    assert lease(card(expires=1, base={"here": 0, "of": 1000})) == "lease ended"


def test_a_pause_that_nobody_asked_for_says_why() -> None:
    why = {"code": "no-room", "happened": "The disk is full.", "safe": "Nothing is lost.", "next": "Free some space."}
    page = notice(card(run="paused", error=why))
    assert page is not None
    assert page.text == "The disk is full.\nFree some space."
    assert page.safe == "Nothing is lost."


@pytest.mark.parametrize("run", [state for state in RunState if state is not RunState.RUNNING])
def test_every_state_without_a_desktop_has_a_page(run: RunState) -> None:
    page = notice(card(run=run))
    assert page is not None
    assert page.head
    assert page.busy or page.button, "a page must be going on by itself or offer a step"


def test_a_broken_workspace_says_what_happened_what_is_safe_and_what_next() -> None:
    error = {"code": "damaged", "happened": "It is torn.", "safe": "The server has it.", "next": "Get it again."}
    page = notice(card(run="broken", error=error))
    assert page is not None
    assert (page.text, page.safe) == ("It is torn.\nGet it again.", "The server has it.")


def test_sound_is_off_unless_the_policy_allows_it() -> None:
    assert card().sound_out
    assert not card(policy={}).sound_out
    assert not card(policy={"sound_out": "yes"}).sound_out


@given(
    st.dictionaries(
        st.sampled_from(sorted(WIRE)), st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers()))
    )
)
def test_a_malformed_workspace_is_refused_or_read_never_worse(changes: dict[str, Any]) -> None:
    try:
        card(**changes)
    except BadInputError:
        pass


APPS = [
    App("org.gnumeric", "Gnumeric", "Spreadsheet", "sum table", ""),
    App("mousepad", "Mousepad", "Simple text editor", "notes", ""),
    App("galculator", "Calculator", "Perform simple calculations", "", ""),
    App("thunar", "File Manager", "Browse files", "", ""),
]


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("cal", "Calculator"),
        ("spread", "Gnumeric"),
        ("note", "Mousepad"),
        ("galc", "Calculator"),
        ("man", "File Manager"),
    ],
)
def test_applications_are_found_by_name_id_and_what_they_are_for(typed: str, first: str) -> None:
    assert matching(APPS, typed)[0].name == first


def test_search_keeps_the_order_that_people_expect() -> None:
    assert [app.name for app in matching(APPS, "")] == ["Calculator", "File Manager", "Gnumeric", "Mousepad"]
    assert matching(APPS, "no such thing") == []


def png(width: int, height: int) -> bytes:
    from io import BytesIO

    from PIL import Image

    out = BytesIO()
    Image.new("RGBA", (width, height), (255, 0, 0, 255)).save(out, "PNG")
    return out.getvalue()


def test_an_icon_is_a_small_png_or_nothing() -> None:
    image = icon(base64.b64encode(png(48, 48)).decode())
    assert image is not None
    assert (image.width(), image.height()) == (48, 48)
    assert icon(base64.b64encode(png(300, 10)).decode()) is None
    assert icon(base64.b64encode(b"GIF89a").decode()) is None
    assert icon("not base64!") is None
    lying = bytearray(png(300, 300))
    lying[16:24] = (10).to_bytes(4, "big") * 2
    assert icon(base64.b64encode(bytes(lying)).decode()) is None


@given(st.binary(max_size=300))
def test_noise_is_no_icon(noise: bytes) -> None:
    assert icon(base64.b64encode(b"\x89PNG\r\n\x1a\n" + noise).decode()) is None


class Machine:
    """What `Keys` needs of a display; writes down what it is given."""

    def __init__(self) -> None:
        self.got: list[tuple[int, bool]] = []
        self.lamps: list[tuple[bool, bool]] = []
        self.let_go = 0

    def key(self, code: int, down: bool) -> None:
        self.got.append((code, down))

    def locks(self, caps: bool, num: bool) -> None:
        self.lamps.append((caps, num))

    def release_all(self) -> None:
        self.let_go += 1


def test_keys_wait_for_their_machine_and_go_to_no_other() -> None:
    keys, one, two = Keys(), Machine(), Machine()
    keys.aim(one, live=False)  # type: ignore[arg-type]
    keys.locks(Locks(caps=True, num=False))
    keys.key(30, True)
    keys.key(30, False)
    assert (one.got, keys.waiting) == ([], 1)
    keys.aim(one, live=True)  # type: ignore[arg-type]
    assert one.got == [(30, True), (30, False)]
    assert one.lamps == [(True, False)]
    keys.aim(one, live=False)  # type: ignore[arg-type]
    keys.key(31, True)
    keys.aim(two, live=True)  # type: ignore[arg-type]
    assert two.got == [], "what was typed for one workspace must not reach another"
    assert one.let_go == 1


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({"DISPLAY": ":0"}, "x11"),
        ({"DISPLAY": ":0", "WAYLAND_DISPLAY": "wayland-0", "XDG_SESSION_TYPE": "wayland"}, "xwayland"),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "wayland"),
        ({}, "none"),
    ],
)
def test_a_session_is_judged_honestly(environment: dict[str, str], kind: str) -> None:
    found = session(environment)
    assert found.kind == kind
    assert found.complete == (kind == "x11")
    assert found.lacks


def test_qt_calls_leave_reference_counts_alone() -> None:
    """PySide6 6.12.0 took a reference from None with each void call (docs/decisions/0005); enough of them ended the program."""
    from PySide6.QtCore import QObject

    something = QObject()
    before = sys.getrefcount(None)
    for _ in range(2000):
        something.setObjectName("x")
    assert abs(sys.getrefcount(None) - before) < 200
