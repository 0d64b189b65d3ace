"""The arm64 business image on the hosted engine: on another processor it is translated, on Arm it runs as it is."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.bare import boot
from tests.harness.image import business
from tests.vm.test_engine import Life
from tests.vm.test_guest import Talk
from twofold.agent.channel import GuestChannel
from twofold.engine.probe import native
from twofold.model.errors import TwofoldError
from twofold.model.image import Arch
from twofold.model.machine import Accelerator

KEYS = {" ": ("spc",), ">": ("shift", "dot"), ";": ("semicolon",)}

pytestmark = [pytest.mark.vm, pytest.mark.arm, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    folder = tmp_path_factory.mktemp("arm")
    life = Life(folder, Arch.ARM64)
    try:
        life.start()
        yield life
    finally:
        life.end()
        shutil.rmtree(folder, ignore_errors=True)


def talk(life: Life, talk: Callable[[GuestChannel], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        channel = await GuestChannel.connect(life.machine.channel, lambda _: None)
        try:
            async with asyncio.timeout(240):
                return await talk(channel)
        finally:
            await channel.close()

    return life.runner.run(whole())


async def up(channel: GuestChannel) -> None:
    while True:
        try:
            if (await channel.call("hello", timeout=2))["session"]:
                return
        except TwofoldError:
            await asyncio.sleep(0.2)


def test_it_boots_its_agent_answers_and_lists_the_applications(life: Life) -> None:
    began = time.monotonic()
    talk(life, up)
    print(f"arm64 boot to desktop: {time.monotonic() - began:.1f} s")
    apps = talk(life, lambda channel: channel.call("apps", timeout=60))["apps"]
    assert [app["id"] for app in apps] == [app.id for app in life.image.manifest.apps]
    assert all(app["icon"] for app in apps)
    assert len(life.settled().getcolors(1 << 20) or []) > 32  # drawn, not only switched on


def test_it_is_the_same_system_as_on_amd64(life: Life) -> None:
    other = business(Arch.AMD64).manifest
    assert [app.id for app in other.apps] == [app.id for app in life.image.manifest.apps]
    assert other.user_disk_size == life.image.manifest.user_disk_size
    assert other.part("user-template") == life.image.manifest.part("user-template")


def test_the_engine_says_how_it_runs(life: Life) -> None:
    answer = life.engine.answer(Arch.ARM64)
    if native() is not Arch.ARM64:
        assert answer.accelerator is Accelerator.TCG and "translated" in answer.reason
        assert life.engine.cpu_model(life.spec) == "cortex-a76"
    assert Path(f"/proc/{life.machine.pid}/status").read_text().count("Seccomp:\t2") == 1


def test_the_power_button_shuts_it_down(life: Life) -> None:
    """On Arm it is a key on a GPIO line, not ACPI's. The guest's daemon for it comes up when all else has."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        life.do(life.machine.power_button())
        try:
            assert life.runner.run(asyncio.wait_for(life.machine.wait(), 10)) == "guest shut down"
            return
        except TimeoutError:
            continue
    pytest.fail("it never heard the power button")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_one_users_disk_serves_both_kinds_of_processor(tmp_path: Path) -> None:
    """Written by an amd64 guest, read and written by an arm64 one, read by an amd64 one: a device of another kind takes the
    user's disk with its own system beside it."""
    lines: list[str] = []
    for turn, arch in enumerate((Arch.AMD64, Arch.ARM64, Arch.AMD64)):
        with boot(business(arch), tmp_path) as machine:
            guest = Talk(machine)
            guest.until_session()
            guest.launch("lxterminal")
            time.sleep(2)
            lines.append(f"line {turn}")
            for character in f"echo {lines[-1]} >>note; sync":
                machine.press(*KEYS.get(character, (character,)))
            machine.press("ret")
            time.sleep(3)
            machine.qmp("system_powerdown")
            machine.process.wait(timeout=90)
        found = subprocess.run(
            ["debugfs", "-R", "cat /user/note", tmp_path / "user.raw"], capture_output=True, check=True
        )
        assert found.stdout.decode().split("\n")[:-1] == lines
        subprocess.run(["e2fsck", "-fn", tmp_path / "user.raw"], check=True, capture_output=True)
