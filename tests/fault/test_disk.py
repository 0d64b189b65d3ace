"""The sealed store under a workspace, looked at and turned back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.fault.test_moving import Vault
from tests.fault.test_survival import info
from tests.harness.company import COUNT_AT, Device
from twofold.agent.client import Client
from twofold.model.errors import ConflictError, DamagedError, UsageError

pytestmark = pytest.mark.vm


def vault(device: Device) -> Path:
    return device.dirs.state / "workspaces" / "work" / "vault"


def test_a_store_is_looked_at_while_its_machine_runs_and_while_it_does_not(client: Client, work: str) -> None:
    for run in ("off", "running", "suspended"):
        if run == "running":
            client.finish("start", workspace=work)
        if run == "suspended":
            client.finish("suspend", workspace=work)
        assert info(client)["run"] == run
        found = client.finish("disk_info", workspace=work)["result"]
        assert [(each["name"], each["size"]) for each in found["devices"]] == [("system", 16 << 20)]
        # The system disk stands on the image's chunks: what is in the store is what was written.
        assert found["files"] >= found["live"]
        if run == "suspended":
            assert found["live"] > 1 << 18  # its memory
        for data in (False, True):
            checked = client.finish("disk_check", workspace=work, data=data)["result"]
            assert checked["devices"][0]["lost"] == {"bytes": 0, "ranges": []}
        assert checked["memory"] == ("whole" if run == "suspended" else "none")
    assert client.finish("start", workspace=work)["result"]["resumed"] is True


def test_a_damaged_block_is_named_and_the_machine_runs_without_it(
    client: Client, work: str, device: Device, tmp_path: Path
) -> None:
    Vault(device, tmp_path / "r").write(os.urandom(2 << 20), 1 << 20)
    first = max(vault(device).glob("s-*"), key=lambda path: path.stat().st_size)
    with first.open("r+b") as file:  # 2 MiB of noise from 1 MiB on are all that was written
        file.seek(first.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    (found,) = client.finish("disk_check", workspace=work, data=True)["result"]["devices"]
    (lost,) = found["lost"]["ranges"]
    assert (found["lost"]["bytes"], lost["length"]) == (4096, 4096)
    assert 1 << 20 <= lost["offset"] < 3 << 20
    assert first.name in lost["why"]
    assert lost["offset"] != COUNT_AT
    client.finish("start", workspace=work)
    assert info(client)["run"] == "running"


def test_a_store_that_was_turned_back_starts_nothing_until_somebody_wants_it(
    client: Client, work: str, device: Device
) -> None:
    older = device.home / "older"
    client.finish("start", workspace=work)
    client.finish("suspend", workspace=work)
    shutil.copytree(vault(device), older)
    client.finish("start", workspace=work)
    with pytest.raises(ConflictError):
        client.finish("disk_repair", workspace=work, yes=True)
    client.finish("off", workspace=work)
    shutil.rmtree(vault(device))
    older.rename(vault(device))
    with pytest.raises(DamagedError, match="older than it was") as said:
        client.finish("start", workspace=work)
    assert said.value.safe and "disk repair" in said.value.next
    with pytest.raises(UsageError, match="given up"):
        client.finish("disk_repair", workspace=work)
    client.finish("disk_repair", workspace=work, yes=True)
    assert info(client)["error"] is None
    client.finish("start", workspace=work)
    assert info(client)["run"] == "running"
