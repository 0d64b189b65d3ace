"""Pieces of the image are damaged, gone, or can't be had: the guest goes on, or is paused and goes on by itself."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.company import COUNT_AT, Company, Device
from tests.harness.relay import Relay
from twofold.agent.client import Client
from twofold.model.errors import UnreachableError
from twofold.vault import process

pytestmark = pytest.mark.vm


def info(client: Client, name: str = "work") -> dict[str, Any]:
    return client.call("info", workspace=name)


def until(client: Client, done: Callable[[dict[str, Any]], bool], seconds: float = 30) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while not done(now := info(client)):
        assert time.monotonic() < end, now
        time.sleep(0.05)
    return now


def whole(now: dict[str, Any]) -> bool:
    return now["base"] is not None and now["base"]["here"] == now["base"]["of"] > 2 << 20


def chunks(device: Device) -> list[Path]:
    return sorted((device.dirs.cache / "chunks").glob("??/*"))


def head(device: Device) -> str:
    """The state of the disks, which changes with each write of the guest; empty while nobody keeps them."""
    try:
        vault = process.attach(device.dirs.workspace_runtime("work"))
        return "" if vault is None else str(vault.call("head")[0]["head"])
    except UnreachableError:
        return ""


def works(client: Client, device: Device, seconds: float = 30) -> None:
    """The guest counts on its disk."""
    until(client, lambda now: now["run"] == "running", seconds)
    before, end = "", time.monotonic() + seconds
    while not before or head(device) in (before, ""):
        before = before or head(device)
        assert time.monotonic() < end, info(client)
        time.sleep(0.05)


def test_the_image_comes_by_itself_and_goes_with_the_last_workspace(client: Client, work: str, device: Device) -> None:
    assert COUNT_AT % 4096 == 0, "a part of a block: the rest of it is the image's"
    until(client, whole)
    pieces = chunks(device)
    assert len(pieces) > 10
    assert (device.dirs.workspace(work) / "vault").exists()
    stored = sum(path.stat().st_blocks * 512 for path in (device.dirs.workspace(work) / "vault").rglob("*"))
    assert stored < 1 << 20, "the image takes no space in the vault"
    client.finish("checkout", workspace="mute", limit=60)
    until(client, lambda _: whole(info(client, "mute")))
    both = chunks(device)
    receipt = client.finish("remove", workspace=work, yes=True)["result"]["receipt"]
    assert receipt["image_bytes_removed"] > 2 << 20
    assert 0 < len(chunks(device)) < len(both)
    client.finish("remove", workspace="mute", yes=True)
    assert chunks(device) == []


def test_a_piece_damaged_under_a_running_guest_heals(client: Client, work: str, device: Device) -> None:
    until(client, whole)
    good = {path: path.read_bytes() for path in chunks(device)}
    for path, sealed in good.items():
        path.write_bytes(bytes([sealed[0] ^ 1]) + sealed[1:])
    client.finish("start", workspace=work)
    works(client, device)
    healed = [path for path in good if path.read_bytes() == good[path]]
    assert healed, "what the guest read was fetched anew"
    assert all(path.read_bytes() == good[path] or path not in healed for path in good)


def test_without_its_image_and_its_server_a_guest_is_paused_and_goes_on_by_itself(
    client: Client, work: str, device: Device, company: Company
) -> None:
    until(client, whole)
    company.cut()
    try:
        shutil.rmtree(device.dirs.cache / "chunks")
        client.finish("start", workspace=work)
        now = until(client, lambda now: now["run"] == "paused", 60)
        assert now["error"]["code"] in ("unreachable", "timed-out")
        assert "not on this device yet" in now["error"]["happened"]
        assert "goes on by itself" in now["error"]["next"]
        assert now["pid"], "the machine lives"
        # Tried again by a person: paused again, never an error to the guest.
        client.finish("resume", workspace=work)
        until(client, lambda now: now["run"] == "paused", 60)
    finally:
        company.mend()
    now = until(client, lambda now: now["run"] == "running", 60)
    assert now["error"] is None
    works(client, device)
    until(client, whole)


def test_a_piece_that_is_long_on_its_way_holds_the_guest_as_one_that_nobody_brings_does(
    company: Company, user: str, device: Device, line: Relay
) -> None:
    with device.start() as client:
        client.call("enrol", url=line.through(company.admin.invite_device(user)), name="laptop")
        line.rate = 60_000  # what is being brought takes longer than the vault process keeps a read
        client.finish("checkout", workspace="work", limit=60)
        client.finish("start", workspace="work")
        now = until(client, lambda now: now["run"] == "paused", 40)
        assert "not on this device yet" in now["error"]["happened"], now["error"]
        line.rate = 0
        until(client, lambda now: now["run"] == "running" and now["error"] is None, 60)
        works(client, device)


def test_an_agent_that_died_while_a_guest_waits_is_followed_by_one_that_helps(
    client: Client, work: str, device: Device, company: Company
) -> None:
    until(client, whole)
    company.cut()
    try:
        shutil.rmtree(device.dirs.cache / "chunks")
        client.finish("start", workspace=work)
        until(client, lambda now: now["run"] == "paused", 60)
        device.kill()
    finally:
        company.mend()
    with device.start() as again:
        works(again, device, 60)


def test_a_killed_agent_goes_on_where_it_was(client: Client, user: str, device: Device, company: Company) -> None:
    """The server stands still while it is killed, so that it is in the middle of it."""
    client.finish("checkout", workspace="work", limit=60)
    until(client, whole)
    pieces = chunks(device)
    keep = pieces[: len(pieces) // 2]
    times = {path: path.stat().st_mtime_ns for path in keep}
    device.kill()
    for path in pieces[len(pieces) // 2 :]:
        path.unlink()
    with company.standing_still(), device.start() as again:
        now = until(again, lambda now: now["base"] is not None)
        assert 0 < now["base"]["here"] < now["base"]["of"]
        device.kill()
    with device.start() as last:
        until(last, whole, 60)
        assert chunks(device) == pieces
        assert {path: path.stat().st_mtime_ns for path in keep} == times, "what was here was not fetched again"


def test_a_vault_process_that_died_asks_its_agent_again(
    client: Client, work: str, device: Device, company: Company
) -> None:
    until(client, whole)
    client.finish("start", workspace=work)
    works(client, device)
    shutil.rmtree(device.dirs.cache / "chunks")
    vault = process.attach(device.dirs.workspace_runtime(work))
    assert vault is not None
    os.kill(vault.pid, signal.SIGKILL)
    works(client, device, 60)


def test_what_a_start_reads_is_noted(client: Client, work: str, device: Device) -> None:
    until(client, whole)
    client.finish("start", workspace=work)
    works(client, device)
    ranges = client.finish("disk_touched", workspace=work)["result"]["ranges"]
    assert ranges[0] == ["system", 0, 4096], "the boot sector is what a BIOS reads first"
    assert sum(length for _, _, length in ranges) < 1 << 20


def test_on_a_network_that_is_paid_for_by_volume_only_what_a_disk_waits_for_comes(
    company: Company, user: str, device: Device, tmp_path: Path
) -> None:
    tools, said = tmp_path / "tools", tmp_path / "said"
    tools.mkdir()
    said.write_text("GENERAL.STATE:100 (connected)\nGENERAL.METERED:yes (guessed)\n")
    (tools / "nmcli").write_text(f"#!/bin/sh\nexec cat {said}\n")
    (tools / "nmcli").chmod(0o755)
    with device.start(PATH=f"{tools}:{os.environ['PATH']}") as client:
        client.call("enrol", url=company.admin.invite_device(user), name="laptop")
        client.finish("checkout", workspace="work", limit=60)
        now = until(client, lambda now: now["base"] is not None and now["base"]["held"])["base"]
        assert now["here"] < now["of"] // 10
        client.finish("start", workspace="work")
        works(client, device)
        assert not whole(info(client)), "it runs on what it read, and no more came"
        said.write_text("GENERAL.STATE:100 (connected)\nGENERAL.METERED:no\n")
        until(client, whole, 90)
        assert not info(client)["base"]["held"]
