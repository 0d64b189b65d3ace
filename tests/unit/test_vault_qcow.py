"""The vault seam over encrypted qcow2 files, on the real storage daemon."""

from __future__ import annotations

import dataclasses
import io
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
from twofold.model.machine import Accelerator, MemoryIdentity
from twofold.model.progress import silent
from twofold.platform import memfd
from twofold.vault import daemon, nbd
from twofold.vault.keys import read_record, write_record
from twofold.vault.qcow import QcowVault, _Open
from twofold.vault.seam import DeviceSpec

KEY = bytes(range(32))
DEVICES = [DeviceSpec("system", 8 << 20, base=True), DeviceSpec("user", 16 << 20)]
SYSTEM = b"golden" * 700_000

pytestmark = pytest.mark.skipif(shutil.which("qemu-storage-daemon") is None, reason="no QEMU tools here")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("t") / "vault"
    QcowVault().create(where, KEY, DEVICES)
    QcowVault().fill(where, KEY, "system", io.BytesIO(SYSTEM), silent)
    return where


class Place:
    def __init__(self, folder: Path) -> None:
        self.where, self.runtime = folder / "vault", folder / "run"
        self.vaults, self.opened = QcowVault(), list[_Open]()

    def open(self) -> _Open:
        vault = self.vaults.open(self.where, KEY, self.runtime)
        assert isinstance(vault, _Open)
        self.opened.append(vault)
        return vault

    def write(self, vault: _Open, data: bytes) -> None:
        with vault.connect("user") as stream:
            client = nbd.Client(stream, "user")
            client.write(4096, data)
            client.flush()

    def suspend(self, vault: _Open) -> MemoryIdentity:
        identity = MemoryIdentity("work", vault.head(), "image", 1, Accelerator.TCG, "q", "m", "c", "s")
        fd = memfd.create("t", 1 << 20)
        os.pwrite(fd, b"memory", 0)
        vault.seal_memory(identity, fd, silent)
        os.close(fd)
        return identity


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Iterator[Place]:
    shutil.copytree(template, tmp_path / "vault")
    (tmp_path / "run").mkdir(mode=0o700)
    place = Place(tmp_path)
    yield place
    for vault in place.opened:
        vault.close()


def test_what_is_written_is_there_again_and_not_in_the_clear(place: Place) -> None:
    vault = place.open()
    place.write(vault, b"secret! " * 512)
    vault.close()
    vault.close()
    assert not any(b"secret! secret!" in path.read_bytes() for path in place.where.iterdir())
    with place.open().connect("user") as stream:
        assert nbd.Client(stream, "user").read(4096, 4096) == b"secret! " * 512


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
    vault.close()
    place.open()


def test_the_next_agent_finds_the_process(place: Place) -> None:
    assert place.vaults.attach(place.where, KEY, place.runtime) is None
    vault = place.open()
    again = place.vaults.attach(place.where, KEY, place.runtime)
    assert again is not None
    assert again.pid == vault.pid
    assert again.head() == vault.head()
    again.close()
    assert not vault.alive()


def test_a_recycled_pid_is_not_taken_for_the_process(place: Place) -> None:
    place.open().close()
    (place.runtime / daemon.RECORD).write_text(f'{{"pid": {os.getpid()}, "started": 1}}')
    assert place.vaults.attach(place.where, KEY, place.runtime) is None


def test_a_killed_process_is_seen_and_the_vault_opens_again(place: Place) -> None:
    vault = place.open()
    place.write(vault, b"kept" * 1024)
    os.kill(vault.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while vault.alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not vault.alive()
    with pytest.raises(UnreachableError):
        vault.connect("user")
    assert place.vaults.attach(place.where, KEY, place.runtime) is None
    with place.open().connect("user") as stream:
        assert nbd.Client(stream, "user").read(4096, 4096) == b"kept" * 1024


def test_each_opening_without_memory_has_a_new_head(place: Place) -> None:
    vault = place.open()
    first = vault.head()
    assert vault.head() == first
    vault.close()
    assert place.open().head() != first


def test_memory_fits_until_the_disks_change(place: Place) -> None:
    vault = place.open()
    place.write(vault, b"a" * 4096)
    identity = place.suspend(vault)
    vault.close()
    vault = place.open()
    assert vault.memory_identity() == identity
    assert vault.head() == identity.disk_head
    fd = vault.open_memory(silent)
    assert os.pread(fd, 6, 0) == b"memory"
    os.close(fd)
    vault.consume_memory()
    assert vault.memory_identity() is None
    assert vault.head() != identity.disk_head


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


def test_the_key_is_on_no_command_line_and_in_no_file(place: Place) -> None:
    vault = place.open()
    words = Path(f"/proc/{vault.pid}/cmdline").read_bytes()
    assert b"/proc/self/fd/" in words
    for secret in (KEY, KEY.hex().encode()):
        assert secret not in words
        assert not any(secret in path.read_bytes() for path in place.where.iterdir())
    limits = Path(f"/proc/{vault.pid}/limits").read_text()
    assert limits.split("Max core file size")[1].split()[:2] == ["0", "0"]


def test_a_wrong_key_opens_nothing_and_leaves_nothing_running(place: Place) -> None:
    with pytest.raises(DamagedError):
        place.vaults.open(place.where, bytes(32), place.runtime)
    # The records of one vault beside the disks of another: the storage daemon itself must refuse the key.
    for name in ("vault.json", "head.json"):
        write_record(place.where / name, bytes(32), read_record(place.where / name, KEY))
    with pytest.raises(DamagedError, match="the key does not open it"):
        place.vaults.open(place.where, bytes(32), place.runtime)
    assert list(place.runtime.glob("*.sock")) == []


@pytest.mark.parametrize("name", ["vault.json", "head.json"])
@pytest.mark.parametrize("text", ["", "{}", '{"body": {}, "mac": ""}', "null"])
def test_spoilt_records(place: Place, name: str, text: str) -> None:
    (place.where / name).write_text(text)
    if name == "vault.json":
        with pytest.raises(DamagedError):
            place.open()
    else:
        assert len(place.open().head()) == 32  # a new state; stored memory, had there been any, no longer fits


def test_a_destroyed_disk_is_reported(place: Place) -> None:
    (place.where / "user.qcow2").write_bytes(bytes(4096))
    with pytest.raises(DamagedError, match="cannot be opened"):
        place.open()
    shutil.copy(place.where / "system.qcow2", place.where / "user.qcow2")
    place.open()


def test_a_process_that_ends_before_it_is_spoken_to_is_reported(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a quick machine it has found the damage, and its socket is gone, before we connect."""
    (place.where / "system.qcow2").write_bytes(b"nonsense" * 1000)
    monkeypatch.setattr(daemon, "harden", lambda pid, **_: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT))
    with pytest.raises(DamagedError, match="cannot be opened"):
        place.open()


def test_create_refuses_and_undoes(place: Place, tmp_path: Path) -> None:
    with pytest.raises(ConflictError):
        place.vaults.create(place.where, KEY, DEVICES)
    for devices in ([DeviceSpec("a", 5)], [DeviceSpec("../x", 4096)], [DeviceSpec("a", 4096)] * 2):
        with pytest.raises((UsageError, BadInputError)):
            place.vaults.create(tmp_path / "new", KEY, devices)
    with pytest.raises(TwofoldError):
        place.vaults.create(tmp_path / "new", KEY, [DeviceSpec("a", 1 << 62)])
    assert not (tmp_path / "new").exists()


def test_fill_refuses_what_does_not_fit(place: Place) -> None:
    with pytest.raises(UsageError, match="larger"):
        place.vaults.fill(place.where, KEY, "system", io.BytesIO(b"x" * (9 << 20)), silent)
    with pytest.raises(NotFoundError):
        place.vaults.fill(place.where, KEY, "other", io.BytesIO(b""), silent)


def test_destroy(place: Place) -> None:
    assert place.vaults.stored_bytes(place.where) > 4 << 20
    place.vaults.destroy(place.where)
    assert not place.where.exists()
    place.vaults.destroy(place.where)
    with pytest.raises(NotFoundError):
        place.vaults.open(place.where, KEY, place.runtime)


def test_a_stranger_on_the_socket_gets_no_device_it_cannot_name(place: Place) -> None:
    vault = place.open()
    stream: socket.socket = vault.connect("user")
    with stream, pytest.raises(TwofoldError, match="no device"):
        nbd.Client(stream, "head.json")
