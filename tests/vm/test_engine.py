"""The engine and the vault with a real guest: boot once, then everything that can happen to a running machine."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from PIL import Image, ImageChops

from tests.harness.image import business
from tests.harness.vault import Kept
from twofold.engine.hosted import HostedEngine
from twofold.engine.machine import HostedMachine
from twofold.model.errors import ConflictError, DamagedError, NoRoomError
from twofold.model.image import Arch, Firmware
from twofold.model.machine import Disk, MemoryIdentity, Spec
from twofold.model.progress import silent
from twofold.platform import memfd
from twofold.platform.run import run
from twofold.vault import nbd
from twofold.vault.seam import DeviceSpec

pytestmark = pytest.mark.vm

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]

# The boot sector of writer.S beside this file, up to its signature.
WRITER = bytes.fromhex(
    "fa31c08ed88ed0bc007cfb88163c7cb800208ec031ffb90080b8a55afcf3abbe407c8a163c7cb80043cd13720c668306487c"
    "40ff0e3d7c75e6f4ebfd00800290100040000000002080"
)


class Life:
    """One guest, its vault and its engine, on one event loop."""

    def __init__(self, folder: Path, arch: Arch = Arch.AMD64) -> None:
        self.kept, self.runtime = Kept(folder), folder / "run"
        self.runtime.mkdir(mode=0o700)
        cache = folder / "cache"
        cache.mkdir()
        self.engine = HostedEngine(cache)
        self.runner = asyncio.Runner()
        self.times: dict[str, float] = {}
        self.image = business(arch)
        system, user = self.image.path("system").stat().st_size, self.image.manifest.user_disk_size
        system = (system + 4095) // 4096 * 4096
        with self.image.path("system").open("rb") as golden, self.image.path("user-template").open("rb") as template:
            devices = [DeviceSpec("system", system, base=True), DeviceSpec("user", user)]
            self.kept.make(devices, {"system": golden, "user": template})
        disks = (Disk("system", "vda", system, read_only=True), Disk("user", "vdb", user, read_only=False))
        self.spec = Spec("work", arch, Firmware.DIRECT, 1024, 2, disks, self.image.manifest.cmdline)
        self.vault = self.kept.open(self.runtime)
        self.machine: HostedMachine

    def start(self, memory: int | None = None) -> None:
        disks = {disk.device: self.vault.connect(disk.device) for disk in self.spec.disks}
        parts = {name: os.open(self.image.path(name), os.O_RDONLY) for name in ("kernel", "initrd")}
        try:
            self.machine = self.do(self.engine.start(self.spec, disks, parts, self.runtime, memory))
        finally:
            for sock in disks.values():
                sock.close()
            for fd in parts.values():
                os.close(fd)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(asyncio.wait_for(work, 60))

    def status(self) -> str:
        return str(self.do(self.machine.stats()).status)

    def screen(self) -> Image.Image:
        fd = memfd.create("screen")
        try:
            writer = memfd.reopen(fd, os.O_WRONLY)
            try:
                self.do(self.machine.screendump(writer))
            finally:
                os.close(writer)
            return Image.open(io.BytesIO(os.pread(fd, os.fstat(fd).st_size, 0))).convert("RGB")
        finally:
            os.close(fd)

    def settled(self, seconds: float = 90) -> Image.Image:
        """Wait for a desktop: many colours at the wanted size, the same for two seconds."""
        deadline, before, same = time.monotonic() + seconds, None, 0
        while time.monotonic() < deadline:
            now = self.screen()
            colours = now.getcolors(1 << 20) or []
            drawn = now.size == (1280, 800) and len(colours) > 32
            still = drawn and before is not None and now.size == before.size and differing(now, before) < 0.001
            same = same + 1 if still else 0
            if same == 4:
                return now
            before = now
            time.sleep(0.5)
        raise AssertionError("the guest never showed a desktop")

    def identity(self) -> MemoryIdentity:
        able = self.do(self.engine.capabilities())
        return MemoryIdentity(
            "work", self.vault.head(), "business", 1, able.accelerator, able.version,
            self.engine.machine_type(self.spec), self.engine.cpu_model(self.spec), "spec",
        )  # fmt: skip

    def end(self) -> None:
        if hasattr(self, "machine"):
            self.do(self.machine.close())
            left = self.do(self.engine.attach(self.runtime))
            if left is not None:
                self.do(left.kill())
                self.do(left.close())
        self.vault.close()
        self.runner.close()


def differing(one: Image.Image, other: Image.Image) -> float:
    """The share of pixels that differ."""
    histogram = ImageChops.difference(one, other).convert("L").histogram()
    return sum(histogram[1:]) / sum(histogram)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    folder = tmp_path_factory.mktemp("e")
    life = Life(folder)
    began = time.monotonic()
    try:
        life.start()
        life.settled()
        life.times["boot"] = time.monotonic() - began
        yield life
    finally:
        life.end()
        print({name: round(seconds, 3) for name, seconds in life.times.items()})
        shutil.rmtree(folder, ignore_errors=True)


def test_the_guest_runs_and_its_channel_is_private(life: Life) -> None:
    assert life.status() == "running"
    assert life.machine.channel.is_socket()
    assert life.machine.channel.stat().st_mode & 0o077 == 0
    status = Path(f"/proc/{life.machine.pid}/status").read_text()
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status


def test_no_path_of_the_disks_is_on_a_command_line(life: Life) -> None:
    for pid in (life.machine.pid, life.vault.pid):
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert life.kept.keys.wrapped not in words
    assert str(life.kept.where).encode() not in Path(f"/proc/{life.machine.pid}/cmdline").read_bytes()


def test_a_second_start_and_a_second_opening_are_refused(life: Life) -> None:
    with pytest.raises(ConflictError):
        life.kept.open(life.runtime)
    former = life.machine
    with pytest.raises(ConflictError):
        life.start()
    assert life.machine is former
    assert life.status() == "running"


def test_a_display_stream_speaks_dbus(life: Life) -> None:
    for _ in range(2):  # a second viewer after the first has gone
        stream = life.do(life.machine.display())
        with stream:
            stream.settimeout(5)
            stream.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
            assert stream.recv(200).startswith(b"OK ")


def test_pause_and_resume(life: Life) -> None:
    life.do(life.machine.pause())
    assert life.status() == "paused"
    life.do(life.machine.resume())
    assert life.status() == "running"


def test_what_is_suspended_comes_back_as_it_was(life: Life) -> None:
    life.settled()
    began = time.monotonic()
    memory = life.do(life.machine.suspend())
    life.times["suspend"] = time.monotonic() - began
    before = life.screen()  # the machine is still there, paused
    began = time.monotonic()
    stored = life.vault.seal_memory(life.identity(), memory, silent)
    life.times["seal"] = time.monotonic() - began
    life.times["sealed MiB"] = stored / (1 << 20)
    os.close(memory)
    life.do(life.machine.kill())
    assert life.do(life.machine.wait()) == "killed"
    life.do(life.machine.close())
    life.vault.close()

    began = time.monotonic()
    life.vault = life.kept.open(life.runtime)
    life.times["open vault"] = time.monotonic() - began
    assert life.vault.memory_identity() == life.identity()
    opened = time.monotonic()
    memory = life.engine.memory(life.spec)
    life.vault.open_memory(memory, silent)
    life.times["open memory"] = time.monotonic() - opened
    loading = time.monotonic()
    life.start(memory)
    os.close(memory)
    assert life.status() == "paused"
    life.times["load"] = time.monotonic() - loading
    assert differing(life.screen(), before) == 0
    life.vault.consume_memory()
    assert life.vault.memory_identity() is None
    life.do(life.machine.resume())
    life.times["vault to running"] = time.monotonic() - began
    assert life.status() == "running"
    assert differing(life.settled(), before) < 0.02  # a clock, a cursor


def test_a_machine_whose_memory_could_not_be_kept_goes_on(life: Life) -> None:
    memory = life.do(life.machine.suspend())
    os.close(memory)
    life.do(life.machine.resume())
    assert life.status() == "running"
    os.close(life.do(life.machine.suspend()))
    life.do(life.machine.resume())
    assert life.status() == "running"


TAKEOVER = """
import asyncio, os, sys
from pathlib import Path
from twofold.engine.hosted import HostedEngine
from twofold.vault.store import SealedVault
async def main():
    runtime, where, cache = map(Path, sys.argv[1:4])
    machine = await HostedEngine(cache).attach(runtime)
    vault = SealedVault(where / "device", where / "anchors").attach(where, runtime)
    await machine.pause()
    print(machine.pid, vault.pid, (await machine.stats()).status, flush=True)
    await machine.resume()
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""


def test_another_agent_takes_the_machine_over(life: Life) -> None:
    life.do(life.machine.close())  # one control connection at a time, as if we had died
    argv = [sys.executable, "-c", TAKEOVER, str(life.runtime), str(life.kept.where), str(life.runtime.parent / "cache")]
    done = subprocess.run(
        argv,
        env={"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path])},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert done.stdout.split() == [str(life.machine.pid).encode(), str(life.vault.pid).encode(), b"paused"]
    mine = life.do(life.engine.attach(life.runtime))
    assert mine is not None
    life.machine = mine
    assert life.status() == "running"


def test_a_killed_qemu_is_reported_and_the_disks_start_again(life: Life) -> None:
    os.kill(life.machine.pid, signal.SIGKILL)
    assert "crashed" in life.do(life.machine.wait())
    life.do(life.machine.close())
    assert life.do(life.engine.attach(life.runtime)) is None
    life.start()
    assert life.status() == "running"


def test_a_killed_store_is_seen_and_opens_again(life: Life) -> None:
    life.settled()
    os.kill(life.vault.pid, signal.SIGKILL)
    time.sleep(0.2)
    assert not life.vault.alive()
    life.do(life.machine.kill())
    life.do(life.machine.close())
    life.vault.close()
    life.vault = life.kept.open(life.runtime)
    life.start()
    assert life.settled()


def test_memory_that_is_not_memory_is_refused(life: Life) -> None:
    life.do(life.machine.kill())
    life.do(life.machine.close())
    for size in (1 << 20, 1024 << 20):  # shorter than the machine's; followed by what is no state of its devices
        fd = memfd.create("twofold-ram")
        os.pwrite(fd, os.urandom(8192), size)
        try:
            with pytest.raises(DamagedError):
                life.start(fd)
        finally:
            os.close(fd)
    assert not life.machine.channel.exists()  # everything undone


def test_a_guest_larger_than_the_machine_is_refused(life: Life) -> None:
    spec = Spec("huge", Arch.AMD64, Firmware.BIOS, 1 << 24, 1, ())
    with pytest.raises(NoRoomError, match="MiB in all"):
        life.do(life.engine.start(spec, {}, {}, life.runtime))


@pytest.mark.root  # mounts a small file system
def test_a_full_disk_pauses_the_guest_and_it_goes_on_with_room(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", small], check=True)
    kept, runtime, size = Kept(small), tmp_path / "run", 64 << 20
    runtime.mkdir(mode=0o700)
    engine = HostedEngine(tmp_path)

    async def scene() -> None:
        with vault.connect("disk") as stream:
            machine = await engine.start(spec, {"disk": stream}, {}, runtime)
        try:
            await asyncio.wait_for(machine.paused_by_store.wait(), 30)
            assert (await machine.stats()).status == "io-error"
            await asyncio.to_thread(run, ["mount", "-o", "remount,size=400m", small])
            await machine.resume()
            with vault.connect("disk") as stream:
                reader = nbd.Client(stream, "disk")
                last = (128 + 639 * 64) * 512
                for _ in range(100):
                    if reader.read(last, 32768) == b"\xa5\x5a" * 16384:
                        break
                    await asyncio.sleep(0.2)
                else:
                    raise AssertionError("the guest did not go on")
                assert all(reader.read((128 + 64 * n) * 512, 512) == b"\xa5\x5a" * 256 for n in range(640))
        finally:
            await machine.kill()
            await machine.close()

    try:
        kept.make([DeviceSpec("disk", size)], {"disk": io.BytesIO(WRITER.ljust(510, b"\0") + b"\x55\xaa")})
        run(["mount", "-o", "remount,size=100m", small])  # too little for the first segment and what the cleaner keeps
        vault = kept.open(runtime)
        try:
            spec = Spec("full", Arch.AMD64, Firmware.BIOS, 64, 1, (Disk("disk", "sda", size, read_only=False),),
                        agent_channel=False, sound=False)  # fmt: skip
            asyncio.run(asyncio.wait_for(scene(), 100))
        finally:
            vault.close()
    finally:
        subprocess.run(["umount", small], check=True)
