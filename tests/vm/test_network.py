"""A real guest, agent and server: what the company lists is reached, nothing else is, and a changed policy is heard."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.harness.company import Company, Device, Tiny, tiny
from tests.harness.image import business
from twofold.agent.client import Client
from twofold.engine.network import RECORD
from twofold.image.initrd import build
from twofold.model.image import Firmware, Part
from twofold.model.policy import Policy, Scope
from twofold.platform.limits import start_time
from twofold.platform.run import run

pytestmark = pytest.mark.vm
INIT = Path(__file__).parents[1] / "harness" / "inside" / "outside.sh"
MODULES = ("virtio_pci", "virtio_net")
HEARD = 25.0  # seconds between an administrator's word and what it does


def own() -> str:
    """An address of this machine that a guest can send to; the guest has a loopback of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        return str(probe.getsockname()[0])


def image(folder: Path, at: str, ports: tuple[int, int, int]) -> Tiny:
    """The business image's kernel, and an initramfs that does nothing but try the network."""
    whole, tree = business(), folder / "tree"
    run(["fsck.erofs", f"--extract={tree}", whole.path("system")], timeout=120)
    (modules,) = (tree / "usr/lib/modules").iterdir()
    busybox = (tree / "usr/bin/busybox").read_bytes()
    made = tiny(folder / "image", "outside", direct=True)
    (made.folder / "initrd").write_bytes(build(INIT.read_bytes(), busybox, modules, {"all": MODULES}))
    (made.folder / "kernel").unlink()
    (made.folder / "kernel").symlink_to(whole.path("kernel"))
    parts = [made.manifest.part("system")]
    for name in ("kernel", "initrd"):
        data = made.path(name).read_bytes()
        parts.append(Part(name, len(data), hashlib.sha256(data).hexdigest()))
    told, kept, barred = ports
    words = f"quiet at={at} told={told} kept={kept} barred={barred}"
    manifest = dataclasses.replace(made.manifest, parts=tuple(filter(None, parts)), cmdline=words)
    assert manifest.firmware is Firmware.DIRECT
    return Tiny(made.folder, manifest)


class Server:
    """Listens on one of this machine's own addresses: what it was told, and whether somebody is there now."""

    def __init__(self, at: str) -> None:
        self._listener = socket.create_server((at, 0))
        self.port = int(self._listener.getsockname()[1])
        self.lines: list[str] = []
        self.came = self.there = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                stream, _ = self._listener.accept()
                threading.Thread(target=self._hear, args=[stream], daemon=True).start()

    def _hear(self, stream: socket.socket) -> None:
        self.came, self.there = self.came + 1, self.there + 1
        with stream, suppress(OSError), stream.makefile(errors="replace") as lines:
            for line in lines:
                self.lines.append(line.strip())
        self.there -= 1

    def next(self, seconds: float) -> str | None:
        """What it is told from now on."""
        had, end = len(self.lines), time.monotonic() + seconds
        while len(self.lines) == had and time.monotonic() < end:
            time.sleep(0.05)
        return self.lines[-1] if len(self.lines) > had else None


@pytest.fixture
def world() -> Iterator[tuple[str, Server, Server, Server]]:
    at = own()
    with ExitStack() as stack:
        servers = [Server(at) for _ in range(3)]
        for server in servers:
            stack.callback(server.close)
        yield at, servers[0], servers[1], servers[2]


def until(what: Callable[[], bool], seconds: float) -> float:
    began = time.monotonic()
    while not what():
        assert time.monotonic() < began + seconds, "it did not happen in time"
        time.sleep(0.05)
    return time.monotonic() - began


def process(device: Device) -> int:
    """The network process of the one workspace."""
    (record,) = device.dirs.runtime.glob(f"*/{RECORD}")
    return int(json.loads(record.read_bytes())["pid"])


@pytest.mark.timeout(300)
def test_a_guest_reaches_what_is_listed_and_nothing_else(
    tmp_path: Path, world: tuple[str, Server, Server, Server]
) -> None:
    at, told, kept, barred = world
    ports = told.port, kept.port, barred.port
    with Company(tmp_path / "c") as company, ExitStack() as stack:
        company.admin.publish_image(image(tmp_path, at, ports), company.publisher)
        listed = f"localhost. 127.0.0.1 {at}:{told.port},{kept.port}"
        number = company.grant(company.user("ada"), "outside", "work", "blue", Policy(network=listed))
        device = Device(tmp_path / "d")
        stack.callback(device.close)
        client = stack.enter_context(device.start())
        client.call("enrol", url=company.admin.invite_device("ada"), name="laptop")
        client.finish("checkout", workspace="work", limit=60)
        client.finish("start", workspace="work", limit=60)
        first = told.next(90)
        assert first is not None, "the guest never reached who it may reach"
        assert first.split() == [first.split()[0], "192.0.0.2", "good=1", "evil=1", "bad="]
        until(lambda: kept.there == 1, 10)
        _changed(company, number, told, kept, f"{at}:{told.port}", at)
        assert (told.next(20) or "").endswith("good=0 evil=1 bad="), "the name is no longer known"
        _replaced(device, told)
        _slept(client, told)
        _nothing(company, number, told)
        assert barred.came == 0
        pid = process(device)
        client.finish("off", workspace="work", limit=60)
        assert start_time(pid) is None


def _changed(company: Company, number: int, told: Server, kept: Server, rule: str, at: str) -> None:
    """What was open and is not allowed any more is cut, and does not come back."""
    company.admin.set_policy(Scope.WORKSPACE, str(number), {"network": rule})
    took = until(lambda: kept.there == 0, HEARD)
    print(f"cut {took:.1f} s after the administrator's word")
    came = kept.came
    assert told.next(20) is not None
    assert (kept.there, kept.came) == (0, came)


def _replaced(device: Device, told: Server) -> None:
    """The process dies: without one nothing is reached; QEMU finds the next one, which has the same policy."""
    former = process(device)
    os.kill(former, signal.SIGKILL)
    until(lambda: process_or(device) not in (0, former), 20)
    assert (told.next(40) or "").endswith("good=0 evil=1 bad=")


def process_or(device: Device) -> int:
    with suppress(ValueError, OSError):
        return process(device)
    return 0


def _slept(client: Client, told: Server) -> None:
    """Its address and its count go on where they were."""
    before = int(told.lines[-1].split()[0])
    client.finish("suspend", workspace="work", limit=60)
    done: dict[str, Any] = client.finish("start", workspace="work", limit=60)["result"]
    assert done["resumed"]
    after = (told.next(40) or "0 ").split()
    assert int(after[0]) > before and after[1] == "192.0.0.2"


def _nothing(company: Company, number: int, told: Server) -> None:
    company.admin.set_policy(Scope.WORKSPACE, str(number), {"network": "none"})
    until(lambda: told.next(4) is None, HEARD + 10)
