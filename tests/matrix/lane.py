"""Cells one after the other on a stage, and what became of each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from tests.matrix.cells import Cell, Outcome, Step, discovered, run
from tests.matrix.deeds import Deed
from tests.matrix.stage import Stage

FEW = 25  # cells that one person has: a history that grows makes everything slow


def steps(deed: Deed, stage: Stage) -> list[Step]:
    stage.people()
    return discovered(deed, stage)


def met(deed: Deed, stage: Stage, found: Sequence[Cell], end: float = float("inf")) -> Iterator[Outcome]:
    """Until the time (of `time.monotonic`) is over."""
    stage.people()
    for cell in found:
        if time.monotonic() > end:
            return
        try:
            yield run(deed, stage, cell)
        except Exception as wrong:  # noqa: BLE001 - the other cells are told all the same
            yield Outcome(*cell.names, "FAILED", f"{type(wrong).__name__}: {wrong}"[:1500])
            stage.mend()
            stage.people()
