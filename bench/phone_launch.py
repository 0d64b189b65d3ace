"""An application's launch in Work: beside bare QEMU on the same emulated phone, and on a phone full of its owner's programs.

From the request to the guest's word that the window is there, by the phone's clock. Windows stay open: each start of the
application is a whole one, and both guests have started it as often.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.bloat import KINDS
from bench.phone_setting import EMULATED, Bench
from bench.report import row
from phone.handset import differing
from phone.person import TERMINAL

APP = "galculator"
_HOG = 256  # MiB of bloat's memory hog


def launch(bench: Bench) -> None:
    """Nobody looks at either guest, and each stands still while the other is measured."""
    bench.bare_machine()
    bench.ask("turn", bare=False)
    ours, theirs = [], []
    for number in range(bench.rounds.warm_up + bench.rounds.launches):
        one, other = bench.ask("launches", bare_first=bool(number % 2))
        if number >= bench.rounds.warm_up:
            ours.append(one)
            theirs.append(other)
    bench.bare_off()
    whole, guests = ([each[part] for each in ours] for part in (0, 1))
    peers, peer_guests = ([each[part] for each in theirs] for part in (0, 1))
    bench.rows += [
        row(EMULATED + "application launch", "s", whole, {"bare QEMU": peers}, at_most=1.1),
        row(EMULATED + "application launch, by the guest's own clock", "s", guests, {"bare QEMU": peer_guests}),
    ]
    bench.notes.append(
        f"Launches: {APP}, from the request to the guest's word that its window is there; nobody looks at either. Dropped: "
        f"{bench.rounds.warm_up} on each side; windows stay open, as many on both."
    )


@dataclass
class _Seconds:
    """Launches in Work, which is in front, and of the owner's terminal, on their own side."""

    idle: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    own_busy: list[float] = field(default_factory=list)
    own_beside: list[float] = field(default_factory=list)  # Work computes with all its processors


def bloat(bench: Bench) -> None:
    """On a phone busy with its owner's programs, and the owner beside a Work that computes: with our measures and without."""
    bench.bare_off()
    share = bench.ask("measures", on=True)  # as the other, after an agent's begin and a resume
    ours = _rounds(bench, bench.rounds.busy)
    try:
        plain_share = bench.ask("measures", on=False)
        plain = _rounds(bench, min(2, bench.rounds.busy))  # minutes a launch
    finally:
        bench.ask("measures", on=True)
    rows: tuple[tuple[str, list[float], list[float], dict[str, Sequence[float]], float | None], ...] = (
        ("application launch, phone busy", ours.busy, plain.busy, {"phone idle": ours.idle}, 1.3),
        ("application launch, phone idle", ours.idle, plain.idle, {}, None),
        ("owner's terminal, Work idle", ours.own, plain.own, {}, None),
        ("owner's terminal, phone busy", ours.own_busy, plain.own_busy, {"phone idle": ours.own}, None),
        ("owner's terminal, Work computing", ours.own_beside, plain.own_beside, {"Work idle": ours.own}, None),
    )
    for figure, with_, without, peers, at_most in rows:
        peers |= {"without our measures": without}
        bench.rows.append(row(EMULATED + figure, "s", with_, peers, at_most=at_most))
    bench.rows.append(
        row(
            EMULATED + "application launch, phone busy, without our measures",
            "s",
            plain.busy,
            {"phone idle": plain.idle},
        )
    )
    bench.notes.append(
        f"Busy: {', '.join(KINDS)} at once (bench/bloat), as the phone's owner and among their programs; the hog reclaims at two "
        f"thirds of {_HOG} MiB. With: {share} Without: {plain_share} Launches are in Work while it is in front; the terminal is "
        "the owner's, from the tap on the dock to its window on the screen. Computing: two loops a processor in Work's group."
    )


def _rounds(bench: Bench, rounds: int) -> _Seconds:
    """Idle, busy and beside a computing Work in turn."""
    took = _Seconds()
    full: dict[str, Any] = {"kinds": list(KINDS), "memory_mib": _HOG}
    computing: dict[str, Any] = {"kinds": ["loops"], "as_work": True}
    for number in range(bench.rounds.warm_up + rounds):
        counts = number >= bench.rounds.warm_up
        for launches, terminals, load in (
            (took.idle, took.own, None),
            (took.busy, took.own_busy, full),
            (None, took.own_beside, computing),
        ):
            if load and not counts:
                continue  # what runs is warm by then
            if load:
                bench.ask("busy", **load)
            try:
                if launches is not None:
                    bench.me.to_work(swipe=True)
                    seconds = bench.ask("launch")[0]
                    launches += [seconds] * counts
                    bench.me.to_personal(swipe=True)
                    time.sleep(2)
                seconds = _terminal(bench)
                terminals += [seconds] * counts
            finally:
                bench.ask("calm")
    return took


def _terminal(bench: Bench) -> float:
    """From a tap on the dock to the window on the phone's own screen."""
    before, began = bench.phone.photograph(), time.monotonic()
    bench.phone.tap(*TERMINAL)
    while differing(before, bench.phone.photograph()) < 0.3:
        if time.monotonic() > began + 120:
            raise TimeoutError("the owner's terminal showed no window within 120 s")
    took = time.monotonic() - began
    bench.phone.look("pkill -x foot; for n in $(seq 100); do pgrep -x foot >/dev/null || break; sleep 0.1; done")
    bench.phone.until(lambda now: differing(before, now) < 0.1, 60, "the personal side without the terminal")
    return took
