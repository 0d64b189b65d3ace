"""Another version of an image under a workspace that is out, and its system anew: the user's disk is kept, whatever is killed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fault.test_roaming import until
from tests.harness.company import SIZE, Company, Device, Tiny, tiny
from tests.harness.long import long
from twofold.agent.change import FORMER, NEXT
from twofold.agent.client import Client
from twofold.agent.parts import open_manifest
from twofold.agent.store import IMAGE, KEY
from twofold.image.catalogue import Catalogue
from twofold.model.errors import ConflictError, RefusedError, TwofoldError, UsageError
from twofold.model.image import Firmware, Part, SystemMode
from twofold.model.policy import Policy, Scope
from twofold.trust.device import identity
from twofold.vault import nbd
from twofold.vault.afar import RECORD
from twofold.vault.seam import Base, Keys, OpenVault
from twofold.vault.store import SealedVault

pytestmark = [pytest.mark.vm, pytest.mark.timeout(200)]
USER_DISK, CHANGED, FREE = 8 << 20, 2 << 20, 12 << 20
# A kernel for Multiboot (its header says that it is loaded to 1 MiB) that halts for ever.
_HEADER = (0x1BADB002, 1 << 16, -0x1BADB002 - (1 << 16) & 0xFFFFFFFF, 1 << 20, 1 << 20, 0, 0, (1 << 20) + 32)
HALTS = struct.pack("<8I", *_HEADER) + bytes.fromhex("f4ebfd")
MINE, INSTALLED = b"the letter" * 4000, b"a program" * 4000


def next_of(built: Tiny, folder: Path, **changes: Any) -> Tiny:
    """The same image with another block."""
    shutil.copytree(built.folder, folder)
    disk = bytearray((folder / "system").read_bytes())
    disk[CHANGED : CHANGED + 4096] = os.urandom(4096)
    (folder / "system").write_bytes(disk)
    system = Part("system", len(disk), hashlib.sha256(disk).hexdigest())
    rest = tuple(part for part in built.manifest.parts if part.name != "system")
    return Tiny(folder, dataclasses.replace(built.manifest, **({"parts": (system, *rest)} | changes)))


@pytest.fixture(scope="module")
def images(company: Company, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Tiny]:
    """Version 1 is given out, 2 differs in one block, 3 does not boot, 4 has other disks."""
    folder = tmp_path_factory.mktemp("pair")
    first = tiny(folder / "1", "pair")
    first = Tiny(first.folder, dataclasses.replace(first.manifest, user_disk_size=USER_DISK))
    second = next_of(first, folder / "2")
    third = next_of(second, folder / "3")
    noise = []
    for name in ("kernel", "initrd"):
        third.path(name).write_bytes(os.urandom(300_000))
        noise.append(Part(name, 300_000, hashlib.sha256(third.path(name).read_bytes()).hexdigest()))
    parts = (*third.manifest.parts, *noise)
    third = Tiny(third.folder, dataclasses.replace(third.manifest, parts=parts, firmware=Firmware.DIRECT))
    fourth = next_of(second, folder / "4", user_disk_size=0)
    made = {1: first, 2: second, 3: third, 4: fourth}
    for version, built in made.items():
        company.admin.publish_image(built, company.publisher, share=100 if version == 1 else 0)
    catalogue = Catalogue(company.publisher, company.admin)
    for version in (2, 3, 4):
        catalogue.promote("pair", version, channel=f"try{version}")
    return made


@pytest.fixture
def user(company: Company, images: dict[int, Tiny]) -> str:
    name = company.user(f"changer{os.urandom(3).hex()}")
    company.grant(name, "pair", "work", "blue", Policy(reset=True))
    return name


def asked(company: Company, user: str, verb: str, version: int = 0, *, wait: bool = True) -> dict[str, Any]:
    number = company.admin.find_workspace(user, "work")["number"]
    command = company.admin.ask(number, verb, version=version)["command"]

    def now() -> dict[str, Any]:
        return next(row for row in company.admin.list_asked(number) if row["command"] == command)

    if wait:
        until(lambda: now()["receipt"] is not None, 60)
    return now()


class Disks:
    """A workspace's disks, opened beside its agent on the image that they stand on."""

    def __init__(self, device: Device, runtime: Path) -> None:
        self.device, self.folder = device, device.dirs.state / "workspaces" / "work"
        self.vaults = SealedVault(device.dirs.state / "device", device.dirs.state / "anchors")
        self.runtime = runtime
        runtime.mkdir(mode=0o700, exist_ok=True)

    @property
    def version(self) -> int:
        return self._manifest()[0]

    def _manifest(self) -> tuple[int, str]:
        who = identity(self.device.dirs.state).verify_key
        image, digest = open_manifest(who, (self.folder / IMAGE).read_bytes())
        return image.version, digest

    def open(self) -> OpenVault:
        base = Base(self.folder / "parts" / "base.sealed", self._manifest()[1], (self.device.dirs.cache / "chunks",))
        keys = Keys("work", (self.folder / KEY).read_bytes())
        until(
            lambda: not (self.folder / "vault" / RECORD).exists(), 60
        )  # its agent brings what is still with the server
        return self.vaults.open(self.folder / "vault", keys, self.runtime, base)

    def write(self, disk: str, data: bytes, at: int) -> None:
        def do(client: nbd.Client) -> None:
            client.write(at, data)
            client.flush()

        self._with(disk, do)

    def read(self, disk: str, length: int, at: int) -> bytes:
        return bytes(self._with(disk, lambda client: client.read(at, length)))

    def _with(self, disk: str, do: Callable[[nbd.Client], Any]) -> Any:
        vault = self.open()
        try:
            with vault.connect(disk) as stream:
                return do(nbd.Client(stream, disk))
        finally:
            vault.close()

    def is_version(self, image: Tiny, *, installed: bytes = b"") -> None:
        """The system is that version's, but for the count that its boot sector writes and what was `installed`."""
        whole = bytearray(self.read("system", SIZE, 0))
        plain = bytearray(image.path("system").read_bytes())
        plain[FREE : FREE + len(installed)] = installed
        for disk in (whole, plain):
            disk[4096:8192] = bytes(4096)
        assert whole == plain


@pytest.fixture
def disks(client: Client, work: str, device: Device, tmp_path: Path) -> Disks:
    """A workspace on version 1, in which something was installed, and a letter written."""
    found = Disks(device, tmp_path / "r")
    found.write("system", INSTALLED, FREE)
    found.write("user", MINE, 0)
    return found


def info(client: Client) -> dict[str, Any]:
    return client.call("info", workspace="work")


def start(client: Client) -> dict[str, Any]:
    return dict(client.finish("start", workspace="work", limit=60)["result"])


def off(client: Client) -> None:
    client.finish("off", workspace="work", limit=60)


def test_an_upgrade_of_what_runs_takes_effect_at_its_next_start(
    client: Client, disks: Disks, user: str, company: Company, images: dict[int, Tiny]
) -> None:
    until(lambda: info(client)["base"] is not None and info(client)["base"]["here"] == info(client)["base"]["of"], 60)
    start(client)
    done = asked(company, user, "upgrade", 2)
    assert done["state"] == "done", done
    came = next(each for each in client.call("jobs")["operations"] if each["verb"] == "upgrade")["result"]
    assert 0 < came["received"] < came["image"] // 10, "the changed pieces alone"
    assert info(client)["version"] == 1
    assert info(client)["pending"] == {"change": "upgrade", "version": 2}
    # Its memory belongs to what is there, and is offered as long as that is.
    client.finish("suspend", workspace="work", limit=60)
    assert start(client)["resumed"]
    assert disks.version == 1
    off(client)
    disks.is_version(images[1], installed=INSTALLED)
    assert not start(client)["resumed"]
    assert (info(client)["version"], info(client)["pending"]) == (2, None)
    until(lambda: not (disks.folder / FORMER).exists(), 40)  # it has come up
    off(client)
    disks.is_version(images[2])
    assert disks.read("user", len(MINE), 0) == MINE
    client.finish("backup", workspace="work", limit=60)
    until(lambda: company.admin.find_workspace(user, "work")["version"] == 2, 60)
    assert company.admin.find_workspace(user, "work")["next_version"] == 0
    # Elsewhere it goes on with the version that its newest back up stands on.
    client.finish("discard", workspace="work", yes=True, limit=60)
    client.finish("checkout", workspace="work", limit=60)
    disks.is_version(images[2])
    assert disks.read("user", len(MINE), 0) == MINE


def test_a_point_of_the_past_opens_on_the_version_that_it_was_made_on(
    client: Client, disks: Disks, user: str, company: Company, images: dict[int, Tiny]
) -> None:
    first = client.finish("backup", workspace="work", limit=60)["result"]["id"]
    assert asked(company, user, "upgrade", 2)["state"] == "done"
    start(client)
    off(client)
    disks.write("user", b"later" * 1000, 0)
    assert client.finish("backup", workspace="work", limit=60)["result"]["kind"] == "line"
    client.finish("discard", workspace="work", yes=True, limit=60)
    row = company.admin.find_workspace(user, "work")
    company.admin.restore(row["number"], first, row["head"])
    client.finish("checkout", workspace="work", limit=60)
    assert info(client)["version"] == 1
    until(lambda: info(client)["rest"] is None and info(client)["base"]["here"] == info(client)["base"]["of"], 60)
    disks.is_version(images[1], installed=INSTALLED)
    assert disks.read("user", len(MINE), 0) == MINE


def test_a_version_that_does_not_start_gives_way_to_the_former_one(
    client: Client, disks: Disks, user: str, company: Company, images: dict[int, Tiny]
) -> None:
    assert asked(company, user, "upgrade", 3)["state"] == "done"
    result = start(client)
    assert result["gave_way"] == 3
    assert (info(client)["version"], info(client)["run"], info(client)["pending"]) == (1, "running", None)
    off(client)
    disks.is_version(images[1], installed=INSTALLED)
    assert disks.read("user", len(MINE), 0) == MINE
    assert not (disks.folder / FORMER).exists()
    assert not (disks.folder / NEXT).exists()
    # What has other disks is not even fetched; and an older version is one like any other.
    refused = asked(company, user, "upgrade", 4)
    assert (refused["state"], company.admin.find_workspace(user, "work")["next_version"]) == ("failed", 0)
    assert "other disks" in refused["receipt"]["detail"]


@pytest.mark.parametrize("victim", ["agent", *long("vaultd")])
def test_what_is_cut_off_is_the_old_version_or_the_new(
    victim: str, client: Client, disks: Disks, user: str, company: Company, device: Device, images: dict[int, Tiny]
) -> None:
    """Killed at many moments of the start that changes it; each time what is there is one of the two, whole, with the letter."""
    start(client)  # what accelerates here is found out once
    off(client)
    assert asked(company, user, "upgrade", 2)["state"] == "done"
    agent = client
    for pause in (0.02, 0.07, 0.14, 0.25):
        agent.call("start", workspace="work", boot=True)
        time.sleep(pause)
        if victim == "agent":
            device.kill()
            agent.close()
            agent = device.start()
        else:
            for pid in vaults(device):
                os.kill(pid, signal.SIGKILL)
        settled(agent)
        if info(agent)["pid"]:
            off(agent)
        if disks.version == 2:
            disks.is_version(images[2])
        elif info(agent)["pending"]:
            old = disks.read("system", len(INSTALLED), FREE)
            disks.is_version(images[1], installed=INSTALLED if old == INSTALLED else b"")
        assert disks.read("user", len(MINE), 0) == MINE
    settled(agent)
    agent.finish("start", workspace="work", limit=60)
    off(agent)
    disks.is_version(images[2])
    assert disks.read("user", len(MINE), 0) == MINE
    agent.close()


def settled(agent: Client) -> None:
    """Until no start is under way."""

    def under_way() -> bool:
        starts = [each for each in agent.call("jobs")["operations"] if each["verb"] == "start"]
        return any(each["state"] in ("queued", "running") for each in starts)

    until(lambda: not under_way(), 40)


def vaults(device: Device) -> Iterator[int]:
    """The vault processes of this device."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            named = b"twofold-vaultd" in (path / "cmdline").read_bytes()
            if named and any(str(device.home) in str(fd.readlink()) for fd in (path / "fd").iterdir()):
                yield int(path.name)
        except OSError:
            continue


def test_a_reset_drops_what_was_changed_in_the_system_and_nothing_else(
    client: Client, disks: Disks, user: str, company: Company, images: dict[int, Tiny]
) -> None:
    with pytest.raises(UsageError, match="outside the user's own disk"):
        client.finish("reset", workspace="work")
    assert info(client)["pending"] is None
    start(client)
    client.finish("suspend", workspace="work", limit=60)
    client.finish("reset", workspace="work", yes=True, limit=60)
    assert info(client)["run"] == "off", "suspended memory belongs to the system that is dropped, and is not offered"
    disks.is_version(images[1], installed=INSTALLED)
    start(client)
    off(client)
    disks.is_version(images[1])
    assert disks.read("user", len(MINE), 0) == MINE
    # By the company; and its rule keeps a person from it.
    assert asked(company, user, "reset")["state"] == "done"
    assert info(client)["pending"] == {"change": "reset", "version": 0}


def test_only_what_is_given_out_can_be_gone_to(client: Client, disks: Disks, user: str, company: Company) -> None:
    number = company.admin.find_workspace(user, "work")["number"]
    for version in (0, 1):
        with pytest.raises(ConflictError, match="already"):
            company.admin.ask(number, "upgrade", version=version)
    with pytest.raises(ConflictError, match="channel"):
        company.admin.ask(number, "upgrade", version=9)
    company.admin.set_policy(Scope.USER, user, {"reset": False})
    company.admin.set_policy(Scope.WORKSPACE, str(number), {})
    until(lambda: not info(client)["policy"]["reset"], 60)
    with pytest.raises(RefusedError):
        client.finish("reset", workspace="work", yes=True)
    # Of what nobody has the next holder is asked.
    client.finish("backup", workspace="work", limit=60)
    client.finish("discard", workspace="work", yes=True, limit=60)
    assert company.admin.ask(number, "upgrade", version=2)["command"] == 0
    client.finish("checkout", workspace="work", limit=60)
    until(lambda: info(client)["pending"] == {"change": "upgrade", "version": 2}, 60)
    # Asked to stay after all, it does.
    assert asked(company, user, "upgrade", 1)["state"] == "done"
    assert info(client)["pending"] is None
    assert not (disks.folder / NEXT).exists()


def test_a_system_that_is_never_written_goes_to_another_version_as_well(
    client: Client, user: str, company: Company, device: Device, tmp_path: Path
) -> None:
    first = tiny(tmp_path / "1", "still", direct=True)
    first.path("kernel").write_bytes(HALTS)
    kernel = Part("kernel", len(HALTS), hashlib.sha256(HALTS).hexdigest())
    parts = tuple(kernel if part.name == "kernel" else part for part in first.manifest.parts)
    kind: dict[str, Any] = {"user_disk_size": USER_DISK, "mode": SystemMode.STATELESS, "parts": parts}
    first = Tiny(first.folder, dataclasses.replace(first.manifest, **kind))
    second = next_of(first, tmp_path / "2", user_disk_size=2 * USER_DISK)
    company.admin.publish_image(first, company.publisher)
    company.admin.remove_grant(company.admin.find_workspace(user, "work")["number"])
    company.grant(user, "still", "work", "blue")
    client.finish("checkout", workspace="work", limit=60)
    disks = Disks(device, tmp_path / "r")
    disks.write("user", MINE, 0)
    company.admin.publish_image(second, company.publisher)
    assert asked(company, user, "upgrade")["state"] == "done", "where it goes to is what its channel has"
    start(client)
    off(client)
    assert disks.version == 2
    with pytest.raises(TwofoldError):
        disks.write("system", b"x" * 4096, FREE)
    assert disks.read("system", SIZE, 0) == second.path("system").read_bytes()
    assert disks.read("user", len(MINE), 0) == MINE
    disks.write("user", MINE, 2 * USER_DISK - len(MINE) // 4096 * 4096 - 4096)
