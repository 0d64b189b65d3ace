"""The vault seam on the real vault process."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from twofold.model.errors import (
    BadInputError,
    ConflictError,
    DamagedError,
    NotFoundError,
    TwofoldError,
    UnreachableError,
    UsageError,
)
from twofold.model.image import Part
from twofold.model.machine import Accelerator, MemoryIdentity
from twofold.model.progress import silent
from twofold.platform import memfd
from twofold.platform.peers import listen
from twofold.vault import nbd, process, store
from twofold.vault.moving import to_wire
from twofold.vault.process import RECORD, SOCKET
from twofold.vault.seam import DeviceSpec, Keys, OpenVault
from twofold.vault.store import SealedVault

DEVICES = [DeviceSpec("system", 8 << 20, base=True), DeviceSpec("user", 16 << 20)]
SYSTEM = b"golden" * 700_000


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder, self.where, self.runtime = folder, folder / "work" / "vault", folder / "run"
        self.vaults = SealedVault(folder / "device", folder / "anchors")
        self.opened: list[OpenVault] = []

    @property
    def keys(self) -> Keys:
        return Keys("work", (self.folder / "key").read_bytes())

    def open(self) -> store._Open:
        vault = self.vaults.open(self.where, self.keys, self.runtime)
        assert isinstance(vault, store._Open)
        self.opened.append(vault)
        return vault

    def write(self, vault: OpenVault, data: bytes, at: int = 4096) -> None:
        with vault.connect("user") as stream:
            client = nbd.Client(stream, "user")
            client.write(at, data)
            client.flush()

    def read(self, vault: OpenVault, length: int = 4096, at: int = 4096) -> bytes:
        with vault.connect("user") as stream:
            return nbd.Client(stream, "user").read(at, length)

    def suspend(self, vault: OpenVault) -> MemoryIdentity:
        identity = MemoryIdentity("work", vault.head(), "image", 1, Accelerator.TCG, "q", "m", "c", "s")
        fd = memfd.create("t", 64 << 20)
        os.pwrite(fd, b"memory", 0)
        os.pwrite(fd, b"end" * 100_000, 40 << 20)
        vault.seal_memory(identity, fd, silent)
        os.close(fd)
        return identity


def made(folder: Path, system: bytes = b"") -> Place:
    place = Place(folder)
    keys = place.vaults.new_keys("work")
    (folder / "key").write_bytes(keys.wrapped)
    (folder / "work").mkdir()
    (folder / "run").mkdir(mode=0o700)
    with place.vaults.creating(place.where, keys, DEVICES) as filling:
        if system:
            filling.fill("system", io.BytesIO(system), silent)
    return place


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Place]:
    """A vault with nothing in it."""
    place = made(tmp_path)
    yield place
    for vault in place.opened:
        vault.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("t"), SYSTEM).folder


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Iterator[Place]:
    shutil.copytree(template, tmp_path / "p")
    place = Place(tmp_path / "p")
    yield place
    for vault in place.opened:
        vault.close()


def kill(vault: store._Open) -> None:
    os.kill(vault.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while vault.alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not vault.alive()


def files(folder: Path) -> Iterator[bytes]:
    return (path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_what_is_written_is_there_again_and_not_in_the_clear(place: Place) -> None:
    vault = place.open()
    place.write(vault, b"secret! " * 512)
    vault.close()
    vault.close()
    assert not any(b"secret! secret!" in data for data in files(place.folder))
    assert place.read(place.open()) == b"secret! " * 512


def test_a_base_device_is_what_it_was_filled_with_and_read_only(place: Place) -> None:
    with place.open().connect("system") as stream:
        client = nbd.Client(stream, "system")
        assert client.read_only
        assert client.read(0, 8 << 20).startswith(SYSTEM)
        client.write(0, bytes(512))
        with pytest.raises(TwofoldError, match="failed: E"):
            client.settle()
        assert client.read(0, 512) == SYSTEM[:512]


def test_a_second_opening_is_refused_even_after_the_agent_let_go(place: Place) -> None:
    vault = place.open()
    with pytest.raises(ConflictError):
        place.open()
    with pytest.raises(ConflictError):
        place.vaults.destroy(place.where)
    assert place.read(vault) == bytes(4096), "the first one's sockets are its own still"
    vault.close()
    place.open()


def test_the_next_agent_finds_the_process(place: Place) -> None:
    assert place.vaults.attach(place.where, place.runtime) is None
    vault = place.open()
    again = place.vaults.attach(place.where, place.runtime)
    assert again is not None
    assert again.pid == vault.pid
    assert again.head() == vault.head()
    again.close()
    assert not vault.alive()


def test_a_process_that_nobody_recorded_is_ended(place: Place) -> None:
    """As though the agent had been killed just after the vault was open."""
    with (
        listen(place.runtime / SOCKET) as control,
        process.Starter() as starter,
        place.vaults._descriptors(place.where) as fds,
    ):
        starter.call("open", to_wire(place.keys), [*fds, control.fileno()])
        starter.close()
        time.sleep(0.1)
        assert starter.child.poll() is None, "it outlives who started it"
        assert place.vaults.attach(place.where, place.runtime) is None
        assert starter.child.wait(5) is not None
    place.open()


def test_a_process_whose_agent_dies_before_the_vault_is_open_ends_by_itself(place: Place) -> None:
    with process.Starter() as starter:
        starter.close()
        assert starter.child.wait(5) == 0
    with process.Starter() as starter, place.vaults._descriptors(place.where) as fds:
        starter.call("open", to_wire(place.keys), fds)
        starter.close()
        assert starter.child.wait(5) == 0


def test_a_recycled_pid_is_not_taken_for_the_process(place: Place) -> None:
    place.open().close()
    (place.runtime / RECORD).write_text(f'{{"pid": {os.getpid()}, "started": 1}}')
    assert place.vaults.attach(place.where, place.runtime) is None


def test_a_killed_process_is_seen_and_nothing_acknowledged_is_lost(place: Place) -> None:
    vault = place.open()
    with vault.connect("user") as stream:
        client = nbd.Client(stream, "user")
        client.write(4096, b"kept" * 1024)
        client.settle()  # acknowledged, and never flushed
        kill(vault)
    with pytest.raises(UnreachableError):
        vault.connect("user")
    assert place.vaults.attach(place.where, place.runtime) is None
    assert place.read(place.open()) == b"kept" * 1024


def test_the_head_changes_with_each_write_and_with_nothing_else(place: Place) -> None:
    vault = place.open()
    first = vault.head()
    assert vault.head() == first
    place.write(vault, b"a" * 4096)
    second = vault.head()
    assert second != first
    vault.close()
    vault = place.open()
    assert vault.head() == second
    place.write(vault, b"a" * 4096)
    assert vault.head() not in (first, second)


def test_memory_fits_until_it_is_used(place: Place) -> None:
    vault = place.open()
    place.write(vault, b"a" * 4096)
    identity = place.suspend(vault)
    vault.close()
    vault = place.open()
    assert vault.memory_identity() == identity
    assert vault.head() == identity.disk_head
    fd = memfd.create("memory")
    vault.open_memory(fd, silent)
    assert os.fstat(fd).st_size == 64 << 20
    assert os.pread(fd, 6, 0) == b"memory"
    assert os.pread(fd, 300_000, 40 << 20) == b"end" * 100_000
    assert [at for at, _ in memfd.extents(fd)] == [0, 40 << 20]
    os.close(fd)
    vault.consume_memory()
    assert vault.memory_identity() is None
    kill(vault)  # what was consumed does not come back
    assert place.vaults.attach(place.where, place.runtime) is None
    assert place.open().memory_identity() is None


def test_memory_does_not_fit_after_a_write_that_nobody_announced(place: Place) -> None:
    vault = place.open()
    identity = place.suspend(vault)
    place.write(vault, b"b" * 4096)
    vault.close()
    assert place.open().head() != identity.disk_head


def test_memory_of_another_state_is_not_sealed(place: Place) -> None:
    vault = place.open()
    identity = place.suspend(vault)
    fd = memfd.create("t", 4096)
    with pytest.raises(UsageError):
        vault.seal_memory(dataclasses.replace(identity, disk_head="other"), fd, silent)
    os.close(fd)


def test_a_wrong_device_key_or_another_workspaces_opens_nothing_and_leaves_nothing_running(place: Place) -> None:
    with pytest.raises(DamagedError, match="another workspace"):
        place.vaults.open(place.where, Keys("play", place.keys.wrapped), place.runtime)
    other = SealedVault(place.folder / "other", place.folder / "anchors")
    other.device_key()
    with pytest.raises(DamagedError, match="not sealed for this device"):
        other.open(place.where, place.keys, place.runtime)
    with pytest.raises(DamagedError, match="key does not open"):
        place.vaults.open(place.where, place.vaults.new_keys("work"), place.runtime)
    for spoilt in (b"", b"{}", place.keys.wrapped[:-40], place.keys.wrapped.replace(b"keys-1", b"keys-2")):
        with pytest.raises(DamagedError):
            place.vaults.open(place.where, Keys("work", spoilt), place.runtime)
    assert list(place.runtime.glob("*.sock")) == []
    assert process.free(place.where / "lock")
    place.open()


def test_creating_refuses_and_undoes(place: Place, tmp_path: Path) -> None:
    new = tmp_path / "new" / "vault"

    def make(where: Path, *devices: DeviceSpec, fill: bytes = b"", into: str = "a") -> None:
        with place.vaults.creating(where, Keys("work", place.keys.wrapped), devices) as filling:
            filling.fill(into, io.BytesIO(fill), silent)

    with pytest.raises(ConflictError):
        make(place.where, *DEVICES)
    for devices in ([DeviceSpec("a", 5)], [DeviceSpec("../x", 4096)], [DeviceSpec("a", 4096)] * 2):
        with pytest.raises((UsageError, BadInputError)):
            make(new, *devices)
    with pytest.raises(TwofoldError):
        make(new, DeviceSpec("a", 1 << 62))
    with pytest.raises(UsageError, match="larger"):
        make(new, DeviceSpec("a", 8 << 20), fill=b"x" * (9 << 20))
    with pytest.raises(NotFoundError):
        make(new, DeviceSpec("a", 8 << 20), into="b")
    assert not new.exists()
    make(new, DeviceSpec("a", 8 << 20), fill=b"x" * 4096)


def test_a_killed_makings_anchor_stands_in_nobodys_way(place: Place) -> None:
    shutil.rmtree(place.where)
    assert (place.folder / "anchors" / "work").exists()
    with place.vaults.creating(place.where, place.keys, DEVICES) as filling:
        filling.fill("system", io.BytesIO(SYSTEM), silent)
    place.open()


def test_destroy(place: Place) -> None:
    assert place.vaults.stored_bytes(place.where) > 4 << 20
    place.vaults.destroy(place.where)
    assert not place.where.exists()
    assert list((place.folder / "anchors").iterdir()) == []
    place.vaults.destroy(place.where)
    with pytest.raises(NotFoundError):
        place.vaults.open(place.where, place.keys, place.runtime)


def test_an_older_copy_put_back_is_refused_and_both_states_are_named(place: Place) -> None:
    shutil.copytree(place.where, place.folder / "older")
    vault = place.open()
    place.write(vault, b"new" * 4096)
    vault.close()
    shutil.rmtree(place.where)
    (place.folder / "older").rename(place.where)
    with pytest.raises(DamagedError, match="older") as said:
        place.open()
    assert said.value.safe and said.value.next


def test_boot_parts(place: Place) -> None:
    data = os.urandom(3 << 20)
    part = Part("kernel", len(data), hashlib.sha256(data).hexdigest())
    file = place.folder / "kernel.sealed"
    with place.vaults.resting(place.where, place.keys) as parts:
        plain, sealed = memfd.holding("t", data), os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
        parts.seal_part(part, plain, sealed)
        for fd in (plain, sealed):
            os.close(fd)
    assert data[:64] not in file.read_bytes()
    vault = place.open()
    sealed = os.open(file, os.O_RDONLY)
    opened = vault.open_part(part, sealed)
    assert os.pread(opened, len(data) + 1, 0) == data
    os.close(opened)
    with pytest.raises(DamagedError):
        vault.open_part(dataclasses.replace(part, name="initrd"), sealed)
    os.close(sealed)


def test_a_stranger_on_the_socket_gets_no_device_it_cannot_name(place: Place) -> None:
    vault = place.open()
    with pytest.raises(NotFoundError):
        vault.connect("head.a")
    stream: socket.socket = vault.connect("user")
    with stream, pytest.raises(TwofoldError, match="no device"):
        nbd.Client(stream, "head.a")


def test_nobody_but_its_starter_opens_a_vault_in_it(place: Place) -> None:
    vault = place.open()
    for verb in ("device_key", "make_keys", "create", "open"):
        with pytest.raises(TwofoldError, match="Only who started"):
            vault._talk.call(verb)
    for line in (b"{}\n", b"x\n", b"\xff\n", b'{"id":1,"do":"open_part","fds":3}\n', b" " * 400_000):
        with vault._talk._connect() as stream:
            stream.settimeout(5)
            try:
                stream.sendall(line)
                answer = stream.recv(4096)
            except (BrokenPipeError, ConnectionResetError):
                continue
            assert json.loads(answer.splitlines()[0])["error"]["code"] == "bad-input"
    assert vault.alive()
    assert vault.status()["vault"]["workspace"] == "work"
