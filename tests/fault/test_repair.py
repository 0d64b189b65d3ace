"""Checking out what is here already replaces what the server can send again, and touches no disk. The rest is left alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.fault.test_survival import info
from tests.harness.company import Device
from tests.harness.long import long
from twofold.agent.client import Client
from twofold.model.errors import DamagedError, TwofoldError

pytestmark = pytest.mark.vm


def folder(device: Device, name: str = "work") -> Path:
    return device.dirs.state / "workspaces" / name


def disks(device: Device, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder(device, name) / "vault").glob("s-*")}


@pytest.mark.parametrize("part", ["kernel", "initrd"])
@pytest.mark.parametrize("damage", ["flipped", *long("gone", "short")])
def test_a_damaged_boot_part_is_said_and_replaced_by_another_checkout(
    client: Client, device: Device, part: str, damage: str
) -> None:
    client.finish("checkout", workspace="direct")
    path = folder(device, "direct") / "parts" / f"{part}.sealed"
    before, data = disks(device, "direct"), bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    with pytest.raises(DamagedError, match=f"{part} is damaged") as said:
        client.finish("start", workspace="direct")
    assert "twofold checkout" in said.value.next
    listed = info(client, "direct")
    assert listed["run"] == "off"
    assert listed["error"]["next"] == said.value.next
    # Without a single good chunk in the cache, so that the part comes from the server.
    for chunk in (device.dirs.cache / "chunks").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(os.urandom(chunk.stat().st_size))
    assert client.finish("checkout", workspace="direct")["result"] == {"already": "checked-out", "repaired": [part]}
    assert info(client, "direct")["error"] is None
    assert client.finish("checkout", workspace="direct")["result"] == {"already": "checked-out"}
    assert disks(device, "direct") == before


@pytest.mark.parametrize("file", ["state.json", *long("lease.json", "image.json")])
def test_a_lost_file_that_is_not_only_here_is_replaced_and_the_workspace_runs(
    client: Client, work: str, device: Device, file: str
) -> None:
    device.quit()
    (folder(device) / file).unlink()
    with device.start() as again:
        now = info(again)
        assert now["run"] == "broken"
        assert "twofold checkout work" in now["error"]["next"]
        assert again.finish("checkout", workspace=work)["result"]["repaired"] == [file]
        again.finish("start", workspace=work)
        assert info(again)["run"] == "running"


def test_a_lost_key_is_not_made_anew(client: Client, work: str, device: Device) -> None:
    """A fresh key would make noise of the disks; only a back-up of the old one helps, and this is said."""
    device.quit()
    key = folder(device) / "key.wrapped"
    kept = key.read_bytes()
    key.unlink()
    with device.start() as again:
        with pytest.raises(DamagedError, match="lacks its key") as said:
            again.finish("checkout", workspace=work)
        assert "back-up" in said.value.safe
        assert str(key) in said.value.next
        assert not key.exists()
        device.quit()
    key.write_bytes(kept)
    with device.start() as mended:
        mended.finish("start", workspace=work)


@pytest.mark.parametrize("spoilt", [b'{"schema": "twofold-state-2", "custody": "checked-out"}', *long(b"", b"{")])
def test_a_state_file_that_cannot_be_read_is_left_alone_by_every_agent(
    client: Client, work: str, device: Device, spoilt: bytes
) -> None:
    """An agent that wrote its own idea of it over a newer version's would make the next one undo the whole check-out."""
    device.quit()
    path = folder(device) / "state.json"
    good = json.loads(path.read_text())
    path.write_bytes(spoilt)
    for _ in range(3):
        with device.start() as again:
            now = info(again)
            assert now["run"] == "broken"
            assert now["error"]["happened"] and now["error"]["safe"] and now["error"]["next"]
            with pytest.raises(TwofoldError):
                again.finish("start", workspace=work)
            device.quit()
        assert path.read_bytes() == spoilt
    path.write_text(json.dumps(good))
    with device.start() as mended:
        mended.finish("start", workspace=work)


def test_an_empty_folder_that_a_cut_off_checkout_left_is_no_hindrance(client: Client, device: Device) -> None:
    device.quit()
    folder(device).mkdir(mode=0o700)
    with device.start() as again:
        assert info(again)["run"] == "broken"
        assert "stored" in again.finish("checkout", workspace="work")["result"]
        again.finish("start", workspace="work")
