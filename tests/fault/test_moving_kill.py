"""Export, import and repair are cut short at any moment, by the death of the agent or of the vault process: done again they
finish, and nothing was lost on the way."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fault.test_moving import AT, DATA, Vault, user
from tests.harness.company import Device
from tests.harness.long import long
from twofold.agent.client import Client
from twofold.model.errors import TwofoldError
from twofold.vault import process

__all__ = ["user"]
BULK = 6 << 20


def holders(device: Device) -> list[int]:
    return process._holders(device.dirs.state / "workspaces" / "work" / "vault" / "lock")


def until(what: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def strike(device: Device, client: Client, victim: str, dice: random.Random, ready: Callable[[], bool]) -> Client:
    """Kill what does the work, a moment after it began; an agent that lives again."""
    until(ready, 5)
    time.sleep(dice.uniform(0, 0.04))
    if victim == "agent":
        client.close()
        device.kill()
        return device.start()
    for pid in holders(device):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return client


def ended(client: Client, operation: str) -> str:
    """How it ended; the next agent knows nothing of it."""
    try:
        found = client.call("job", operation=operation, wait=60.0)
    except TwofoldError:
        return "gone"
    assert found["state"] in ("done", "failed"), found
    if found["state"] == "failed":
        assert found["error"]["happened"] and found["error"]["code"] != "usage"
    return str(found["state"])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", ["agent", "vaultd"])
@pytest.mark.parametrize("rounds", [3, *long(30)])
def test_an_export_is_cut_short_and_goes_on(
    client: Client, work: str, device: Device, tmp_path: Path, victim: str, rounds: int
) -> None:
    dice, stick, store = random.Random(7), tmp_path / "stick", Vault(device, tmp_path / "r")
    key, cut = client.call("device")["key"], 0
    for turn in range(rounds):
        store.write(bytes([turn + 1]) * BULK)
        store.write(DATA, AT // 2)
        begun = client.call("disk_export", workspace=work, to=str(stick), key=key)["operation"]
        client = strike(device, client, victim, dice, lambda: bool(holders(device)) and any(stick.glob("*")))
        cut += ended(client, begun) != "done"
        if (stick / "generation.json").exists():  # what it has a record of, it has whole
            assert all((stick / name).stat().st_size == length for name, length in record(stick).items())
        done = client.finish("disk_export", workspace=work, to=str(stick), key=key)["result"]
        assert len([path for path in stick.iterdir() if path.name[:2] in ("s-", "p-")]) == done["files"]
        assert not list(stick.glob("*.part"))
    client.finish("remove", workspace=work, yes=True)
    client.finish("disk_import", workspace=work, folder=str(stick))
    assert store.read(BULK) == bytes([rounds]) * BULK
    assert store.read(len(DATA), AT // 2) == DATA
    vault = store.open()
    assert [one.note for one in vault.generations()] == ["export"], "those of exports that were cut short are forgotten"
    vault.close()
    print(f"{rounds} exports, {cut} met by the death of the {victim}")
    client.close()


def record(stick: Path) -> dict[str, int]:
    """The files that the folder's record names, and their lengths."""
    payload = json.loads(base64.b64decode(json.loads((stick / "generation.json").read_bytes())["payload"]))
    return {row["name"]: row["length"] for row in payload["files"]}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", ["agent", "vaultd"])
@pytest.mark.parametrize("rounds", [4, *long(40)])
def test_an_import_is_cut_short_and_leaves_nothing_or_all(
    client: Client, work: str, device: Device, tmp_path: Path, victim: str, rounds: int
) -> None:
    dice, stick, store, cut = random.Random(8), tmp_path / "stick", Vault(device, tmp_path / "r"), 0
    key = client.call("device")["key"]
    store.write(b"w" * BULK)
    store.write(DATA, AT // 2)
    client.finish("disk_export", workspace=work, to=str(stick), key=key)
    folder = device.dirs.state / "workspaces" / "work"
    for _ in range(rounds):
        client.finish("remove", workspace=work, yes=True)
        begun = client.call("disk_import", workspace=work, folder=str(stick))["operation"]
        ready = (folder / "vault").exists if victim == "agent" else lambda: bool(holders(device))
        client = strike(device, client, victim, dice, ready)
        state = ended(client, begun)
        listed = [each["run"] for each in client.call("list")["workspaces"]]
        assert listed in ([], ["off"]), listed
        if not listed:
            cut += 1
            assert state != "done"
            assert not folder.exists()
            client.finish("disk_import", workspace=work, folder=str(stick))
        assert store.read(BULK) == b"w" * BULK
        assert store.read(len(DATA), AT // 2) == DATA
    print(f"{rounds} imports, {cut} cut short by the death of the {victim}")
    client.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", ["agent", "vaultd"])
@pytest.mark.parametrize("rounds", [3, *long(30)])
def test_a_repair_is_cut_short_and_finishes(
    client: Client, work: str, device: Device, tmp_path: Path, victim: str, rounds: int
) -> None:
    dice, store, kept = random.Random(9), Vault(device, tmp_path / "r"), tmp_path / "kept"
    store.write(b"w" * BULK)
    store.write(DATA, AT // 2)
    folder, cut = store.folder / "vault", 0
    largest = max(folder.glob("s-*"), key=lambda path: path.stat().st_size)
    shutil.copytree(folder, kept)
    for _ in range(rounds):
        data = bytearray((kept / largest.name).read_bytes())
        data[len(data) // 2] ^= 1
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        (folder / largest.name).write_bytes(data)
        # Put back, it is older than its anchor after the first time: that too is part of the plan.
        begun = client.call("disk_repair", workspace=work, yes=True)["operation"]
        client = strike(device, client, victim, dice, lambda: bool(holders(device)))
        cut += ended(client, begun) != "done"
        client.finish("disk_repair", workspace=work, yes=True)
        found = client.finish("disk_survey", workspace=work)["result"]["plan"]
        assert found["sound"], found
        bulk = store.read(BULK)
        assert bulk.count(b"w") == BULK - 4096
        assert store.read(len(DATA), AT // 2) == DATA
    print(f"{rounds} repairs, {cut} met by the death of the {victim}")
    client.close()
