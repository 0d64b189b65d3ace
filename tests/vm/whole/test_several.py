"""Several workspaces at once: each with its own look, place and key. The others are disks that no recipe of ours made."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from demo.stage import COLOUR, PERSON, WORKSPACE
from tests.vm.whole.conftest import Sight, Whole, until
from twofold.image.build import load
from twofold.model.image import Firmware
from twofold.model.names import PALETTE
from twofold.platform.run import run
from twofold.trust.publisher import publisher

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]
RESCUE = Path("/usr/lib/grub-rescue/grub-rescue-cdrom.iso")  # Debian's grub-rescue-pc
MEMTEST = Path("/boot/memtest86+x64.efi")  # Debian's memtest86+


def colour(name: str) -> int:
    return int(PALETTE[name][1:], 16)


def edge(desk: Sight) -> int:
    """The colour of the frame around everything."""
    return desk.screen.pixel(desk.server.width // 2, 1)


def mark(desk: Sight, tint: int) -> tuple[int, int]:
    """The middle of the rail's mark of that colour."""
    rows, columns = np.nonzero(desk.screen.array[40:-10, 10:60] & 0xFFFFFF == tint)
    assert len(rows) > 200, f"the rail has no mark of the colour {tint:06x}"
    return int(np.median(columns)) + 10, int(np.median(rows)) + 40


@contextmanager
def running(whole: Whole, file: Path, name: str, tint: str, firmware: Firmware) -> Iterator[None]:
    """A disk file as a person makes a workspace of it: import, publish, grant, check out, start; taken away at the end."""
    words = [sys.executable, "-m", "twofold.cli", "image", "import", str(file), "--name", name, "--output", "json"]
    env = whole.stage.environment | {"TWOFOLD_BUILDS": str(whole.stage.home / "builds")}
    told = json.loads(run(words, env=env, timeout=60).stdout)
    built = load(Path(told["folder"]))
    assert built.manifest.firmware is firmware and not built.manifest.has_agent
    whole.admin.publish_image(built, publisher(whole.stage.home / "publisher"))
    whole.admin.add_grant(PERSON, name, name, name.title(), tint)
    whole.client.finish("checkout", workspace=name)
    whole.client.finish("start", workspace=name)
    try:
        yield
    finally:
        whole.client.finish("off", workspace=name)
        whole.client.finish("remove", workspace=name, yes=True)


def lit(desk: Sight) -> float:
    """The share of the guest's part that is not black or our own ground."""
    now = desk.guest & 0xFFFFFF
    return float(np.mean((now >> 16) + (now >> 8 & 255) + (now & 255) > 150))


def test_two_workspaces_at_once_by_keys_and_by_the_rail(whole: Whole) -> None:
    with running(whole, RESCUE, "rescue", "vermilion", Firmware.BIOS):
        looks = {each["workspace"]: each for each in whole.client.call("list")["workspaces"]}
        ours, other = looks[WORKSPACE], looks["rescue"]
        assert ours["run"] == other["run"] == "running"
        assert len({ours["key"], other["key"]}) == 2 and ours["colour"] != other["colour"]
        with whole.desk(editor=False) as desk:
            desk.to_work()

            def front(workspace: str, tint: str) -> None:
                until(lambda: edge(desk) == colour(tint), f"the colour of {workspace}", 10)
                desk.wait_said("workspace", workspace, 5)
                desk.wait_said("live", True, 20)

            def chord(key: int) -> None:
                desk.hands.key(str(key), "Control_L", "Alt_L")

            chord(other["key"])
            front("rescue", "vermilion")
            until(lambda: lit(desk) > 0.003, "GRUB's words on the screen", 40)
            desk.wait_still(20)
            chord(ours["key"])
            front(WORKSPACE, COLOUR)
            whole.field(desk)
            field = desk.text()

            chord(other["key"])
            front("rescue", "vermilion")
            time.sleep(0.5)
            shown = desk.guest.copy()
            desk.hands.type("ls\n", 0.05)
            desk.screen.wait(lambda _: int(np.count_nonzero(desk.guest != shown)) > 300, 10)
            desk.wait_still(10)
            desk.shot("two-workspaces-rescue")
            desk.hands.move(1, 1)  # the person's own pointer is drawn over the picture
            desk.wait_still(10)
            grub = desk.guest.copy()

            desk.hands.click(*mark(desk, colour(COLOUR)))
            front(WORKSPACE, COLOUR)
            desk.settled()
            assert desk.text() == field, "keys for the rescue disk reached the other guest"
            desk.hands.type("12345", 0.03)
            until(lambda: desk.text() == f"{field}12345"[-24:], "five keys in Work")
            desk.wait_still(10)
            desk.shot("two-workspaces-work")

            desk.hands.click(*mark(desk, colour("vermilion")))
            front("rescue", "vermilion")
            time.sleep(1)
            changed = int(np.count_nonzero(desk.guest != grub))
            assert changed < 300, f"{changed} pixels of the rescue disk changed by keys that were Work's"
            for _ in range(10):  # as fast as it goes: what is shown is what has the keys
                chord(ours["key"])
                chord(other["key"])
            desk.hands.sync()
            time.sleep(1)
            front("rescue", "vermilion")
            chord(ours["key"])
            front(WORKSPACE, COLOUR)
            desk.settled()
            assert desk.text() == f"{field}12345"[-24:], "a chord's digit reached the guest"
            chord(0)
            desk.wait_said("shown", False, 5)


def test_a_disk_that_starts_by_uefi_is_seen(whole: Whole, tmp_path: Path) -> None:
    disk = tmp_path / "memtest.raw"
    with disk.open("wb") as file:
        os.truncate(file.fileno(), 48 << 20)
        entry = bytes([0, 0, 2, 0, 0xEF, 0, 0, 0]) + (2048).to_bytes(4, "little") + (47 * 2048).to_bytes(4, "little")
        os.pwrite(file.fileno(), entry, 446)  # one EFI system partition, from 1 MiB on
        os.pwrite(file.fileno(), b"\x55\xaa", 510)
    partition = f"{disk}@@1M"
    run(["mformat", "-i", partition, "-F", "-T", str(47 * 2048), "::"])
    run(["mmd", "-i", partition, "::/EFI", "::/EFI/BOOT"])
    run(["mcopy", "-i", partition, str(MEMTEST), "::/EFI/BOOT/BOOTX64.EFI"])
    with running(whole, disk, "memtest", "purple", Firmware.UEFI), whole.desk(editor=False) as desk:
        desk.to_work()
        key = next(each["key"] for each in whole.client.call("list")["workspaces"] if each["workspace"] == "memtest")
        desk.hands.key(str(key), "Control_L", "Alt_L")
        until(lambda: edge(desk) == colour("purple"), "the colour of memtest", 10)

        def blue() -> bool:
            """Memtest86+ draws on blue (0000aa)."""
            return float(np.mean(desk.guest & 0xFFFFFF == 0x0000AA)) > 0.3

        until(blue, "the blue screen of memtest86+", 60, 0.1)
        desk.shot("memtest-by-uefi")
