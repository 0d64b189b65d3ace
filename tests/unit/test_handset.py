"""The phone's harness without a phone: how photographs are compared."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from phone.demo import belongings
from phone.handset import HEIGHT, LEFT_UP, RIGHT_UP, UPRIGHT, WIDTH, Picture, differing, like, on_glass, upright
from phone.person import BLUE, button, desktop, filled, in_work, keyboard, line, reads
from twofold.switcher.gesture import seen


def test_pictures_are_compared_by_what_is_seen() -> None:
    one = np.zeros((100, 50, 3), np.uint8)
    other = one.copy()
    other[:10] = (0, 0, 5)
    assert differing(one, other) == 0
    other[:10] = (0, 0, 50)
    assert differing(one, other) == pytest.approx(0.1)
    assert differing(one, other[:50]) == 1
    assert like((0, 0, 52), other).mean() == pytest.approx(0.1)


def screen(edge: tuple[int, int, int], foot: int = 1080) -> Picture:
    """Work's frame in a colour down to a row, over a plain desktop with a panel and its clock."""
    now = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    now[44:foot, :6] = now[44:foot, -6:] = edge
    now[1050:1060, 480:510] = 255
    return now


def test_work_is_known_by_the_workspaces_colour_alone() -> None:
    assert in_work(screen(BLUE)) and desktop(screen(BLUE))
    assert not in_work(screen((200, 40, 40))) and not desktop(screen((200, 40, 40)))
    black = screen(BLUE)
    black[94:1080, 6:-6] = 0
    assert not desktop(black)


def test_an_open_keyboard_is_seen_by_what_it_covers() -> None:
    assert keyboard(screen(BLUE, foot=836)) and not keyboard(screen(BLUE))
    late = screen(BLUE, foot=836)
    assert filled(late)
    late[94:830, 6:73] = (0x0C, 0x0F, 0x13)  # the guest's picture is still of the old size, and so narrower
    assert not filled(late)


def test_a_button_is_found_by_its_colour_and_size() -> None:
    now = screen(BLUE)
    now[400:464, 238:302] = BLUE  # the mark, above where is looked
    assert button(now, 590) is None
    now[609:653, 190:350] = BLUE
    now[620:640, 240:300] = 255  # its words
    x, y = button(now, 590) or (0, 0)
    assert 190 < x < 350 and 609 < y < 653


def test_a_line_of_text_is_the_same_text_or_not() -> None:
    now = screen(BLUE)
    rng = np.random.default_rng(5)
    for number in (1, 2):
        now[124 + 17 * number + 3 : 124 + 17 * number + 13, 8:110] = 255 * (rng.random((10, 102, 1)) > 0.6)
    said = line(now, 1)
    assert reads(now, 1, said) and not reads(now, 2, said) and not reads(now, 3, said)
    assert not reads(now, 3, line(now, 3))  # nothing at all is no text


@pytest.mark.skipif(not shutil.which("debugfs"), reason="no debugfs")
def test_an_owners_things_are_told_from_ours_on_the_phones_disk(tmp_path: Path) -> None:
    home = tmp_path / "tree/user"
    for name, text in {
        "list": "bread\n",
        "Pictures/garden": "x" * 5000,
        ".local/state/twofold/key": "k",
        ".agent.log": "a",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)

    def found() -> dict[str, str]:
        (tmp_path / "storage.raw").unlink(missing_ok=True)
        words: list[str | Path] = [
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-d",
            tmp_path / "tree",
            tmp_path / "storage.raw",
            "8M",
        ]
        subprocess.run(words, check=True, capture_output=True)
        return {name: facts for name, facts in belongings(tmp_path).items() if name != "lost+found"}

    before = found()
    assert before.keys() == {"list", "Pictures", "Pictures/garden", ".local", ".local/state"}
    shutil.rmtree(home / ".local/state/twofold")
    (home / ".agent.log").write_text("another")
    assert found() == before
    (home / "list").write_text("milk.\n")
    assert found().keys() == before.keys() and found() != before


@pytest.mark.parametrize(("held", "turned"), [(UPRIGHT, "normal"), (LEFT_UP, "90"), (RIGHT_UP, "270")])
def test_a_finger_a_photograph_and_the_swipe_agree_on_where_a_place_is(held: str, turned: str) -> None:
    x, y = 123, 45
    wide, high = (WIDTH, HEIGHT) if held == UPRIGHT else (HEIGHT, WIDTH)
    across, down = on_glass((x + 0.5) / wide, (y + 0.5) / high, held)
    panel = np.zeros((HEIGHT, WIDTH), np.uint8)
    panel[int(down * HEIGHT), int(across * WIDTH)] = 1
    assert upright(panel, held)[y, x] == 1
    assert seen(across, down, turned) == pytest.approx((x + 0.5, y + 0.5))
