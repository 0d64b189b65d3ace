"""The keyboard gate on a real X server with a window manager: every key at exactly one side, in order, at every gap."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from Xlib import X, Xutil, display

from tests.harness.injector import Injector
from tests.harness.xserver import XServer, window_manager, xserver
from twofold.model.errors import ConflictError, UsageError
from twofold.switcher import xkeys
from twofold.switcher.gate import Gate
from twofold.switcher.side import Layout, Locks, Moved, Side

GAPS = (0.0, 0.0, 0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.012, 0.02, 0.03, 0.05)


class Recorder:
    """A guest that writes down what reaches it."""

    def __init__(self) -> None:
        self.pressed: list[int] = []
        self.released: list[int] = []
        self.let_go = 0
        self.last_locks: Locks | None = None

    def key(self, code: int, down: bool) -> None:
        (self.pressed if down else self.released).append(code + 8)

    def release_all(self) -> None:
        self.let_go += 1

    def locks(self, locks: Locks) -> None:
        self.last_locks = locks


class Personal:
    """The person's own window: managed, with the focus, writing down what reaches it."""

    def __init__(self, server: XServer) -> None:
        self._display = display.Display(server.name)
        root = self._display.screen().root
        mask = X.KeyPressMask | X.ButtonPressMask | X.StructureNotifyMask
        self.window = root.create_window(100, 100, 400, 300, 0, 24, background_pixel=0xFFFFFF, event_mask=mask)
        self.window.set_wm_normal_hints(flags=Xutil.USPosition | Xutil.USSize)
        self.window.map()
        self._display.sync()
        self.keys: list[int] = []
        self.clicks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._stop.is_set():
            while self._display.pending_events():
                event: Any = self._display.next_event()
                if event.type == X.KeyPress:
                    self.keys.append(event.detail)
                elif event.type == X.ButtonPress:
                    self.clicks += 1
            time.sleep(0.001)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._display.close()


class Bench:
    def __init__(self, server: XServer) -> None:
        self.server, self.guest, self.personal = server, Recorder(), Personal(server)
        self._owner = display.Display(server.name)
        self.work = self._owner.screen().root.create_window(
            0, 0, server.width, server.height, 0, 24, background_pixel=0x0B6BB0, override_redirect=True,
            event_mask=X.KeyPressMask | X.ButtonPressMask,
        )  # fmt: skip
        self._owner.sync()
        self.moves: list[Moved] = []
        self.layouts: list[Layout] = []
        self.chords: list[str] = []
        self.gate = Gate(
            self.work.id, self.guest, name=server.name,
            on_move=self.moves.append, on_chord=self.chords.append, on_layout=self.layouts.append,
        )  # fmt: skip
        self.gate.start()
        self.hands = Injector(server)
        deadline = time.monotonic() + 5
        watched = self._owner.create_resource_object("window", self.personal.window.id)
        while getattr(self._owner.get_input_focus().focus, "id", 0) != self.personal.window.id:
            if watched.get_attributes().map_state == X.IsViewable:
                watched.set_input_focus(X.RevertToParent, X.CurrentTime)
            assert time.monotonic() < deadline, "the personal window never got the focus"
            time.sleep(0.02)

    def side(self, side: Side) -> None:
        if self.gate.side is not side:
            self.hands.key("Pause")
            self.settle(side)

    def settle(self, side: Side) -> None:
        deadline = time.monotonic() + 5
        while self.gate.side is not side:
            assert time.monotonic() < deadline, f"the gate never came to {side}"
            time.sleep(0.002)

    def work_typed(self) -> list[int]:
        """Keys that our own window got by focus."""
        got = []
        while self._owner.pending_events():
            event: Any = self._owner.next_event()
            if event.type == X.KeyPress:
                got.append(event.detail)
        return got

    def close(self) -> None:
        self.gate.close()
        self.hands.close()
        self.personal.close()
        self._owner.close()


@pytest.fixture(scope="module")
def server() -> Iterator[XServer]:
    with xserver() as made, window_manager(made):
        yield made


@pytest.fixture
def bench(server: XServer) -> Iterator[Bench]:
    made = Bench(server)
    yield made
    made.close()


def expect(bench: Bench, personal: list[int], guest: list[int]) -> None:
    """Wait until as many keys have arrived as were typed; then each must be where it belongs."""
    deadline = time.monotonic() + 3
    while len(bench.personal.keys) + len(bench.guest.pressed) < len(personal) + len(guest):
        if time.monotonic() > deadline:
            break
        time.sleep(0.002)
    time.sleep(0.005)  # room for a key too many
    assert (bench.personal.keys, bench.guest.pressed) == (personal, guest)


@pytest.mark.timeout(600)
def test_every_key_lands_on_exactly_one_side_at_every_gap(bench: Bench, soak: bool) -> None:
    """Hundreds of switches, both ways: keys before the switch key at the old side, keys after it at the new, in order."""
    dice = random.Random(7)
    before, first, second, switch = (bench.hands.code(name) for name in ("b", "x", "y", "Pause"))
    for turn in range(2000 if soak else 300):
        to_work = bench.gate.side is Side.PERSONAL
        bench.personal.keys.clear()
        bench.guest.pressed.clear()
        held = dice.random() < 0.4
        for down in (True, False):
            bench.hands.press_code(before, down)
        bench.hands.press_code(switch, True)
        if not held:
            bench.hands.press_code(switch, False)
        time.sleep(GAPS[turn % len(GAPS)])
        for code in (first, second):
            bench.hands.press_code(code, True)
            bench.hands.press_code(code, False)
        if held:
            bench.hands.press_code(switch, False)
        bench.settle(Side.WORK if to_work else Side.PERSONAL)
        old, new = [before], [first, second]
        expect(bench, personal=old if to_work else new, guest=new if to_work else old)
    assert switch not in bench.guest.released


def test_the_pointer_is_held_until_work_stands(bench: Bench) -> None:
    spot = bench.personal.window.translate_coords(bench.server and bench.work, 0, 0)
    bench.hands.move(abs(spot.x) + 150, abs(spot.y) + 120)
    for _ in range(40):
        bench.side(Side.PERSONAL)
        bench.personal.clicks = 0
        bench.hands.key("Pause")
        bench.hands.button(True)
        bench.hands.button(False)
        bench.settle(Side.WORK)
        time.sleep(0.005)
        assert bench.personal.clicks == 0


def test_a_held_key_is_pressed_once_and_a_held_switch_key_switches_once(bench: Bench) -> None:
    bench.side(Side.WORK)
    bench.hands.down("a")
    time.sleep(1.2)
    bench.hands.up("a")
    time.sleep(0.05)
    assert bench.guest.pressed == [bench.hands.code("a")] == bench.guest.released
    bench.moves.clear()
    bench.hands.key("Pause", hold=1.2)
    time.sleep(0.1)
    assert [moved.side for moved in bench.moves] == [Side.PERSONAL]


def test_leaving_lets_go_of_everything_in_the_guest(bench: Bench) -> None:
    bench.side(Side.WORK)
    bench.hands.down("Shift_L")
    time.sleep(0.02)
    before = bench.guest.let_go
    bench.hands.key("Pause")
    bench.settle(Side.PERSONAL)
    bench.hands.up("Shift_L")
    assert bench.guest.let_go > before


def test_alt_tab_super_and_alt_f4_reach_the_guest_and_not_the_window_manager(bench: Bench) -> None:
    bench.side(Side.WORK)
    bench.hands.key("Tab", "Alt_L")
    bench.hands.key("F4", "Alt_L")
    bench.hands.key("Super_L")
    expect(bench, [], [bench.hands.code(name) for name in ("Alt_L", "Tab", "Alt_L", "F4", "Super_L")])
    bench.side(Side.PERSONAL)
    assert bench.personal.window.get_attributes().map_state == X.IsViewable


def test_our_own_search_line_gets_keys_typed_at_once_and_the_person_gets_the_focus_back(bench: Bench) -> None:
    bench.side(Side.WORK)
    word, space = [bench.hands.code(name) for name in "xyz"], bench.hands.code("space")
    for _ in range(20):
        bench.guest.pressed.clear()
        bench.hands.key("space", "Control_L")
        for code in word:
            bench.hands.press_code(code, True)
            bench.hands.press_code(code, False)
        bench.settle(Side.TYPING)
        time.sleep(0.03)
        assert bench.work_typed() == word
        assert space not in bench.guest.pressed
        bench.gate.wish(Side.WORK)
        bench.settle(Side.WORK)
    bench.hands.key("space", "Control_L")
    bench.settle(Side.TYPING)
    bench.personal.keys.clear()
    bench.hands.key("Pause")
    bench.hands.key("a")
    bench.settle(Side.PERSONAL)
    time.sleep(0.05)
    assert bench.personal.keys == [bench.hands.code("a")]


def test_work_lets_go_of_the_keyboard_when_the_screen_blanks(bench: Bench) -> None:
    bench.side(Side.WORK)
    bench._owner.force_screen_saver(X.ScreenSaverActive)
    bench._owner.sync()
    bench.settle(Side.PERSONAL)
    assert (
        bench._owner.screen().root.grab_keyboard(False, X.GrabModeAsync, X.GrabModeAsync, X.CurrentTime)
        == X.GrabSuccess
    )
    bench._owner.ungrab_keyboard(X.CurrentTime)
    bench._owner.force_screen_saver(X.ScreenSaverReset)
    bench._owner.sync()


def test_chords_choose_a_workspace_and_their_digit_reaches_nobody(bench: Bench) -> None:
    bench.side(Side.WORK)
    bench.hands.key("2", "Control_L", "Alt_L")
    time.sleep(0.05)
    assert bench.chords == ["2"]
    assert bench.hands.code("2") not in bench.guest.pressed


@pytest.mark.parametrize("code", [116, 142, 143, 205])
def test_the_power_key_is_the_devices_own(bench: Bench, code: int) -> None:
    """A phone's owner makes the screen dark while Work is in front; the guest would shut down."""
    bench.side(Side.WORK)
    for down in (True, False):
        bench.hands.press_code(code + 8, down)
    bench.hands.key("a")
    expect(bench, [], [bench.hands.code("a")])
    assert code + 8 not in bench.guest.released


def test_caps_lock_is_told_on_entering(bench: Bench) -> None:
    bench.hands.key("Caps_Lock")
    bench.side(Side.WORK)
    assert bench.guest.last_locks == Locks(caps=True, num=False)
    bench.side(Side.PERSONAL)
    bench.hands.key("Caps_Lock")
    bench.side(Side.WORK)
    assert bench.guest.last_locks == Locks(caps=False, num=False)


def test_the_layout_is_told_and_followed(bench: Bench) -> None:
    deadline = time.monotonic() + 5
    while not bench.layouts and time.monotonic() < deadline:
        time.sleep(0.01)
    assert bench.layouts[-1].layout == "us"
    from twofold.platform.run import run

    run(["setxkbmap", "de,fr", ",oss"], env=bench.server.environment())
    while bench.layouts[-1].layout == "us" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert bench.layouts[-1] == Layout(bench.layouts[-1].model, "de,fr", ",oss", "")
    run(["setxkbmap", "us"], env=bench.server.environment())


def test_repeat_of_the_switch_key_is_given_back(server: XServer) -> None:
    made = Bench(server)
    connection = display.Display(server.name)
    code = made.hands.code("Pause")
    assert not xkeys.repeats(connection, code)
    made.close()
    assert xkeys.repeats(connection, code)
    connection.close()


def test_a_key_that_is_taken_or_unknown_is_refused_in_words(bench: Bench) -> None:
    with pytest.raises(ConflictError, match="already uses the key Pause"):
        Gate(bench.work.id, Recorder(), name=bench.server.name)
    with pytest.raises(UsageError, match="no key called Nonsense"):
        Gate(bench.work.id, Recorder(), name=bench.server.name, key="Nonsense")


@pytest.mark.parametrize(
    ("names", "group", "wanted"),
    [
        (b"evdev\0pc105\0us\0\0\0", 0, Layout("pc105", "us", "", "")),
        (
            b"evdev\0pc105\0us,de\0,nodeadkeys\0compose:ralt\0",
            1,
            Layout("pc105", "de,us", "nodeadkeys,", "compose:ralt"),
        ),
        (b"evdev\0pc105\0us\0", 0, None),
        (b"evdev\0pc105\0u$(id)\0\0\0", 0, None),
        (b"evdev\0pc105\0\0\0\0", 0, None),
        (b"evdev\0pc105\0fr\0\0\0", 3, Layout("pc105", "fr", "", "")),
    ],
)
def test_names_of_the_layout_are_read_with_care(names: bytes, group: int, wanted: Layout | None) -> None:
    assert xkeys.layout(names, group) == wanted


def test_a_click_after_the_switch_key_is_known_for_one_however_soon_it_is_asked(bench: Bench, soak: bool) -> None:
    """What the window hears of a click, and when, is not the order of things; the gate's answer is."""
    rounds = 1000 if soak else 60
    for _ in range(rounds):
        bench.side(Side.WORK)
        assert bench.gate.still_work()
        bench.hands.key("a")  # waits in the server before the switch key, which must be seen through it
        bench.hands.key("Pause")
        bench.hands.sync()
        assert not bench.gate.still_work()
    bench.settle(Side.PERSONAL)
    assert len(bench.guest.pressed) == rounds


def test_chords_as_fast_as_they_come_are_all_told_in_order(bench: Bench) -> None:
    bench.side(Side.WORK)
    for _ in range(10):
        bench.chords.clear()
        wanted = ["1", "2"] * 10 + ["1"]
        for digit in wanted:
            bench.hands.key(digit, "Control_L", "Alt_L")
        bench.hands.sync()
        deadline = time.monotonic() + 5
        while len(bench.chords) < len(wanted) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert bench.chords == wanted
    assert not {bench.hands.code("1"), bench.hands.code("2")} & set(bench.guest.pressed)
