"""Every key and click reaches exactly one life: the real guest counts on its screen, the person's editor saves what it got."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest
from Xlib import X, display

from tests.harness.xserver import XServer
from tests.vm.whole.conftest import Sight, Whole, until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]
GAPS = (0.0, 0.0, 0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05)


class Catcher:
    """A window of the person's own that writes down the buttons pressed in it; it takes no focus."""

    def __init__(self, server: XServer, x: int, y: int) -> None:
        self._display = display.Display(server.name)
        self.window = self._display.screen().root.create_window(
            x, y, 100, 100, 0, 24, background_pixel=0xFFAA00, override_redirect=True, event_mask=X.ButtonPressMask
        )
        self.window.map()
        self._display.sync()
        self.clicks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._stop.wait(0.002):
            while self._display.pending_events():
                self.clicks += self._display.next_event().type == X.ButtonPress

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._display.close()


@pytest.fixture
def catcher(desk: Sight) -> Iterator[Catcher]:
    desk.to_personal()
    made = Catcher(desk.server, 900, 400)
    yield made
    made.close()


def saved(desk: Sight) -> str:
    """What the person's editor holds, by its own saving."""
    desk.to_personal()
    stamp = desk.note.stat().st_mtime_ns
    desk.hands.key("s", "Control_L")
    until(lambda: desk.note.stat().st_mtime_ns != stamp, "the editor's saving", 10)
    time.sleep(0.3)
    return desk.note.read_text().replace("\n", "")


def test_a_key_after_the_switch_key_is_the_new_sides(whole: Whole, desk: Sight, soak: bool) -> None:
    """Letters are typed right after going back, digits right after going to Work; the guest's own field shows what it got."""
    whole.launch("twofold-probe-text")
    desk.to_work()
    until(lambda: desk.text() == "", "the guest's text field")
    before = desk.settled()[0].presses
    desk.to_personal()
    kept = desk.note.read_text().replace("\n", "")
    letters, digits, chance = "", "", random.Random(1)
    for index in range(400 if soak else 60):
        gap = chance.choice(GAPS)
        digit, letter = str(index % 10), chr(ord("a") + index % 26)
        desk.hands.key("Pause")
        time.sleep(gap)
        desk.hands.key(digit)
        digits += digit
        desk.wait_said("live", True, 10)
        time.sleep(chance.uniform(0.02, 0.08))
        desk.hands.key("Pause")
        time.sleep(gap)
        desk.hands.key(letter)
        letters += letter
        desk.wait_said("shown", False, 10)
        time.sleep(chance.uniform(0.0, 0.05))
        if index % 20 == 19:
            desk.to_work()
            until(lambda tail=digits[-24:]: desk.text() == tail, f"{digits[-24:]!r} in the guest", 5)  # type: ignore[misc]
            desk.to_personal()
    got = saved(desk)
    desk.to_work()
    arrived = desk.settled()[0].presses - before
    print(
        f"\n{len(letters) + len(digits)} keys at gaps of 0 to 50 ms: {arrived} in Work, {len(got) - len(kept)} in the editor"
    )
    assert got == kept + letters
    assert arrived == len(digits), "the switch key or another key reached the guest too, or one was lost"


def test_keys_while_switching_to_and_fro_reach_the_last_side_or_nobody(desk: Sight, soak: bool) -> None:
    """Both switches and both keys without waiting for anything: a key may be dropped, never be on the wrong side."""
    desk.to_work()
    before = desk.settled()[0].presses
    desk.to_personal()
    kept, letters, rounds = desk.note.read_text().replace("\n", ""), "", 200 if soak else 40
    for index in range(rounds):
        letter = chr(ord("a") + index % 26)
        desk.hands.key("Pause")
        desk.hands.key("7")
        time.sleep(GAPS[index % len(GAPS)])
        desk.hands.key("Pause")
        desk.hands.key(letter)
        letters += letter
        time.sleep(0.03)
    desk.wait_said("shown", False, 10)
    got = saved(desk)
    desk.to_work()
    arrived = desk.settled()[0].presses - before
    assert got == kept + letters
    assert arrived <= rounds
    assert set(desk.text() or "") <= set("0123456789"), f"the guest got {desk.text()!r}"
    print(f"\n{arrived} of {rounds} digits in Work, the rest dropped; all {rounds} letters in the editor")


@pytest.mark.parametrize("way", ["out", "in"])
def test_a_click_after_the_switch_key_is_the_new_sides_or_nobodys(
    desk: Sight, catcher: Catcher, soak: bool, way: str
) -> None:
    desk.to_work()
    before = desk.settled()[1].buttons
    desk.to_personal()
    rounds = 300 if soak else 60
    for index in range(rounds):
        desk.to_work() if way == "out" else desk.to_personal()
        desk.hands.move(950, 450)
        time.sleep(0.02)
        desk.hands.key("Pause")
        time.sleep(GAPS[index % len(GAPS)])
        desk.hands.button(True)
        desk.hands.button(False)
        desk.wait_said("shown", way == "in", 10)
        time.sleep(0.02)
    desk.to_work()
    guest = (desk.settled()[1].buttons - before) % 4096
    print(f"\ngoing {way}: {rounds} clicks, {guest} in Work, {catcher.clicks} in the person's window")
    if way == "out":
        assert guest == 0, f"{guest} of {rounds} clicks reached Work after it was put away"
        assert 0 < catcher.clicks <= rounds
    else:
        assert catcher.clicks == 0, f"{catcher.clicks} of {rounds} clicks reached the person's window under Work"
        assert guest <= rounds


def active(desk: Sight) -> int:
    """The person's active window."""
    return of_root(desk, "_NET_ACTIVE_WINDOW")


def of_root(desk: Sight, name: str) -> int:
    """What the person's window manager says of the whole screen (EWMH), as a number."""
    connection = display.Display(desk.server.name)
    try:
        got = connection.screen().root.get_full_property(connection.intern_atom(name), X.AnyPropertyType)
        return int(got.value[0]) if got is not None and len(got.value) else 0
    finally:
        connection.close()


def test_alt_tab_super_and_alt_f4_belong_to_the_side_in_front(whole: Whole, desk: Sight) -> None:
    desk.to_personal()
    first = active(desk)
    environment = desk.server.environment(GSETTINGS_BACKEND="memory", NO_AT_BRIDGE="1")
    own = whole.stage.start(["mousepad", "--disable-server"], environment, log=desk._log("second"))
    until(lambda: active(desk) not in (0, first), "the person's second window")
    second = active(desk)

    desk.to_work()
    for app in ("galculator", "twofold-probe-text"):
        if app not in whole.apps():
            whole.launch(app)
            until(lambda app=app: app in whole.apps(), app, 40)  # type: ignore[misc]
    time.sleep(0.5)
    front = whole.apps()[-1]
    desk.chord("Tab", "Alt_L")
    until(lambda: whole.apps()[-1] != front, "another of the guest's windows after Alt+Tab")
    assert (desk.said["shown"], active(desk)) == (True, second), "Alt+Tab in Work did something on the personal side"
    desk.wait_still(10)
    shown = desk.guest.copy()
    desk.chord("d", "Super_L")
    desk.screen.wait(lambda _: bool((desk.guest != shown).mean() > 0.03), 10)
    desk.chord("d", "Super_L")
    desk.wait_still(10)
    assert not of_root(desk, "_NET_SHOWING_DESKTOP"), "Super in Work did something on the personal side"

    if whole.apps()[-1] != "galculator":
        desk.chord("Tab", "Alt_L")
        until(lambda: whole.apps()[-1] == "galculator", "the calculator in front")
    desk.chord("F4", "Alt_L")
    until(lambda: "galculator" not in whole.apps(), "the calculator's end")
    assert desk.said["shown"] and desk.switcher.poll() is None and own.poll() is None

    presses = desk.settled()[0].presses
    desk.to_personal()
    desk.chord("Tab", "Alt_L")
    until(lambda: active(desk) == first, "the person's first window after Alt+Tab")
    desk.chord("Tab", "Alt_L")
    until(lambda: active(desk) == second, "the person's second window after Alt+Tab")
    for bare in (1, 0):
        desk.chord("d", "Super_L")
        until(lambda bare=bare: of_root(desk, "_NET_SHOWING_DESKTOP") == bare, "the desktop")  # type: ignore[misc]
    until(lambda: active(desk) == second, "the person's second window, in front again")
    desk.chord("F4", "Alt_L")
    until(lambda: own.poll() is not None, "the end of the person's second window")
    desk.to_work()
    assert desk.settled()[0].presses == presses, "the personal side's keys reached the guest"
    assert "twofold-probe-text" in whole.apps()
