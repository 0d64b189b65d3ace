"""A phone's swipe, told events as the kernel sends them."""

from __future__ import annotations

import pytest

from twofold.switcher.gesture import Swipe

SLOT, X, Y, TRACKING = 47, 53, 54, 57
RANGE = 0x7FFF


class Glass:
    """A touch screen as the kernel tells of it: only what changed, whatever finger it was of."""

    def __init__(self, turned: str = "normal") -> None:
        self.swipes, self.turned = 0, turned
        self._swipe = Swipe(RANGE, RANGE, self._count, lambda: self.turned)
        self._state: dict[tuple[int, int], int] = {}
        self._slot = 0
        self.at = 100.0

    def _count(self) -> None:
        self.swipes += 1

    def _tell(self, slot: int, code: int, value: int) -> None:
        if self._state.get((slot, code)) == value:
            return
        self._state[slot, code] = value
        if slot != self._slot:
            self._slot = slot
            self._swipe.hear(3, SLOT, slot, self.at)
        self._swipe.hear(3, code, value, self.at)

    def place(self, x: float, y: float, *, slot: int = 0, down: bool = False) -> None:
        if down:
            self._tell(slot, TRACKING, 1 + round(self.at * 100))
        self._tell(slot, X, round(x * RANGE))
        self._tell(slot, Y, round(y * RANGE))
        self._swipe.hear(0, 0, 0, self.at)

    def lift(self, slot: int = 0) -> None:
        self._tell(slot, TRACKING, -1)
        self._swipe.hear(0, 0, 0, self.at)

    def drag(self, start: tuple[float, float], end: tuple[float, float], seconds: float = 0.3) -> None:
        self.place(*start, down=True)
        for step in range(1, 11):
            self.at += seconds / 10
            self.place(*(a + (b - a) * step / 10 for a, b in zip(start, end, strict=True)))
        self.lift()
        self.at += 1


@pytest.fixture
def glass() -> Glass:
    return Glass()


def test_a_swipe_up_from_the_edge_counts_once_and_counts_again(glass: Glass) -> None:
    for number in (1, 2, 3):  # a finger at the very same place has only a new number
        glass.drag((0.5, 0.99), (0.5, 0.6))
        assert glass.swipes == number


def test_it_counts_while_the_finger_is_still_down(glass: Glass) -> None:
    glass.place(0.5, 0.99, down=True)
    glass.at += 0.1
    glass.place(0.5, 0.85)
    assert glass.swipes == 1


@pytest.mark.parametrize(
    ("start", "end", "seconds"),
    [
        ((0.5, 0.95), (0.5, 0.4), 0.3),  # from the dock
        ((0.5, 0.99), (0.5, 0.93), 0.3),  # too short
        ((0.2, 0.99), (0.9, 0.85), 0.3),  # aside
        ((0.5, 0.99), (0.5, 0.5), 30),  # a finger that rests and creeps
        ((0.5, 0.4), (0.5, 0.99), 0.3),  # down
    ],
)
def test_what_is_no_swipe(glass: Glass, start: tuple[float, float], end: tuple[float, float], seconds: float) -> None:
    glass.drag(start, end, seconds)
    assert glass.swipes == 0
    glass.drag((0.5, 0.99), (0.5, 0.6))
    assert glass.swipes == 1


def test_two_fingers_are_no_swipe(glass: Glass) -> None:
    glass.place(0.4, 0.99, down=True)
    glass.place(0.6, 0.99, slot=1, down=True)
    for y in (0.9, 0.8, 0.7):
        glass.place(0.4, y)
        glass.place(0.6, y, slot=1)
    glass.lift()
    glass.lift(1)
    assert glass.swipes == 0
    glass.drag((0.5, 0.99), (0.5, 0.6))
    assert glass.swipes == 1


@pytest.mark.parametrize(("turned", "below"), [("normal", (0, 1)), ("90", (1, 0)), ("270", (-1, 0))])
def test_the_strip_is_at_the_edge_that_is_below_for_its_owner(turned: str, below: tuple[int, int]) -> None:
    """`below`: which way is down on the glass, from its middle."""
    for name, way in (("normal", (0, 1)), ("90", (1, 0)), ("270", (-1, 0))):
        glass = Glass(turned)
        start, end = ((0.5 + part * way[0], 0.5 + part * way[1]) for part in (0.49, 0.1))
        glass.drag(start, end)
        assert glass.swipes == (way == below), name


def test_how_it_is_turned_is_asked_anew_for_each_finger(glass: Glass) -> None:
    glass.drag((0.99, 0.5), (0.5, 0.5))
    assert glass.swipes == 0
    glass.turned = "90"
    glass.drag((0.99, 0.5), (0.5, 0.5))
    assert glass.swipes == 1
    glass.turned = "normal"
    glass.drag((0.5, 0.99), (0.5, 0.6))
    assert glass.swipes == 2
