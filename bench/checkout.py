"""`make bench-checkout`: what check-out, publishing and backing up cost, against the programs that people use for parts of it.

Each part can be run alone: `--only PART`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import (
    checkout_desktop,
    checkout_publish,
    checkout_reenrol,
    checkout_replicate,
    checkout_stall,
    checkout_upgrade,
)
from bench.report import Row, report
from bench.setting import folder as work_folder


@dataclass(frozen=True)
class Size:
    """`disk` is replicated, of which `filled` bytes are written. `owned` bytes of the user's come to a new laptop, `arrivals`
    times."""

    rounds: int
    disk: int
    filled: int
    arrivals: int
    owned: int


FULL, QUICK = Size(5, 20 << 30, 5 << 30, 2, 2 << 30), Size(1, 1 << 30, 256 << 20, 1, 64 << 20)
PARTS: dict[str, tuple[Callable[[Path, Size], list[Row]], list[str]]] = {
    "upgrade": (lambda folder, size: checkout_upgrade.version_two(folder), checkout_upgrade.NOTES),
    "publish": (lambda folder, size: checkout_publish.publish(folder, size.rounds), checkout_publish.NOTES),
    "replicate": (
        lambda folder, size: checkout_replicate.replicate(folder, size.rounds, size.disk, size.filled),
        checkout_replicate.NOTES,
    ),
    "stall": (lambda folder, size: checkout_stall.stall(folder, size.rounds), checkout_stall.NOTES),
    "desktop": (
        lambda folder, size: checkout_desktop.desktop(
            folder, size.rounds, checkout_desktop.OTHERS if size.rounds > 1 else ()
        ),
        checkout_desktop.NOTES,
    ),
    "reenrol": (
        lambda folder, size: checkout_reenrol.reenrol(folder, size.arrivals, size.owned),
        checkout_reenrol.NOTES,
    ),
}


def main() -> int:
    words = argparse.ArgumentParser(prog="make bench-checkout", description=__doc__)
    words.add_argument("--quick", action="store_true", help="one round on small disks: for a look, not for figures")
    words.add_argument("--only", choices=PARTS, help="one part, told apart from the whole")
    asked = words.parse_args()
    size = QUICK if asked.quick else FULL
    name, table = "checkout" if asked.only is None else f"checkout-{asked.only}", []
    notes = ["A quick look on small disks: these are no figures."] if asked.quick else []
    for part in PARTS if asked.only is None else (asked.only,):
        measure, said = PARTS[part]
        with work_folder("checkout") as folder:
            table += measure(folder, size)
        notes += said
        told = report(name, table, notes)  # after each part: what comes later may fail
    sys.stdout.write(f"written to {told}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
