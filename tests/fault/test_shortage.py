"""Something is short, gone, damaged or silent: said in words, nothing lost, and mended it goes on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fault.test_survival import info, until
from tests.harness.company import Company, Device
from tests.harness.long import long
from twofold.agent.client import Client
from twofold.model.errors import (
    ConflictError,
    DamagedError,
    MissingError,
    NoRoomError,
    RefusedError,
    TimedOutError,
    TwofoldError,
    UnreachableError,
)

pytestmark = pytest.mark.vm


def restarted(device: Device, **changes: Any) -> Client:
    """The agent anew, after fields of the workspace's state file were changed behind its back."""
    assert device.process is not None
    with device.client() as client:
        client.call("quit")
    device.process.wait(20)
    path = device.dirs.state / "workspaces" / "work" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return device.start()


def test_memory_that_does_not_fit_is_said_before_anything_starts(client: Client, work: str, device: Device) -> None:
    client.finish("start", workspace=work)
    client.finish("suspend", workspace=work)
    with restarted(device, memory_mib=512) as again:
        with pytest.raises(ConflictError) as refused:
            again.finish("start", workspace=work)
        assert "other hardware settings" in refused.value.happened
        assert "--boot" in refused.value.next
        now = info(again)
        assert (now["run"], now["pid"], now["memory_stored"]) == ("suspended", 0, True)
        assert again.finish("start", workspace=work, boot=True)["result"]["resumed"] is False
        assert info(again)["memory_stored"] is False


def test_damaged_memory_is_refused_and_the_disks_boot(client: Client, work: str, device: Device) -> None:
    client.finish("start", workspace=work)
    client.finish("suspend", workspace=work)
    vault = device.dirs.state / "workspaces" / "work" / "vault"
    sealed = max(vault.glob("s-*"))  # written since the start: a few counts, and then the memory
    with sealed.open("r+b") as file:
        file.seek(sealed.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(DamagedError) as damaged:
        client.finish("start", workspace=work)
    assert "disks are safe" in damaged.value.safe
    assert info(client)["run"] == "suspended"
    assert client.finish("start", workspace=work, boot=True)["result"]["resumed"] is False


def test_too_little_memory_is_said_and_nothing_is_started(client: Client, work: str, device: Device) -> None:
    with restarted(device, memory_mib=1 << 24) as again:
        with pytest.raises(NoRoomError, match="MiB of memory"):
            again.finish("start", workspace=work)
        now = info(again)
        assert (now["run"], now["pid"]) == ("off", 0)
        assert now["error"]["code"] == "no-room"


def test_without_qemu_the_package_is_named(client: Client, work: str, device: Device, tmp_path: Path) -> None:
    client.call("quit")
    assert device.process is not None
    device.process.wait(20)
    with device.start(PATH=str(tmp_path)) as again:
        with pytest.raises(MissingError, match="not installed"):
            again.finish("start", workspace=work)
        assert info(again)["run"] == "off"
        checks = {check["name"]: check for check in again.call("doctor")["checks"]}
        assert checks["engine"]["verdict"] == "bad"
        again.call("quit")
        device.process.wait(20)
    with device.start() as mended:
        mended.finish("start", workspace=work)


@pytest.mark.parametrize("file", ["key.wrapped", "vault", *long("lease.json", "image.json", "state.json")])
def test_a_workspace_that_lost_a_file_is_listed_as_broken_and_starts_nothing(
    client: Client, work: str, device: Device, file: str
) -> None:
    client.call("quit")
    assert device.process is not None
    device.process.wait(20)
    path = device.dirs.state / "workspaces" / "work" / file
    away = device.home / "away"
    path.rename(away)
    with device.start() as again:
        now = info(again)
        assert now["run"] == "broken"
        assert now["error"]["happened"] and now["error"]["safe"] and now["error"]["next"]
        with pytest.raises(TwofoldError):
            again.finish("start", workspace=work)
        again.call("quit")
        device.process.wait(20)
    away.rename(path)
    with device.start() as mended:
        mended.finish("start", workspace=work)


@pytest.mark.parametrize("file", ["lease.json", "image.json", *long("key.wrapped")])
def test_a_forged_file_is_refused(client: Client, work: str, device: Device, file: str) -> None:
    client.call("quit")
    assert device.process is not None
    device.process.wait(20)
    path = device.dirs.state / "workspaces" / "work" / file
    data = bytearray(path.read_bytes())
    if file == "image.json":
        data = bytearray(data.replace(b'"cmdline": ""', b'"cmdline": "init=/bin/sh"'))
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with device.start() as again:
        assert info(again)["run"] == "broken"
        with pytest.raises(TwofoldError):
            again.finish("start", workspace=work)


def test_after_the_offline_time_it_is_locked_and_turning_the_clock_back_gains_nothing(
    client: Client, work: str, device: Device, company: Company
) -> None:
    later = int(time.time()) + 8 * 86400
    company.process.send_signal(signal.SIGSTOP)  # the server is away
    try:
        with restarted(device, seen_at=later) as again:
            with pytest.raises(RefusedError, match="locked"):
                again.finish("start", workspace=work)
            assert info(again)["run"] == "off"
    finally:
        company.process.send_signal(signal.SIGCONT)


def test_without_the_server_everything_here_goes_on(
    client: Client, work: str, company: Company, device: Device
) -> None:
    enrolment = device.dirs.state / "device" / "enrolment.json"
    held = json.loads(enrolment.read_text())
    client.call("quit")
    assert device.process is not None
    device.process.wait(20)
    enrolment.write_text(json.dumps(held | {"port": 1}))
    with device.start() as offline:
        with pytest.raises(UnreachableError):
            offline.call("available")
        offline.finish("start", workspace=work)
        offline.finish("suspend", workspace=work)
        offline.finish("start", workspace=work)
        assert info(offline)["run"] == "running"


def test_a_guest_that_never_answers_is_said_and_can_be_switched_off(client: Client) -> None:
    client.finish("checkout", workspace="mute")
    client.finish("start", workspace="mute")
    now = client.call("info", workspace="mute")
    assert (now["has_agent"], now["agent_up"]) == (True, False)
    for verb in ("apps", "windows", "time"):
        began = time.monotonic()
        with pytest.raises((ConflictError, TimedOutError), match="answer"):
            client.call(verb, workspace="mute")
        assert time.monotonic() - began < 25
    with pytest.raises(TimedOutError, match="did not shut down"):
        client.finish("stop", workspace="mute", limit=90)
    assert client.call("info", workspace="mute")["run"] == "running"
    client.finish("off", workspace="mute")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A home on a disk of 900 MiB, which a test can fill."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "small"
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900m,mode=700", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def _fill(folder: Path, leave: int) -> Path:
    filler = folder / "filler"
    with filler.open("wb") as file:
        while (more := shutil.disk_usage(folder).free - leave) > 1 << 20:  # a store that is open takes some meanwhile
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), more)
    return filler


@pytest.mark.root
def test_a_disk_that_fills_up_pauses_the_guest_and_it_goes_on_when_there_is_room(
    company: Company, user: str, small_disk: Path
) -> None:
    device = Device(small_disk / "device")
    try:
        with device.start() as client:
            client.call("enrol", url=company.admin.invite_device(user), name="small")
            filler = _fill(small_disk, 100 << 20)
            with pytest.raises(NoRoomError, match="MiB left"):
                client.finish("checkout", workspace="work")
            assert client.call("list") == {"workspaces": []}
            filler.unlink()
            client.finish("checkout", workspace="work")
            client.finish("start", workspace="work")
            filler = _fill(small_disk, 40 << 20)
            now = until(client, lambda now: now["run"] == "paused")
            assert now["error"]["code"] == "no-room"
            assert "Nothing is lost" in now["error"]["safe"]
            filler.unlink()
            now = until(client, lambda now: now["run"] == "running")
            assert now["error"] is None
            client.finish("off", workspace="work")
            filler = _fill(small_disk, 100 << 20)
            with pytest.raises(NoRoomError):
                client.finish("start", workspace="work")
            filler.unlink()
            client.finish("start", workspace="work")
            filler = _fill(small_disk, 64 << 10)
            client.finish("suspend", workspace="work")  # so small a memory fits into what the store took in advance
            filler.unlink()
            assert client.finish("start", workspace="work")["result"]["resumed"] is True
    finally:
        device.close()
