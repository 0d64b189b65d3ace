"""`make bench-phone`: Work on the emulated phone. Everything is translated twice over or once, and no figure is a phone's.

The phone's times are taken in the phone (bench/phone_inside.py), but for the switch: that is seen on the phone's own screen,
which is looked at every few milliseconds from outside. The peer is the same guest image under QEMU alone, on the same phone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from rich.console import Console

from bench.phone_dark import dark
from bench.phone_idle import idle
from bench.phone_launch import bloat, launch
from bench.phone_setting import EMULATED, QUICK, Bench, Rounds, prepared
from bench.phone_switch import switch
from bench.report import report, row


def resume(bench: Bench) -> None:
    suspends, resumes = [], []
    for _ in range(bench.rounds.resumes):
        time.sleep(2)
        suspends.append(bench.ask("finish", verb="suspend"))
        resumes.append(bench.ask("start"))
    bench.rows += [
        row(EMULATED + "resume to an answering agent", "s", resumes, {"our boot": bench.boots}, at_most=0.1),
        row(EMULATED + "suspend, sealed and durable", "s", suspends, {}),
    ]


# What was suspended may come back in small pages of memory, so launches are measured before.
PARTS: dict[str, Callable[[Bench], None]] = {
    "idle": idle,
    "launch": launch,
    "bloat": bloat,
    "resume": resume,
    "dark": dark,
    "switch": switch,
}


def main() -> int:
    words = argparse.ArgumentParser(description="Work on the emulated phone, measured.")
    words.add_argument("--only", action="append", choices=PARTS, help="one part; may be repeated")
    words.add_argument("--quick", action="store_true", help="a look, not figures")
    said = words.parse_args()
    chosen = tuple(said.only or PARTS)
    with prepared(Console(), QUICK if said.quick else Rounds()) as bench:
        for name, work in PARTS.items():
            if name in chosen:
                bench.part(name, work)
    if said.quick:
        bench.notes.insert(0, "A quick look: these are no figures.")
    path = report("phone" if set(chosen) == PARTS.keys() else f"phone-{'-'.join(chosen)}", bench.rows, bench.notes)
    sys.stdout.write(f"written to {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
