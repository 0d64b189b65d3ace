"""What the guest draws is what the harness reads, and anything half is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import probe
from twofold.guest import marks


def paint(rows: list[int], top: int = 0, left: int = 0) -> probe.Picture:
    picture = np.full((200, 420, 3), 40, np.uint8)
    for number, row in enumerate(rows):
        for column in range(64):
            bit = row >> (63 - column) & 1
            y, x = top + number * 12, left + column * 6
            picture[y : y + 6, x : x + 6] = 255 * bit
            picture[y + 6 : y + 12, x : x + 6] = 255 * (1 - bit)
    return picture


@given(st.integers(0, 1 << 45), st.integers(0, (1 << 24) - 1))
def test_status_is_read_back(unix_ms: int, presses: int) -> None:
    seen = probe.status(paint([marks.status_row(unix_ms, presses)], left=3), left=3)
    assert seen == probe.Status(unix_ms & 0xFFFFFF, presses)
    assert seen.age(unix_ms + 37) == 37


@given(st.integers(0, 9999), st.integers(0, 9999), st.integers(0, 4095), st.integers(0, 4095))
def test_pointing_is_read_back_from_below_the_status(touches: int, buttons: int, x: int, y: int) -> None:
    picture = paint([marks.status_row(5, 6), marks.pointing_row(touches, buttons, x, y)], left=3)
    seen = probe.pointing(picture, left=3)
    assert seen == probe.Pointing(touches % 4096, buttons % 4096, x / 4096, y / 4096)
    with pytest.raises(probe.NoMarks):
        probe.status(picture, left=3, top=2 * probe.CELL)
    with pytest.raises(probe.NoMarks):
        probe.pointing(paint([marks.status_row(5, 6)] * 2))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_text_is_read_back(text: str) -> None:
    assert probe.text(paint(marks.text_rows(text), marks.TEXT_TOP)) == text[-24:]


@given(st.integers(0, 63), st.integers(0, 1))
def test_one_square_drawn_over_is_no_mark(column: int, line: int) -> None:
    picture = paint([marks.status_row(1_795_334_717_139, 12)])
    square = picture[line * 6 : line * 6 + 6, column * 6 : column * 6 + 6]
    square[:] = 255 - square
    with pytest.raises(probe.NoMarks):
        probe.status(picture)


def test_two_moments_are_not_one_text() -> None:
    picture = paint(marks.text_rows("before"), marks.TEXT_TOP)
    picture[marks.TEXT_TOP + 12 :] = paint(marks.text_rows("after it"), marks.TEXT_TOP)[marks.TEXT_TOP + 12 :]
    with pytest.raises(probe.NoMarks):
        probe.text(picture)


def test_an_empty_screen_has_no_marks() -> None:
    with pytest.raises(probe.NoMarks):
        probe.status(np.zeros((300, 400, 3), np.uint8))
    with pytest.raises(probe.NoMarks):
        probe.status(np.zeros((5, 5, 3), np.uint8))
