"""The real guest is backed up while it runs: its file systems stand still for an instant, and it goes on."""

from __future__ import annotations

import time

import pytest

from demo.stage import WORKSPACE
from tests.vm.whole.conftest import Whole

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]


def test_its_file_systems_are_frozen_for_the_instant_and_thawed_at_once(whole: Whole) -> None:
    before = whole.client.call("info", workspace=WORKSPACE)["whereabouts"]["on_server_at"]
    result = whole.client.finish("backup", workspace=WORKSPACE)["result"]
    assert (result["kind"], result["frozen"]) == ("line", True)
    assert whole.client.call("info", workspace=WORKSPACE)["whereabouts"]["on_server_at"] > before
    # What writes to a disk inside does so again: a launch writes to the person's home and to the journal.
    began = time.monotonic()
    whole.launch("twofold-probe")
    assert time.monotonic() - began < 20
    again = whole.client.finish("backup", workspace=WORKSPACE)["result"]
    assert again["frozen"] is True
    assert again["sent_bytes"] < result["sent_bytes"]
