"""The hosted engine where QEMU is missing, old or dies; and a real QEMU without a guest in it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from twofold.engine import hosted, probe
from twofold.engine.hosted import HostedEngine
from twofold.engine.machine import PIDFILE, last_words, same_process
from twofold.model.errors import ConflictError, MissingError, NoRoomError, UsageError
from twofold.model.image import Arch, Firmware
from twofold.model.machine import Accelerator, Disk, Spec
from twofold.platform import memory
from twofold.platform.limits import start_time
from twofold.platform.run import CommandError

SPEC = Spec("t", Arch.AMD64, Firmware.BIOS, 16, 1, (), agent_channel=False, sound=False)
REAL = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU here")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    answer = probe.Answer(Accelerator.TCG, "a test", 0)
    monkeypatch.setattr(hosted, "probe", lambda *_: answer)
    (tmp_path / "run").mkdir(mode=0o700)
    before = set(Path("/proc/self/fd").iterdir())
    yield tmp_path
    assert len(set(Path("/proc/self/fd").iterdir())) <= len(before)


def fake(place: Path, monkeypatch: pytest.MonkeyPatch, text: str, version: str = "10.0.2 (Test)") -> None:
    program = place / "qemu-system-x86_64"
    program.write_text(
        f'#!/bin/sh\ncase "$1" in --version) echo "QEMU emulator version {version}"; exit;; esac\n{text}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")


def start(place: Path, spec: Spec = SPEC) -> None:
    async def scene() -> None:
        machine = await HostedEngine(place).start(spec, {}, {}, place / "run")
        await machine.kill()
        await machine.close()

    asyncio.run(scene())


def test_no_qemu(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(MissingError, match="not installed"):
        start(place)


@pytest.mark.parametrize("version", ["7.2.19 (Debian 1:7.2)", "9.2.0", "nonsense"])
def test_an_old_qemu(place: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    fake(place, monkeypatch, "exit 1", version)
    with pytest.raises(MissingError, match=r"needs 10\.0 or newer"):
        start(place)


def test_qemu_that_dies_is_quoted_and_undone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(place, monkeypatch, "printf 'bad thing\\033[31m here\\n' >&2; exit 3")
    with pytest.raises(CommandError, match=r"ended with status 3(.|\n)*bad thing\?\[31m here") as failed:
        start(place)
    assert "qemu-system-x86_64" in failed.value.next
    assert [path.name for path in (place / "run").iterdir()] == ["qemu.log"]


def test_qemu_that_never_speaks_is_killed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted, "_START_SECONDS", 0.5)
    fake(place, monkeypatch, f"echo $$ >{place}/pid; exec sleep 60")
    began = time.monotonic()
    with pytest.raises(CommandError):
        start(place)
    assert time.monotonic() - began < 5
    assert start_time(int((place / "pid").read_text())) is None


def test_too_little_memory_starts_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(place, monkeypatch, f"touch {place}/started")
    monkeypatch.setattr(memory, "room", lambda: memory.Room(100 << 20, "this machine"))
    with pytest.raises(NoRoomError, match=r"needs 208 MiB of memory; this machine has 100 MiB left"):
        start(place)
    assert not (place / "started").exists()


def test_disks_that_differ_from_the_spec(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(place, monkeypatch, "exit 1")
    spec = Spec("t", Arch.AMD64, Firmware.BIOS, 16, 1, (Disk("user", "sda", 4096, read_only=False),))
    with pytest.raises(UsageError, match="user"):
        start(place, spec)


def test_a_recycled_pid_is_not_a_machine(place: Path) -> None:
    assert not same_process(os.getpid(), 1)
    assert same_process(os.getpid(), start_time(os.getpid()) or 0)
    for text in (
        "",
        "{}",
        '{"pid": "x", "started": 1, "share": ""}',
        f'{{"pid": {os.getpid()}, "started": 1, "share": ""}}',
    ):
        (place / "run" / PIDFILE).write_text(text)
        assert asyncio.run(HostedEngine(place).attach(place / "run")) is None


def test_last_words_are_the_last_and_printable(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 10_000 + b"\n" + b"\n".join(b"line %d \x1b]0;\xff" % n for n in range(10)))
    said = last_words(log, 2)
    assert said.splitlines() == ["line 8 ?]0;?", "line 9 ?]0;?"]
    assert last_words(tmp_path / "none") == ""


@REAL
def test_a_real_machine_from_start_to_end(place: Path) -> None:
    async def scene() -> None:
        engine = HostedEngine(place)
        machine = await engine.start(SPEC, {}, {}, place / "run", paused=True)
        assert (await machine.stats()).status in ("paused", "prelaunch")
        with pytest.raises(ConflictError):
            await engine.start(SPEC, {}, {}, place / "run")
        await machine.resume()
        stats = await machine.stats()
        assert stats.status == "running"
        assert stats.memory > 10 << 20
        limits = Path(f"/proc/{machine.pid}/limits").read_text()  # noqa: ASYNC240
        assert limits.split("Max core file size")[1].split()[:2] == ["0", "0"]
        display = await machine.display()
        assert display.family == socket.AF_UNIX
        display.close()
        waiting = asyncio.create_task(machine.wait())
        await asyncio.sleep(0)
        await machine.kill()
        await machine.kill()
        assert await waiting == "killed"
        await machine.close()
        await machine.close()
        assert await engine.attach(place / "run") is None
        assert not (place / "run" / PIDFILE).exists()

    asyncio.run(scene())


@REAL
def test_why_a_machine_ended_is_known_although_its_last_words_come_late(place: Path) -> None:
    async def scene() -> None:
        machine = await HostedEngine(place).start(SPEC, {}, {}, place / "run")
        os.kill(machine.pid, signal.SIGTERM)
        assert set(await asyncio.gather(machine.wait(), machine.wait())) == {"ended by a signal"}
        await machine.close()

    asyncio.run(scene())


@REAL
def test_uefi_firmware_starts(place: Path) -> None:
    if not Path("/usr/share/OVMF/OVMF_CODE_4M.fd").exists():
        pytest.skip("no UEFI firmware here")
    spec = Spec("t", Arch.AMD64, Firmware.UEFI, 128, 1, (), agent_channel=False, sound=False)

    async def scene() -> None:
        machine = await HostedEngine(place).start(spec, {}, {}, place / "run")
        await asyncio.sleep(1)
        assert (await machine.stats()).status == "running"
        fd = await machine.suspend()  # its flash survives a suspend
        os.close(fd)
        await machine.kill()
        await machine.close()

    asyncio.run(scene())


@REAL
def test_a_machine_can_be_suspended_and_loaded_without_a_guest(place: Path) -> None:
    async def scene() -> None:
        engine = HostedEngine(place)
        first = await engine.start(SPEC, {}, {}, place / "run")
        fd = await first.suspend()
        await first.kill()
        await first.close()
        second = await engine.start(SPEC, {}, {}, place / "run", memory=fd)
        os.close(fd)
        assert (await second.stats()).status == "paused"
        await second.resume()
        assert (await second.stats()).status == "running"
        await second.kill()
        await second.close()

    asyncio.run(scene())
