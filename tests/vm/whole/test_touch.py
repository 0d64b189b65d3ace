"""A finger on the switcher is a finger in the guest: the guest's X server counts touches, and shows where the last one began."""

from __future__ import annotations

import time
from contextlib import closing, nullcontext

import pytest

from tests.harness.touchscreen import DUMMY, XORG, Asked, Fingers, touchscreen
from tests.vm.whole.conftest import OUT, Sight, Whole, until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]


def taps(desk: Sight) -> None:
    desk.to_work()
    x, y, width, height = desk.said["guest"]
    before = desk.settled()[1]
    for number, (across, down) in enumerate(((0.5, 0.5), (0.25, 0.75), (0.9, 0.9)), 1):
        desk.tap(x + round(width * across), y + round(height * down))
        count = before.touches + number
        until(lambda count=count: desk.marks()[1].touches == count % 4096, f"touch {number}")  # type: ignore[misc]
        seen = desk.marks()[1]
        assert abs(seen.x - across) < 2 / width and abs(seen.y - down) < 2 / height, f"{across}, {down} became {seen}"
    time.sleep(0.3)
    assert desk.marks()[1].touches == (before.touches + 3) % 4096


def test_a_pointer_as_touch_is_a_touch_in_the_guest(whole: Whole) -> None:
    with whole.desk(1280, 800, "--pointer-as-touch", editor=False) as desk:
        taps(desk)


def test_a_phones_tap_is_a_touch_where_it_was_made(whole: Whole) -> None:
    with whole.desk(412, 915, phone=True, editor=False) as desk:
        taps(desk)
        desk.wait_still(10)
        desk.shot("desktop")


def test_a_mouse_is_no_touch(whole: Whole) -> None:
    # A desk of its own, gone before the next: a machine's display has one holder, and two switchers would fight for it.
    with whole.desk(editor=False) as desk:
        desk.to_work()
        x, y, width, height = desk.said["guest"]
        before = desk.settled()[1]
        desk.hands.click(x + width - 30, y + height // 2)
        until(lambda: desk.marks()[1].buttons == (before.buttons + 1) % 4096, "the guest's button press")
        assert desk.settled()[1].touches == before.touches


@pytest.mark.skipif(not (XORG.exists() and DUMMY.exists()), reason="no xserver-xorg-core and xserver-xorg-video-dummy")
def test_real_fingers_on_a_real_touch_device(whole: Whole, soak: bool) -> None:
    """Two fingers at once; then fingers right after the switch key, which Work must never feel once it was put away."""
    with (
        touchscreen() as (server, fingers),
        closing(Asked(server)) as screen,
        Sight(whole.stage, OUT, 1280, 800, phone=False, server=nullcontext(server), look=lambda _: screen) as desk,
    ):
        desk.open_switcher()
        desk.wait_said("run", "running", 20)
        desk.to_work()
        before = desk.settled()[1]
        x, y, width, height = desk.said["guest"]

        def at(across: float, down: float) -> tuple[float, float]:
            return (x + width * across) / server.width, (y + height * down) / server.height

        fingers.down(1, *at(0.75, 0.5))
        fingers.down(2, *at(0.25, 0.25))
        time.sleep(1)
        assert desk.marks()[1].touches == (before.touches + 2) % 4096, (
            f"two touches became {before} to {desk.marks()[1]}"
        )
        fingers.move(2, *at(0.3, 0.3))
        fingers.up(2, *at(0.3, 0.3))
        fingers.up(1, *at(0.75, 0.5))
        seen = desk.settled()[1]
        assert abs(seen.x - 0.25) < 0.003 and abs(seen.y - 0.25) < 0.003, seen
        assert seen.touches == (before.touches + 2) % 4096

        rounds = 60 if soak else 20
        felt = [
            _after_the_key(desk, fingers, at(0.5, 0.5), gap) for gap in (0.0, 0.0, 0.002, 0.01, 0.05) * (rounds // 5)
        ]
        print(f"\n{rounds} fingers right after Work was put away: {sum(felt)} felt there")
        assert sum(felt) == 0


def _after_the_key(desk: Sight, fingers: Fingers, place: tuple[float, float], gap: float) -> int:
    desk.to_work()
    before = desk.marks()[1].touches
    desk.switch()
    desk.hands.sync()  # the finger comes another way than the key: only so is it surely later
    time.sleep(gap)
    fingers.down(3, *place)
    time.sleep(0.02)
    fingers.up(3, *place)
    desk.wait_said("shown", False, 10)
    desk.to_work()
    after = desk.settled()[1].touches
    desk.to_personal()
    return (after - before) % 4096
