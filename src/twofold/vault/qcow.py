"""The vault seam's first filling: a folder of LUKS-encrypted qcow2 files and sealed memory.

Files in the folder: `vault.json` (the devices), `head.json` (the state's token), `lock`, `memory.sealed`, and `NAME.qcow2` for
each device. The two records carry a MAC. What this filling does not give, and the real vault will: integrity of the disks'
blocks, freshness against a thief who puts an older copy of the folder back, generations.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from twofold.model.errors import ConflictError, DamagedError, NoRoomError, NotFoundError, UsageError
from twofold.model.machine import MemoryIdentity
from twofold.model.names import slug
from twofold.model.progress import Progress
from twofold.platform.run import CommandError, run
from twofold.vault import daemon, nbd, sealed
from twofold.vault.keys import passphrase, read_record, subkey, sync_folder, write_record
from twofold.vault.seam import DeviceSpec, OpenVault

_FORMAT = "twofold-qcow-1"
_STEP = 1 << 20


class QcowVault:
    """`twofold.vault.seam.Vault` over qcow2 files."""

    def create(self, where: Path, key: bytes, devices: Sequence[DeviceSpec]) -> None:
        _check(key, devices)
        try:
            where.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            raise ConflictError(f"There is a vault in {where} already.", safe="It was not touched.") from None
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, where, ignore_errors=True)
            # qemu-img times its key derivation for seconds, however little of it we ask for: at once, not one by one.
            with ThreadPoolExecutor() as pool:
                made = [
                    pool.submit(_make_disk, _file(where, each.name), passphrase(key), each.size) for each in devices
                ]
            for disk in made:
                disk.result()
            body = {
                "format": _FORMAT,
                "id": os.urandom(16).hex(),
                "devices": [{"name": each.name, "size": each.size, "base": each.base} for each in devices],
            }
            (where / "lock").touch(mode=0o600)
            _write_head(where, key, None)
            write_record(where / "vault.json", key, body)
            sync_folder(where.parent)
            undo.pop_all()

    def fill(self, where: Path, key: bytes, device: str, source: BinaryIO, progress: Progress) -> None:
        specs = _devices(where, key)
        spec = _find(specs, device)
        # A socket's path is short (unix(7)) and a vault's may not be.
        with _locked(where) as lock, tempfile.TemporaryDirectory(prefix="twofold-") as runtime:
            export = daemon.Export(device, _file(where, device), writable=True)
            process = daemon.start([export], passphrase(key), lock, Path(runtime))
            try:
                with process.connect() as stream:
                    _pour(nbd.Client(stream, device), source, spec.size, progress)
            finally:
                process.stop()

    def open(self, where: Path, key: bytes, runtime: Path) -> OpenVault:
        specs = _devices(where, key)
        with _locked(where) as lock:
            _settle_head(where, key, specs)
            exports = [daemon.Export(each.name, _file(where, each.name), not each.base) for each in specs]
            process = daemon.start(exports, passphrase(key), lock, runtime)
        return _Open(where, key, specs, process)

    def attach(self, where: Path, key: bytes, runtime: Path) -> OpenVault | None:
        process = daemon.attach(runtime)
        if process is None:
            self.release(where)
        return _Open(where, key, _devices(where, key), process) if process else None

    def release(self, where: Path) -> None:
        daemon.release(where / "lock")

    def stored_bytes(self, where: Path) -> int:
        return sum(path.stat().st_blocks * 512 for path in where.rglob("*") if path.is_file())

    def destroy(self, where: Path) -> None:
        if not where.exists():
            return
        with _locked(where):
            shutil.rmtree(where)
        sync_folder(where.parent)


class _Open:
    """`twofold.vault.seam.OpenVault`."""

    def __init__(self, where: Path, key: bytes, specs: Sequence[DeviceSpec], process: daemon.Daemon) -> None:
        self._where, self._specs, self._process = where, specs, process
        self._key = key

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        """Whether the vault process runs; where not, the machine on it is to be ended and the vault opened anew."""
        return self._process.alive()

    def connect(self, device: str) -> socket.socket:
        _find(self._specs, device)
        return self._process.connect()

    def head(self) -> str:
        return str(read_record(self._where / "head.json", self._key)["head"])

    def seal_memory(self, identity: MemoryIdentity, memory: int, progress: Progress) -> int:
        if identity.disk_head != self.head():
            raise UsageError("The memory names another state of the disks than they are in.")
        stored = sealed.seal(self._memory, self._memory_key, identity, memory, progress)
        _write_head(self._where, self._key, self.head(), _stamps(self._where, self._specs))
        return stored

    def memory_identity(self) -> MemoryIdentity | None:
        return sealed.identity(self._memory, self._memory_key)

    def open_memory(self, progress: Progress) -> int:
        return sealed.unseal(self._memory, self._memory_key, progress)

    def consume_memory(self) -> None:
        # One wait for the disk makes both durable: the memory is gone, and no copy of it fits this state any more.
        sealed.forget(self._memory)
        _write_head(self._where, self._key, None)

    def close(self) -> None:
        self._process.stop()
        self._key = b""

    @property
    def _memory(self) -> Path:
        return self._where / "memory.sealed"

    @property
    def _memory_key(self) -> bytes:
        return subkey(self._key, "memory")


def _settle_head(where: Path, key: bytes, specs: Sequence[DeviceSpec]) -> None:
    """A new head, unless memory is stored that fits the present one and the disks are untouched since it was sealed."""
    try:
        head = read_record(where / "head.json", key)
        stored = sealed.identity(where / "memory.sealed", subkey(key, "memory"))
    except DamagedError:
        head, stored = {}, None
    # The disks' sizes and times are compared too: a machine that ran on although its memory had been sealed left traces.
    fits = stored is not None and head["head"] == stored.disk_head and head["stamps"] == _stamps(where, specs)
    if not fits:
        _write_head(where, key, None)


def _write_head(where: Path, key: bytes, head: str | None, stamps: dict[str, Any] | None = None) -> None:
    write_record(where / "head.json", key, {"head": head or os.urandom(16).hex(), "stamps": stamps or {}})


def _stamps(where: Path, specs: Sequence[DeviceSpec]) -> dict[str, Any]:
    facts = {spec.name: _file(where, spec.name).stat() for spec in specs if not spec.base}
    return {name: [fact.st_size, fact.st_mtime_ns] for name, fact in facts.items()}


def _check(key: bytes, devices: Sequence[DeviceSpec]) -> None:
    if len(key) != 32:
        raise UsageError("A vault's key has 32 bytes.")
    names = [slug(device.name, "a device") for device in devices]
    if len(set(names)) != len(names):
        raise UsageError("Two devices of one vault have the same name.")
    if any(device.size <= 0 or device.size % 4096 for device in devices):
        raise UsageError("A device's size is a multiple of 4096 bytes.")


def _make_disk(file: Path, words: bytes, size: int) -> None:
    reader = daemon.secret(words)
    options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10,lazy_refcounts=off"
    try:
        run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "--object", f"secret,id=key,file=/proc/self/fd/{reader}",
             "-o", options, str(file), str(size)],
            pass_fds=(reader,),
        )  # fmt: skip
    except CommandError as failed:
        if "No space left" in failed.stderr:
            raise NoRoomError("The disk is too full for a new workspace.", safe="Nothing was kept.") from failed
        raise
    finally:
        os.close(reader)
    file.chmod(0o600)


def _pour(client: nbd.Client, source: BinaryIO, size: int, progress: Progress) -> None:
    """Write all of `source`, leaving out blocks of zeros: a new device reads as zeros."""
    at, zeros = 0, bytes(_STEP)
    while data := source.read(_STEP):
        if at + len(data) > size:
            raise UsageError(f"The source is larger than the device ({size} bytes).")
        if data != zeros[: len(data)]:
            padded = data + bytes(-len(data) % 512)
            client.write(at, padded)
        at += len(data)
        progress("Filling", at, size)
    client.flush()


def _devices(where: Path, key: bytes) -> list[DeviceSpec]:
    if not where.is_dir():
        raise NotFoundError(f"There is no vault in {where}.")
    body = read_record(where / "vault.json", key)
    if body["format"] != _FORMAT:
        raise DamagedError("The vault is of a format that this version cannot read.", next="Update Twofold.")
    return [DeviceSpec(each["name"], each["size"], each["base"]) for each in body["devices"]]


def _find(specs: Sequence[DeviceSpec], device: str) -> DeviceSpec:
    for spec in specs:
        if spec.name == device:
            return spec
    raise NotFoundError(f"The vault has no device {device!r}.")


def _file(where: Path, device: str) -> Path:
    return where / f"{device}.qcow2"


@contextlib.contextmanager
def _locked(where: Path) -> Iterator[int]:
    """The vault's lock as a descriptor. A process that inherits it keeps the lock when we let go."""
    fd = os.open(where / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            raise ConflictError(
                "The workspace's store is open already.", safe="It was left as it is.", next="Stop the workspace first."
            ) from held
        yield fd
    finally:
        os.close(fd)
