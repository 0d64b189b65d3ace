"""Bytes that are not what they were: at publish, on the server, on the device. It is said, and nothing of them is used."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.fault.test_survival import info
from tests.harness.company import Company, Device, tiny
from twofold.agent.client import Client
from twofold.model.errors import DamagedError

pytestmark = pytest.mark.vm


def three_parts(error: DamagedError) -> bool:
    return bool(error.happened and error.safe and error.next)


def test_an_image_that_changed_since_it_was_built_is_not_published(company: Company, tmp_path: Path) -> None:
    built = tiny(tmp_path / "changed", "changed")
    with built.path("system").open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"somebody else's")
    with pytest.raises(DamagedError) as said:
        company.admin.publish_image(built, company.publisher)
    assert three_parts(said.value)
    assert "changed" not in {each.name for each in company.admin.list_images()}


def test_chunks_damaged_on_the_server_are_not_taken_and_mended_they_are(
    company: Company, user: str, client: Client, device: Device
) -> None:
    root = company.folder / "server"
    before = {path for path in root.rglob("*") if path.is_file()}
    company.publish("spoilt", direct=True)  # a kernel and an initrd are what a check-out brings at once
    company.grant(user, "spoilt", "spoilt", "ochre")
    chunks = {
        path: path.read_bytes() for path in set(root.rglob("*")) - before if path.is_file() and len(path.name) == 64
    }
    assert chunks
    for path, data in chunks.items():
        path.chmod(0o600)
        path.write_bytes(os.urandom(len(data)))
    with pytest.raises(DamagedError) as said:
        client.finish("checkout", workspace="spoilt")
    assert three_parts(said.value), said.value
    assert client.call("list") == {"workspaces": []}
    assert not (device.dirs.state / "workspaces" / "spoilt").exists()
    for path, data in chunks.items():
        path.write_bytes(data)
    client.finish("checkout", workspace="spoilt")
    assert info(client, "spoilt")["run"] == "off"
    end = time.monotonic() + 60
    while (base := info(client, "spoilt")["base"]) is None or base["here"] < base["of"]:
        assert time.monotonic() < end, base
        time.sleep(0.1)


def test_a_store_whose_first_file_is_destroyed_starts_nothing_and_is_listed_with_what_to_do(
    client: Client, work: str, device: Device
) -> None:
    disk = device.dirs.state / "workspaces" / "work" / "vault" / "vault"
    with disk.open("r+b") as file:
        head = file.read(4096)
        file.seek(0)
        file.write(bytes(len(head)))
    with pytest.raises(DamagedError) as said:
        client.finish("start", workspace=work)
    assert three_parts(said.value)
    now = info(client)
    assert (now["run"], now["pid"], now["error"]["code"]) == ("off", 0, "damaged")
    with disk.open("r+b") as file:
        file.write(head)
    client.finish("start", workspace=work)
    assert info(client)["error"] is None
