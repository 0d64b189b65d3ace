"""The arm64 business image on the hosted engine: on another processor it is translated, on Arm it runs as it is."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fault.test_change import Disks
from tests.fault.test_roaming import until
from tests.harness.company import Company, Device
from tests.harness.image import business
from tests.harness.kind import Other
from tests.vm.test_engine import Life
from twofold.agent.channel import GuestChannel
from twofold.agent.client import Client
from twofold.display.machine import Display
from twofold.engine.probe import native
from twofold.model.errors import TwofoldError
from twofold.model.image import Arch
from twofold.model.machine import Accelerator
from twofold.model.policy import Policy

# Linux key codes (linux/input-event-codes.h) of what is typed here.
CODES = {
    "e": (18,), "c": (46,), "h": (35,), "o": (24,), "l": (38,), "i": (23,), "n": (49,), "t": (20,), "s": (31,), "y": (21,),
    " ": (57,), "0": (11,), "1": (2,), "2": (3,), ">": (42, 52), ";": (39,), "\n": (28,),
}  # fmt: skip

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
@pytest.mark.timeout(1800)
def test_one_users_disk_serves_both_kinds_of_processor(tmp_path: Path) -> None:
    """One published version, two devices of one person. Written by an amd64 guest, read and written by an arm64 one, read and
    written by an amd64 one: a device of another kind takes the user's disk with its own system beside it."""
    with Company(tmp_path / "company") as company, ExitStack() as undo:
        builds = [business(arch) for arch in Arch]
        also = [(each, each.first_boot) for each in builds[1:]]
        company.admin.publish_image(builds[0], company.publisher, first_boot=builds[0].first_boot, also=also)
        user = company.user("both")
        company.grant(user, "business", "work", "blue", Policy(keys_leave=True))
        devices = {arch: Other(tmp_path / arch, arch) for arch in Arch}
        clients: dict[Arch, Client] = {}
        for arch, device in devices.items():
            undo.callback(device.close)
            clients[arch] = undo.enter_context(device.start())
            clients[arch].call("enrol", url=company.admin.invite_device(user), name=arch)
        lines: list[str] = []
        for turn, arch in enumerate((Arch.AMD64, Arch.ARM64, Arch.AMD64)):
            client, other = clients[arch], next(clients[each] for each in Arch if each is not arch)
            client.finish("checkout", workspace="work", limit=300)
            assert client.call("info", workspace="work")["version"] == 1
            lines.append(f"line {turn}")
            write(client, f"echo {lines[-1]} >>note; sync\n")
            until(lambda: client.call("info", workspace="work")["rest"] is None, 120)  # noqa: B023 - called here
            assert note(devices[arch], tmp_path) == lines
            client.finish("backup", workspace="work", key=other.call("device")["key"], limit=120)
            client.finish("checkin", workspace="work", limit=120)


def write(client: Client, text: str) -> None:
    """Start it, type into a terminal as a person does, and shut it down."""
    client.finish("start", workspace="work", limit=200)
    until(lambda: bool(client.call("info", workspace="work")["session_up"]), 300)
    client.call("launch", workspace="work", app="lxterminal")
    until(lambda: bool(client.call("windows", workspace="work")["windows"]), 120)
    time.sleep(5)  # its shell, after its window
    ended: list[TwofoldError] = []
    display = Display(client.display("work"), changed=lambda: None, ended=ended.append, sound=False)
    try:
        for character in text:
            for down in (True, False):
                for code in CODES[character]:
                    display.key(code, down)
                    time.sleep(0.05)
        time.sleep(5)
    finally:
        display.close()
    assert not ended
    client.finish("stop", workspace="work", limit=200)


def note(device: Device, folder: Path) -> list[str]:
    """What is written on the user's disk, whose file system is whole."""
    disks, copy = Disks(device, folder / "r"), folder / "user.raw"
    vault = disks.open()
    try:
        export = f"nbd+unix:///user?socket={vault.socket}"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", export, copy], check=True)
    finally:
        vault.close()
    subprocess.run(["e2fsck", "-fn", copy], check=True, capture_output=True)
    found = subprocess.run(["debugfs", "-R", "cat /user/note", copy], capture_output=True, check=True)
    return found.stdout.decode().split("\n")[:-1]
