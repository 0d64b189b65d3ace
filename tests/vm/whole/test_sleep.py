"""Suspend and resume with Work in front: the picture stays and says since when; keys wait for the guest and reach it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from demo.stage import WORKSPACE
from tests.vm.whole.conftest import Sight, Whole, until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]


def test_what_is_typed_while_it_wakes_arrives_in_work(whole: Whole, desk: Sight) -> None:
    desk.to_work()
    whole.field(desk)
    desk.hands.type("1", 0.05)
    until(lambda: (desk.text() or "").endswith("1"), "a first key")
    presses = desk.settled()[0].presses
    before = desk.guest.copy()
    held = desk.text()
    whole.client.finish("suspend", workspace=WORKSPACE)
    desk.wait_said("live", False, 10)
    desk.wait_said("run", "suspended", 10)
    time.sleep(0.5)
    desk.shot("asleep")
    dim = desk.guest.copy()
    assert desk.said["shown"] and float(np.mean(dim != before)) > 0.5, "a machine that sleeps looks as if it were live"
    # Beside the page's words, which lie over the middle.
    grey = [np.asarray((each & 0xFF00) >> 8, float)[:, :370].ravel() for each in (before, dim)]
    likeness = float(np.corrcoef(grey[0], grey[1])[0, 1])
    assert likeness > 0.3, f"the last picture is not there any more ({likeness:.2f})"
    desk.hands.type("23", 0.05)
    time.sleep(0.3)
    desk.shot("asleep-typed")
    job = whole.client.call("start", workspace=WORKSPACE)
    desk.hands.type("45", 0.02)
    desk.wait_said("live", True, 30)
    for _ in whole.client.follow(job):
        pass
    until(lambda: desk.text() == f"{held}2345"[-24:], "what was typed meanwhile", 10)  # the field shows its last 24
    assert desk.settled()[0].presses == presses + 4
    whole.up(WORKSPACE, "session_up")
    desk.wait_still(10)
    changed = float(np.mean(desk.guest[200:] != before[200:]))
    assert changed < 0.02, f"after the resume {changed:.1%} of the screen is not as it was"
