"""What the agent adds to a workspace's way between devices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.test_vault_moving import Machine
from twofold.agent.moving import keys_name, renewed
from twofold.model.errors import BadInputError, DamagedError


def test_a_new_holders_epoch_is_new_and_not_below_its_leases(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "one")
    keys = machine.vaults.new_keys("work")
    for least, epoch in ((0, 2), (1, 2), (2, 2), (5, 5)):
        fresh = renewed(machine.vaults, keys, least)
        assert [row["epoch"] for row in json.loads(fresh.wrapped)["epochs"]] == list(range(1, epoch + 1))
    with pytest.raises(BadInputError, match="too old"):
        renewed(machine.vaults, keys, 1 << 20)
    with pytest.raises(DamagedError):
        renewed(Machine(tmp_path / "other").vaults, keys, 0)


def test_keys_are_found_by_the_device_that_they_are_for() -> None:
    assert keys_name(bytes(32)) == "keys-66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925.json"
