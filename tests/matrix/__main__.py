"""`python -m tests.matrix`: all cells of the matrix, in lanes beside each other. What was run of the same code before counts, so
that many short runs are one long one. Ends with 1 where a cell failed, with 0 where none did."""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from tests.harness.company import TREE
from tests.matrix.cells import Cell, Outcome, Step
from tests.matrix.growing import DEEDS
from tests.matrix.lane import FEW, met, steps
from tests.matrix.ledger import PATH, Ledger, drawn
from tests.matrix.stage import Stage

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2); as tests/conftest.py


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("--again", action="store_true", help="begin anew: nothing that was run before counts")
    parser.add_argument("--minutes", type=float, default=0, help="stop after so many (default: when all is done)")
    parser.add_argument("--lanes", type=int, default=2, help="how many companies at a time (default: 2)")
    parser.add_argument("--only", default="", help="operations whose name begins so, `A|B` for several")
    parser.add_argument("--seed", default="", help="the order of the cells (default: the version of the code)")
    parser.add_argument("--lane", type=int, default=-1, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    end = time.monotonic() + args.minutes * 60 if args.minutes else float("inf")
    if args.lane >= 0:
        # What the programs of a stage print goes to the person; our own words are for who started us.
        with os.fdopen(os.dup(1), "w") as out:
            os.dup2(2, 1)
            return _lane(args, end, out)
    ledger = Ledger.opened(again=args.again)
    ledger.path.parent.mkdir(parents=True, exist_ok=True)
    ledger.write()
    print(f"before: {ledger.share()}", flush=True)
    failed = len(ledger.failed)
    _lanes(ledger, args.lanes, [word for word in words if word != "--again"])
    print(ledger.table())
    print(f"{PATH.relative_to(TREE)}: {ledger.share()}")
    print(f"failed in this run: {len(ledger.failed) - failed}")
    return 1 if ledger.failed else 0


def _lanes(ledger: Ledger, number: int, words: Sequence[str]) -> None:
    """Each lane is a process of its own; what it tells goes into the ledger."""
    told: queue.Queue[str | None] = queue.Queue()
    running = [
        subprocess.Popen([sys.executable, "-m", "tests.matrix", *words, "--lane", str(nth)], stdout=subprocess.PIPE, text=True)
        for nth in range(number)
    ]  # fmt: skip

    def hear(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            told.put(line)
        told.put(None)

    for process in running:
        threading.Thread(target=hear, args=(process,), daemon=True).start()
    left = number
    while left:
        line = told.get()
        if line is None:
            left -= 1
            continue
        found = json.loads(line)
        if "steps" in found:
            ledger.met(found["deed"], [Step(**step) for step in found["steps"]])
        else:
            outcome = Outcome(**found)
            ledger.add(outcome)
            print(f"{outcome.seconds:6.2f} s  {outcome.result:11}  {outcome.key}  {outcome.why[:300]}", flush=True)
    assert not any(process.wait() for process in running), "a lane has broken; what it had run counts"


def _lane(args: argparse.Namespace, end: float, out: TextIO) -> int:
    """Every cell whose turn in the order is ours: a few of each operation in turn, so that a run that is stopped has met all."""
    ledger = Ledger.opened()
    seed = args.seed or ledger.version
    wanted = [deed for make in DEEDS if (deed := make()).name.startswith(tuple(args.only.split("|")))]
    deeds = sorted(wanted, key=lambda deed: drawn(f"{seed} {args.lane}", deed.name))
    left: dict[str, list[Cell]] = {}

    def ours(cell: Cell) -> bool:
        return int(drawn("lane", cell.key), 16) % int(args.lanes) == int(args.lane)

    def tell(what: object) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    with tempfile.TemporaryDirectory(prefix="twofold-matrix-") as folder, Stage(Path(folder)) as stage:
        while deeds and time.monotonic() < end:
            deed = deeds.pop(0)
            if deed.name not in left:
                found = ledger.steps.get(deed.name) or steps(deed, stage)
                tell({"deed": deed.name, "steps": [dataclasses.asdict(step) for step in found]})
                ledger.steps[deed.name] = found
                left[deed.name] = sorted(filter(ours, ledger.left(deed.name)), key=lambda cell: drawn(seed, cell.key))
            few, left[deed.name] = left[deed.name][:FEW], left[deed.name][FEW:]
            for outcome in met(deed, stage, few, end) if few else ():
                tell(dataclasses.asdict(outcome))
            if left[deed.name]:
                deeds.append(deed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
