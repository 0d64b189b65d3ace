"""Operation x step x failure: a sample of the cells, another one for each version of the code; all of them by
`make test-matrix-full`. `out/matrix.json` and `out/matrix.md` say what was run, and what was skipped and why."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.matrix.cells import Outcome
from tests.matrix.growing import DEEDS
from tests.matrix.lane import FEW, met, steps
from tests.matrix.ledger import Ledger, drawn
from tests.matrix.stage import Stage

pytestmark = pytest.mark.matrix
_SECONDS = 60.0  # that the sample may take
_EACH = 12.0  # of them for the cells of one operation


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as made:
        yield made


@pytest.mark.timeout(600)
def test_steps_of_operations_meet_failures(stage: Stage) -> None:
    ledger, outcomes = Ledger.opened(), list[Outcome]()
    seed = ledger.commit + ledger.version
    deeds = sorted((make() for make in DEEDS), key=lambda deed: drawn(seed, deed.name))
    end = time.monotonic() + _SECONDS
    for deed in deeds:
        if time.monotonic() > end - _EACH:
            break
        ledger.met(deed.name, steps(deed, stage))
        found = sorted(ledger.left(deed.name) or ledger.all(deed.name), key=lambda cell: drawn(seed, cell.key))
        for outcome in met(deed, stage, found[:FEW], time.monotonic() + _EACH):
            ledger.add(outcome)
            outcomes.append(outcome)
    counted = Counter(outcome.result for outcome in outcomes)
    failed = [outcome for outcome in outcomes if outcome.result == "FAILED"]
    print(ledger.table())
    done = len({outcome.deed for outcome in outcomes})
    print(f"{len(outcomes)} cells of {done} of {len(DEEDS)} operations: {dict(counted)}\nin all {ledger.share()}")
    assert not failed, "\n".join(f"{each.key}: {each.why}" for each in failed)
    assert counted["skipped"] < len(outcomes) / 3, "too many of them were never tried"
