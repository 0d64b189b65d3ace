"""The emulated phone on its side: picture, touch and swipe follow how it is held. Photographs are as its owner sees them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from phone.build import handset as build
from phone.handset import HEIGHT, LEFT_UP, POWER, RIGHT_UP, UPRIGHT, WIDTH, Parts, Picture, differing, like, switched_on
from phone.person import EDGE, TERMINAL, UP, Person
from phone.software import software
from twofold.model.errors import MissingError

pytestmark = [pytest.mark.vm, pytest.mark.phone, pytest.mark.timeout(400)]
BAR, DOCK, GROUND = (0x12, 0x30, 0x1F), (0x2B, 0x5F, 0x8A), (0x1F, 0x5F, 0x3A)
LOW, HIGH = (HEIGHT // 2, WIDTH - 8), (HEIGHT // 2, WIDTH - 208)  # the swipe, on its side
FOOT = WIDTH - (HEIGHT - TERMINAL[1])  # the dock's row, on its side


@pytest.fixture(scope="module")
def me(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    system = build()
    try:
        parts = Parts(system, software(system), inspect=True)
    except MissingError as missing:
        pytest.skip(str(missing))
    with switched_on(parts, tmp_path_factory.mktemp("phone")) as phone:
        owner = Person(phone, lambda name, picture: None)
        owner.at_home(300)
        owner.still(120)
        phone.look("until [ -s /run/user/1000/gesture.pid ]; do sleep 0.3; done; sleep 8", 120)
        yield owner


def aside(now: Picture) -> bool:
    """The personal side between its bars, across the whole width."""
    high = now.shape[0]
    bars = [like(BAR, now[:40]).mean(), like(BAR, now[high - 80 :]).mean()]
    return (
        min(bars) > 0.4
        and like(GROUND, now[60 : high - 100]).mean() > 0.95
        and bool(like(DOCK, now[high - 80 :]).any())
    )


def ours(now: Picture) -> bool:
    """The switcher's own page: nobody is enrolled here."""
    high, wide = now.shape[:2]
    return bool(like((0x0C, 0x0F, 0x13), now[high // 5 : high * 4 // 5, wide // 8 : wide * 7 // 8], 3).mean() > 0.6)


@pytest.mark.parametrize("held", [LEFT_UP, RIGHT_UP])
def test_the_picture_follows_and_comes_back(me: Person, held: str) -> None:
    before = me.phone.photograph()
    me.phone.turn(held)
    me.phone.until(aside, 60, "the personal side, on its side")
    me.phone.turn(UPRIGHT)
    me.phone.until(lambda now: differing(before, now) < 0.02, 60, "the picture as it was")


@pytest.mark.parametrize("held", [LEFT_UP, RIGHT_UP])
def test_a_finger_touches_what_its_owner_sees(me: Person, held: str) -> None:
    me.phone.turn(held)
    me.phone.until(aside, 60, "the personal side, on its side")
    me.still(30)
    before = me.phone.photograph()
    me.phone.tap(TERMINAL[0], FOOT)
    me.phone.changed(before, 90, 0.5)
    me.leave_terminal()
    me.phone.until(aside, 60, "the personal side again")
    me.phone.turn(UPRIGHT)
    me.still(30)


@pytest.mark.parametrize("held", [LEFT_UP, RIGHT_UP])
def test_the_swipe_is_from_the_edge_that_is_below(me: Person, held: str) -> None:
    me.phone.turn(held)
    me.phone.until(aside, 60, "the personal side, on its side")
    me.still(30)
    side = (HEIGHT - 8, WIDTH // 2) if held == RIGHT_UP else (8, WIDTH // 2)  # where it is below otherwise
    me.phone.swipe(side, (HEIGHT // 2, WIDTH // 2))
    me.still(30)
    assert aside(me.phone.photograph())
    me.phone.swipe(LOW, HIGH)
    me.phone.until(ours, 60, "Work, on its side")
    me.phone.turn(UPRIGHT)
    me.phone.until(ours, 60, "Work, upright")
    me.still(30)
    me.phone.swipe(EDGE, UP)
    me.phone.until(lambda now: not ours(now), 60, "the personal side")


def test_turned_in_the_dark_it_is_right_when_the_light_comes(me: Person) -> None:
    me.phone.press(POWER)
    me.phone.look("until [ -e /run/user/1000/screen-off ]; do sleep 0.2; done; sleep 2")
    me.phone.turn(LEFT_UP)
    me.phone.look("sleep 2")
    me.phone.press(POWER)
    me.phone.until(aside, 60, "the personal side, on its side")
    me.phone.turn(UPRIGHT)
    me.still(30)
