"""A guest installs packages on its writable disk while its machine and the vault's process are killed in turn. After each kill
the file system is whole as seen from outside, what the guest said was done is there, and memory fits or is refused."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.harness import tiny
from tests.harness.image import business
from tests.harness.inside.plan import expected, step
from tests.harness.long import long
from tests.harness.packages import writable_system
from tests.harness.vault import Kept
from twofold.engine.hosted import HostedEngine
from twofold.engine.machine import HostedMachine
from twofold.model.errors import TwofoldError
from twofold.model.image import Arch, Firmware
from twofold.model.machine import Disk, MemoryIdentity, Spec
from twofold.model.progress import silent
from twofold.platform.run import run
from twofold.vault.seam import DeviceSpec

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

T = TypeVar("T")
SIZE = 1 << 30
SILENCE = 60.0  # seconds after which a guest that says nothing has failed


class Work:
    """The guest, its machine, its vault, and what it has said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kept = folder, Kept(folder)
        self.runtime, self.aside = folder / "run", folder / "aside"
        for each in (self.runtime, self.aside, folder / "cache"):
            each.mkdir(mode=0o700)
        self.engine, self.runner = HostedEngine(folder / "cache"), asyncio.Runner()
        self.image = business()
        disk = writable_system(self.image, folder, SIZE)
        with disk.open("rb") as content:
            self.kept.make([DeviceSpec("system", SIZE)], {"system": content})
        disk.unlink()
        (folder / "initrd").write_bytes(tiny.initrd(self.image, ["install", "plan"]))
        cmdline = f"{self.image.manifest.cmdline} kind=ext4 script=install"
        disks = (Disk("system", "vda", SIZE, read_only=False),)
        self.spec = Spec("work", Arch.AMD64, Firmware.DIRECT, 512, 2, disks, cmdline, sound=False)
        self.begun = self.done = 0
        self.vault = self.kept.open(self.runtime)
        self.machine: HostedMachine
        self.port: socket.socket
        self.lines: tiny.Lines

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(asyncio.wait_for(work, 60))

    def start(self, memory: int | None = None) -> None:
        parts = {"kernel": self.image.path("kernel"), "initrd": self.folder / "initrd"}
        opened = {name: os.open(path, os.O_RDONLY) for name, path in parts.items()}
        try:
            disks = {"system": self.vault.socket}
            self.machine = self.do(self.engine.start(self.spec, disks, opened, self.runtime, memory))
        finally:
            for fd in opened.values():
                os.close(fd)
        self.port = socket.socket(socket.AF_UNIX)
        self.port.connect(str(self.machine.channel))
        self.lines = tiny.Lines(self.port.fileno())

    def hear(self, seconds: float) -> str | None:
        """The guest's next line, taken note of."""
        line = self.lines.next(seconds)
        if line is None:
            return None
        word, _, rest = line.partition(" ")
        assert word in ("begun", "done", "found"), line
        if word == "found":
            self.check_found(rest)
        else:
            setattr(self, word, int(rest))
        return word

    def wait(self, wanted: str) -> None:
        deadline = time.monotonic() + SILENCE
        while self.hear(max(0.0, deadline - time.monotonic())) != wanted:
            assert time.monotonic() < deadline and not self.lines.ended, f"the guest never said {wanted!r}"

    def check_found(self, rest: str) -> None:
        """What was said to be done is there whole; at most what was begun last is not."""
        begun, *states = rest.split()
        found = dict(state.removeprefix("twofold-test-").split("=", 1) for state in states)
        assert int(begun) >= self.begun, f"step {self.begun} was begun, the disk knows of {begun}"
        self.begun = int(begun)
        last = step(self.begun)[0] if self.begun > self.done else None
        for package, version in expected(self.begun).items():
            if package != last:
                assert found.get(str(package)) == f"{version}:ii", f"package {package} after step {self.begun}: {found}"

    def live(self, seconds: float) -> None:
        """Let the guest go on for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.hear(left)

    def gone(self) -> None:
        """QEMU has been killed, or is now."""
        os.kill(self.machine.pid, signal.SIGKILL)
        self.do(self.machine.wait())
        self.do(self.machine.close())
        while self.hear(0.1):
            pass  # said before it died
        self.port.close()

    def kill_vault(self) -> None:
        os.kill(self.vault.pid, signal.SIGKILL)
        end = time.monotonic() + 5
        while self.vault.alive():
            assert time.monotonic() < end
            time.sleep(0.005)
        self.vault.close()

    def check_disk(self) -> None:
        """The file system as a mount after a crash would find it: its journal is replayed, and then nothing is wrong."""
        copy = self.folder / "copy"
        copy.unlink(missing_ok=True)
        run(["nbdcopy", f"nbd+unix:///system?socket={self.vault.socket}", copy])
        assert re.search(r"Filesystem state: +clean$", run(["dumpe2fs", "-h", copy]).stdout.decode(), re.M)
        replayed = run(["e2fsck", "-p", copy], check=False)
        assert replayed.returncode in (0, 1), replayed.stdout.decode()
        whole = run(["e2fsck", "-fn", copy], check=False)
        assert whole.returncode == 0, whole.stdout.decode()
        copy.unlink()

    def seal(self) -> MemoryIdentity:
        """Suspend, and seal the memory; the machine is still there, stopped."""
        memory = self.do(self.machine.suspend())
        try:
            able = self.do(self.engine.capabilities())
            identity = MemoryIdentity(
                "work", self.vault.head(), "business", 1, able.accelerator, able.version,
                self.engine.machine_type(self.spec), self.engine.cpu_model(self.spec), "spec",
            )  # fmt: skip
            self.vault.seal_memory(identity, memory, silent)
        finally:
            os.close(memory)
        return identity

    def sleep(self, victim: str) -> None:
        """Suspended; then the victim is killed, and the machine comes back with its memory, once."""
        identity = self.seal()
        self.gone()
        if victim == "vault":
            self.kill_vault()
            self.vault = self.kept.open(self.runtime)
        self.check_disk()
        assert self.vault.memory_identity() == identity
        memory = self.engine.memory(self.spec)
        try:
            self.vault.open_memory(memory, silent)
            self.start(memory)
        finally:
            os.close(memory)
        self.vault.consume_memory()
        assert self.vault.memory_identity() is None
        self.do(self.machine.resume())
        self.wait("done")

    def refused(self) -> None:
        """The memory that is stored names another state of the disks, and is not given out."""
        identity = self.vault.memory_identity()
        assert identity is not None and identity.disk_head != self.vault.head()
        memory = self.engine.memory(self.spec)
        try:
            with pytest.raises(TwofoldError, match="written since"):
                self.vault.open_memory(memory, silent)
        finally:
            os.close(memory)

    def end(self) -> None:
        if hasattr(self, "machine"):
            self.port.close()
            self.do(self.machine.close())
            left = self.do(self.engine.attach(self.runtime))
            if left is not None:
                self.do(left.kill())
                self.do(left.close())
        self.vault.close()
        self.runner.close()


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    work = Work(tmp_path)
    try:
        yield work
    finally:
        work.end()


@pytest.mark.parametrize("seed", [1, *long(2, 3)])
def test_an_installation_outlives_kills_of_its_machine_and_of_its_vault(work: Work, seed: int, soak: bool) -> None:
    kills = 10 if soak else 3
    dice = random.Random(seed)
    work.start()
    work.wait("done")
    for number in range(kills):
        victim, stale = ("machine", "vault")[number % 2], number % 3 == 1
        work.sleep(victim)
        if stale:
            work.seal()  # and then it goes on after all: this memory belongs to no disk any more
            work.do(work.machine.resume())
            work.wait("done")
        work.live(dice.uniform(0.1, 4))
        if victim == "machine":
            work.gone()
            work.check_disk()
        else:
            work.kill_vault()
            # Somebody looks before QEMU comes back to the new process.
            work.vault = work.kept.open(work.aside)
            work.check_disk()
        if stale:
            work.refused()
        if victim == "machine":
            work.start()
            work.wait("found")
        else:
            work.vault.close()
            work.vault = work.kept.open(work.runtime)
            work.wait("done")
        print(f"kill {number + 1} of {kills} ({victim}): {work.done} installations done")
    assert work.done >= kills
