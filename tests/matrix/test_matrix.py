"""Operation x step x failure. A sample of the cells by default, another one for each revision; all of them by `make
test-matrix-full`. `out/matrix.json` and `out/matrix.md` say what was run, and what was skipped and why."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.company import TREE
from tests.harness.long import long
from tests.matrix.cells import Cell, Outcome, cells, discovered, run, table, written
from tests.matrix.deeds import Deed
from tests.matrix.growing import DEEDS
from tests.matrix.stage import Stage

pytestmark = pytest.mark.matrix
_SECONDS = 60.0  # that a sample may take
_EACH = 12.0  # of them for the cells of one operation
_RENEW = 25  # cells after which there is a new person: a history that grows makes everything slow


def revision() -> str:
    """What is tested, as git names it."""
    words = ["git", "-c", "safe.directory=*", "rev-parse", "HEAD"]
    done = subprocess.run(words, cwd=TREE, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "none"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as made:
        yield made


@pytest.mark.timeout(8 * 3600)
@pytest.mark.parametrize("share", ["sample", *long("all")])
def test_every_step_of_every_operation_meets_every_failure(stage: Stage, share: str) -> None:
    now, outcomes, total = revision(), list[Outcome](), 0
    # What a heartbeat carries takes its time where the server was away: of such there is one in a sample now and then.
    slow = int(_drawn(now, "slow")[0], 16) >= 4
    deeds = sorted((make() for make in DEEDS), key=lambda deed: (deed.beats and slow, _drawn(now, deed.name)))
    end = time.monotonic() + _SECONDS
    for deed in deeds:
        if share == "sample" and time.monotonic() > end - _EACH:
            break
        stage.people()
        found = sorted(cells(deed, discovered(deed, stage)), key=lambda cell: _drawn(now, cell.key))
        total += len(found)
        outcomes += _met(deed, stage, found, 0 if share == "all" else _EACH)
    written(TREE / "out" / "matrix.json", now, outcomes, total)
    counted = Counter(outcome.result for outcome in outcomes)
    failed = [outcome for outcome in outcomes if outcome.result == "FAILED"]
    print(table(outcomes))
    done = len({outcome.deed for outcome in outcomes})
    print(f"{share}: {len(outcomes)} of {total} cells of {done} of {len(DEEDS)} operations: {dict(counted)}")
    assert not failed, "\n".join(f"{each.deed} | {each.step} | {each.failure}: {each.why}" for each in failed)
    assert counted["skipped"] < len(outcomes) / 3, "too many of them were never tried"


def _drawn(now: str, key: str) -> str:
    return hashlib.sha256(f"{now} {key}".encode()).hexdigest()


def _met(deed: Deed, stage: Stage, found: list[Cell], seconds: float) -> Iterator[Outcome]:
    """Cells until the time is over; with 0 seconds all."""
    began = time.monotonic()
    for number, cell in enumerate(found, 1):
        try:
            yield run(deed, stage, cell)
        except Exception as wrong:  # noqa: BLE001 - the other cells are told all the same
            what = f"{type(wrong).__name__}: {wrong}"[:1500]
            yield Outcome(deed.name, cell.step.name, cell.failure.name, "FAILED", what)
            stage.mend()
            stage.people()
        if seconds and time.monotonic() - began > seconds:
            return
        if number % _RENEW == 0:
            stage.people()
