"""Cells that once were red, each with what it had found; and what the same search found beside them."""

from __future__ import annotations

import time

import pytest

from tests.matrix.cells import FAILURES, Cell, Step, run
from tests.matrix.deeds import DEEDS, CheckOutAgain, Remove
from tests.matrix.stage import Stage, until

pytestmark = pytest.mark.matrix


FOUND = {
    "no folder can be made": ("check out a back up", "server: GET device/images/tiny/N #1", "disk full"),
    "what was seen of images is not kept": ("check out a back up", "server: GET device/devices #1", "disk full"),
    "its last word is not durable": ("check out", "no way back #1", "disk full"),
    "the sealed index does not fit": ("check out", "vaultd: ask seal_part #1", "disk full"),
    "the server keeps a file": ("back up", "server: kept a file #1", "disk full"),
    "done, and the receipt said failed": (
        "company backs up and discards",
        "server: POST device/checkin #1",
        "agent killed",
    ),
    "nobody else could have it": ("remove", "remove the folder #1", "network cut"),
    "nobody else could have it, the agent gone too": ("remove", "server: POST device/checkin #1", "agent killed"),
    "a late receipt freed the lease that was taken since": ("wipe", "drop it from the list #1", "agent killed"),
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("what", FOUND)
def test_a_cell_that_once_was_red(stage: Stage, what: str) -> None:
    deed_name, step, failure_name = FOUND[what]
    (deed,) = [made for each in DEEDS if (made := each()).name == deed_name]
    (failure,) = [each for each in FAILURES if each.name == failure_name]
    outcome = run(deed, stage, Cell(deed.name, Step(step, 1), failure))
    assert outcome.result in ("by itself", "asked again"), outcome
    print(outcome)


@pytest.mark.timeout(240)
def test_what_is_removed_while_the_server_is_away_is_free_for_another_device(stage: Stage) -> None:
    deed = Remove()
    deed.before(stage)
    stage.relay.cut()
    stage.client.finish("remove", workspace="work", yes=True, limit=60)
    assert stage.lease(), "the server could not be told"
    stage.relay.mend()
    assert until(lambda: stage.lease() == "", 90), "it says so at the next contact"


@pytest.mark.timeout(240)
def test_an_agent_answers_soon_after_one_that_was_killed_while_a_back_up_was_opened(stage: Stage) -> None:
    """Its vault process waits for pieces that nobody brings; what it was making is undone, not waited for."""
    deed = CheckOutAgain()
    deed.before(stage)
    stage.hear_beats(on=False)
    stage.hand.begin("vaultd: at open #1", stage.device.kill)
    deed.begin(stage)
    assert until(stage.hand.wait, 30), "it never came to that step"
    began = time.monotonic()
    stage.again()
    assert time.monotonic() - began < 6
    assert until(lambda: not stage.device.vaultds(), 2)
    stage.checkout()
    deed.after(stage)
