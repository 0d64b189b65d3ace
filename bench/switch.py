"""`make bench-switch`: key press to Work's retained frame, and to a whole frame that the guest drew after the press.

Both are seen on the X server's pixels; the second by the clock that a probe in the guest draws every 20 ms.
"""

from __future__ import annotations

import sys
import time

from bench.report import report, row
from bench.setting import checked_out
from demo.desk import Desk
from demo.headless import Person

ROUNDS = 60
WARM_UP = 3


def main() -> int:
    with checked_out("switch") as here, Desk(here.stage, here.home / "pictures", 1280, 800, phone=False) as desk:
        story = Person(here.stage, desk, here.client)
        desk.open_editor()
        desk.open_switcher()
        story.boot()
        story.launch_probe()
        desk.wait_still(20)
        here.console.print(f"{ROUNDS} switches")
        for _ in range(WARM_UP + ROUNDS):
            time.sleep(0.2)  # the key is let go, and the person looks
            story.switch_and_time("switch", desk.screen.copy())
        fresh, retained = (here.stage.times[name][WARM_UP:] for name in ("switch", "switch_retained"))
        accelerator = here.info("accelerator")
    rows = [
        row("key to the retained frame, 95 %", "ms", _ms(retained), {}, at_most=30, percentile=95),
        row("key to the retained frame, median", "ms", _ms(retained), {}),
        row("key to a frame drawn after it, 95 %", "ms", _ms(fresh), {}, at_most=110, percentile=95),
        row("key to a frame drawn after it, median", "ms", _ms(fresh), {}),
    ]
    notes = [f"accelerator: {accelerator}; Xvfb 1280x800, keys by XTEST; the guest's own clock ticks every 20 ms."]
    sys.stdout.write(f"written to {report('switch', rows, notes)}\n")
    return 0


def _ms(seconds: list[float]) -> list[float]:
    return [each * 1000 for each in seconds]


if __name__ == "__main__":
    sys.exit(main())
