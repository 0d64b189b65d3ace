"""A guest pixel is a screen pixel: the root window compared with the very memory that QEMU shares, at each pixel ratio.

It opens windows over the probe's text field: by its name it runs after the tests that type into that.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.vm.whole.conftest import Sight, Whole, until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]
STRIP = 24  # rows at the top in which the probe draws all the time


def guests_own(pid: int, width: int, height: int) -> NDArray[np.uint32] | None:
    """The guest's frame as the switcher has it mapped from QEMU, read from outside; None while there is none of that size."""
    wanted = width * height * 4
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        found = re.match(r"([0-9a-f]+)-([0-9a-f]+) r--s \S+ \S+ \S+\s+/memfd:", line)
        if found is None:
            continue
        start, end = (int(part, 16) for part in found.groups())
        if wanted <= end - start < wanted + 65536:
            with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
                memory.seek(start)
                untyped: NDArray[Any] = np.frombuffer(memory.read(wanted), np.uint32)
                return (untyped.reshape(height, width) & 0xFFFFFF).astype(np.uint32)
    return None


def differing(desk: Sight, width: int, height: int) -> int:
    """Pixels below the strip that are not on the root window as they are in the guest; -1 where there is no such frame."""
    own = guests_own(desk.switcher.pid, width, height)
    shown = desk.guest & 0xFFFFFF
    if own is None or shown.shape != own.shape:
        return -1
    return int(np.count_nonzero(own[STRIP:] != shown[STRIP:]))


def panel(desk: Sight) -> int:
    """How many rows at the bottom have the panel's colour, where it has neither a task nor its clock."""
    now = desk.guest[::-1, int(desk.guest.shape[1] * 0.8)] & 0xFFFFFF
    away = [abs(((now >> shift) & 255).astype(int) - int(now[2] >> shift & 255)) for shift in (0, 8, 16)]
    return int(np.argmax(np.max(away, axis=0)[3:] > 6)) + 3


@pytest.mark.parametrize("ratio", ["1", "1.25", "1.5", "2", "3"])
def test_every_guest_pixel_is_a_screen_pixel(whole: Whole, ratio: str, soak: bool) -> None:
    if ratio in ("1.25", "3") and not soak:
        pytest.skip("with --soak")
    scale = float(ratio)
    with whole.desk(int(960 * scale), int(640 * scale), editor=False, QT_SCALE_FACTOR=ratio) as desk:
        desk.to_work()
        if "org.xfce.mousepad" not in whole.apps():
            whole.launch("org.xfce.mousepad")
        until(lambda: "org.xfce.mousepad" in whole.apps(), "a window with text", 40)
        _, _, width, height = desk.said["guest"]
        # A caret may blink between two looks: some look of many must find no pixel that differs, none of them a blur.
        until(lambda: guests_own(desk.switcher.pid, width, height) is not None, f"a guest of {width} x {height}", 20)
        desk.wait_still(20)
        desk.hands.move(1, 1)  # the person's own pointer is drawn over the guest's picture
        time.sleep(1.5)
        desk.wait_still(20)
        looks = [differing(desk, width, height) for _ in range(20)]
        desk.shot(f"ratio-{ratio}")
        assert abs(panel(desk) - 40 * scale) <= 2, f"the guest's panel is {panel(desk)} pixels high at ratio {ratio}"
        text = len(np.unique(desk.guest[STRIP:]))
        print(f"\nratio {ratio}: {width} x {height}, pixels that differ: {min(looks)} to {max(looks)}; {text} colours")
        assert text > 100, "there is nothing on the screen that could be blurred"
        assert min(looks) == 0, f"at ratio {ratio} the screen is not what the guest drew: {looks}"
        assert max(looks) < 3000, "more than a caret and a clock differ"
