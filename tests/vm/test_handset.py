"""The emulated phone's harness by itself: fingers and keys arrive where and as they should, seen on photographs of its screen."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from phone.build import handset as build
from phone.handset import (
    HEIGHT,
    LOUDER,
    POWER,
    SOFTER,
    WIDTH,
    Handset,
    NeverSeenError,
    Parts,
    Picture,
    like,
    switched_on,
)

pytestmark = [pytest.mark.vm, pytest.mark.phone, pytest.mark.timeout(300)]
FIELD = (10, 20, 30)  # recipes/handset/overlay/usr/lib/handset/probe
KEYS = {POWER: (0, (200, 0, 0)), LOUDER: (1, (0, 200, 0)), SOFTER: (2, (0, 0, 200))}


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handset]:
    with switched_on(Parts(build(), face="probe"), tmp_path_factory.mktemp("phone")) as handset:
        up = handset.until(lambda now: bool(like(FIELD, now).mean() > 0.99), 240, "the probe's field")
        print(f"power-on to the probe: {up:.1f} s")
        yield handset


def finger(picture: Picture, slot: int = 0) -> tuple[float, float] | None:
    """The middle of a finger's square."""
    rows, columns = np.nonzero(like((250, 200, slot * 40), picture))
    return (float(columns.mean()), float(rows.mean())) if len(rows) > 800 else None


def near(place: tuple[float, float] | None, x: float, y: float) -> bool:
    return place is not None and abs(place[0] - x) < 4 and abs(place[1] - y) < 4


@pytest.mark.parametrize(("x", "y"), [(60, 200), (WIDTH - 60, 200), (270, 600), (100, HEIGHT - 60)])
def test_a_finger_is_where_it_was_put_and_gone_when_lifted(phone: Handset, x: int, y: int) -> None:
    phone.down(x, y)
    phone.until(lambda now: near(finger(now), x, y), 10, "the finger")
    phone.up()
    phone.until(lambda now: finger(now) is None, 10, "a clean screen")


def test_two_fingers_are_two(phone: Handset) -> None:
    phone.down(150, 400)
    phone.down(400, 800, finger=1)
    phone.until(lambda now: near(finger(now), 150, 400) and near(finger(now, 1), 400, 800), 10, "both")
    phone.move(400, 900, finger=1)
    phone.until(lambda now: near(finger(now), 150, 400) and near(finger(now, 1), 400, 900), 10, "one moved")
    phone.up()
    phone.up(finger=1)
    phone.until(lambda now: finger(now) is None and finger(now, 1) is None, 10, "a clean screen")


def test_a_swipe_ends_where_it_should(phone: Handset) -> None:
    before = phone.photograph()
    phone.down(100, 300)
    for step in range(1, 21):
        phone.move(100 + 15 * step, 300 + 20 * step)
    phone.until(lambda now: near(finger(now), 400, 700), 10, "the end of the swipe")
    assert phone.changed(before, 5, share=0.001) > 0
    phone.up()
    phone.until(lambda now: finger(now) is None, 10, "a clean screen")


@pytest.mark.parametrize("key", KEYS)
def test_keys_arrive(phone: Handset, key: str) -> None:
    place, colour = KEYS[key]

    def shows(now: Picture, part: int) -> bool:
        wanted = (colour[0] // part, colour[1] // part, colour[2] // part)
        return bool(like(wanted, now[20:60, 20 + 60 * place : 60 + 60 * place]).mean() > 0.9)

    before = phone.photograph()
    assert not shows(before, 1) and not shows(before, 2)
    if key == POWER:
        phone.press(key)  # a pulse of the board's own length
    else:
        phone.key(key, down=True)
        phone.until(lambda now: shows(now, 1), 10, key)
        phone.key(key, down=False)
    phone.until(lambda now: shows(now, 2), 10, f"{key} let go")


def test_what_does_not_happen_is_said_with_a_photograph(phone: Handset) -> None:
    with pytest.raises(NeverSeenError, match=r"never\.png"):
        phone.changed(phone.photograph(), 1)
    assert (phone.folder / "never.png").stat().st_size > 1000
