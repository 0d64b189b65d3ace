"""The swipe between the two sides of the emulated phone, on its own screen, looked at every few milliseconds from outside."""

from __future__ import annotations

import statistics
import time

from bench.phone_setting import EMULATED, Bench
from bench.report import row
from phone.handset import Picture, differing
from phone.person import EDGE, at_home, in_work
from tests.harness.probe import NoMarks, pointing, status

GUEST = 6, 94  # where the guest's screen begins on the phone's: column, row
_BELOW = (
    slice(GUEST[1] + 30, 1080, 4),
    slice(6, 534, 4),
)  # the guest's screen without the probe's marks, each fourth pixel


def switch(bench: Bench) -> None:
    bench.bare_off()
    bench.ask("probe")
    bench.me.to_work(swipe=True)
    bench.phone.until(lambda now: _clock(bench, now) is not None, 120, "the guest's marks")
    felt = pointing(bench.phone.photograph(), *GUEST)
    work = bench.phone.photograph()[_BELOW]
    retained, fresh, looks = [], [], []
    for number in range(bench.rounds.warm_up + bench.rounds.switches):
        _swipe(bench)
        bench.phone.until(at_home, 60, "the personal side")
        time.sleep(1.0)
        first, second, look = _to_work(bench, work)
        if number >= bench.rounds.warm_up:
            retained.append(first * 1000)
            fresh.append(second * 1000)
            looks.append(look * 1000)
        time.sleep(0.3)
    after = pointing(bench.phone.photograph(), *GUEST)
    assert (after.touches, after.buttons) == (felt.touches, felt.buttons), "the guest felt the swipes"
    bench.rows += [
        row(EMULATED + "swipe to the retained frame, 95 %", "ms", retained, {}, at_most=150, percentile=95),
        row(EMULATED + "swipe to a fresh frame, 95 %", "ms", fresh, {}, at_most=400, percentile=95),
        row(EMULATED + "swipe to the retained frame, median", "ms", retained, {}),
        row(EMULATED + "swipe to a fresh frame, median", "ms", fresh, {}),
    ]
    bench.notes.append(
        "Swipes: from the finger's place that makes it one, on the phone's own screen, looked at every "
        f"{statistics.median(looks):.0f} ms. Retained: Work's colour and picture as they were left. Fresh: the clock "
        "that a probe in the guest draws every 50 ms, all the time, was seen to move twice since, so that the frame was "
        f"drawn after the gesture. The {2 * len(retained)} swipes reached the guest as no touch and no click."
    )


def _swipe(bench: Bench) -> float:
    """The moment at which it is one."""
    x, y = EDGE
    bench.phone.down(x, y)
    time.sleep(0.03)
    bench.phone.move(x, y - 60)
    time.sleep(0.03)
    moment = time.monotonic()
    bench.phone.move(x, y - 130)
    bench.phone.up()
    return moment


def _to_work(bench: Bench, work: Picture) -> tuple[float, float, float]:
    """Seconds to the retained frame and to a fresh one, and between two looks; `work` is what Work looked like."""
    began, looks = _swipe(bench), 0
    first, last, moved = 0.0, -1, 0
    while moved < 2:
        now, at = bench.phone.photograph(), time.monotonic()
        looks += 1
        if not first and in_work(now) and differing(work, now[_BELOW]) < 0.02:
            first = at - began
        clock = _clock(bench, now)
        if first and clock is not None:
            moved += last not in (-1, clock)
            last = clock
        if at > began + 60:
            raise TimeoutError("Work's picture never moved")
    return first, at - began, (at - began) / looks


def _clock(bench: Bench, now: Picture) -> int | None:
    try:
        return status(now, *GUEST).clock if in_work(now) else None
    except NoMarks:
        return None
