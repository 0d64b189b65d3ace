"""The vault seam over `twofold-vaultd`: sealed log-structured stores, one folder each, their keys in that process alone.

docs/vault-format.md has the files of a vault's folder. Beside it belong a wrapped key, which the agent keeps, and an anchor in
the folder `anchors`, which says how new the vault must be.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from twofold.model.errors import ConflictError, DamagedError, NotFoundError, TwofoldError, UnreachableError, UsageError
from twofold.model.generation import SealedFile
from twofold.model.image import Part
from twofold.model.machine import MemoryIdentity
from twofold.model.names import slug
from twofold.model.progress import Progress
from twofold.platform import cgroup
from twofold.platform.dirs import private
from twofold.platform.peers import listen
from twofold.vault import nbd, process
from twofold.vault.afar import Elsewhere, Feed, here, named
from twofold.vault.control import Conversation
from twofold.vault.generations import Generations, one
from twofold.vault.moving import Feeding, Moving, making, sync_folder, to_wire
from twofold.vault.process import LOG, NBD, SOCKET, Process, Starter
from twofold.vault.seam import Base, DeviceSpec, Filling, Inspected, Keys, OpenVault, Term
from twofold.vault.wanted import Supplied

log = logging.getLogger(__name__)
WRAPPING_KEY = "wrapping.key"
_STEP = 1 << 20


class SealedVault(Moving):
    """`twofold.vault.seam.Vault`. `device` is the folder of the device's keys, `anchors` that of the vaults' anchors, `elsewhere`
    reads what of a vault is not here."""

    def __init__(self, device: Path, anchors: Path, elsewhere: Elsewhere | None = None) -> None:
        self._device, self._anchors, self._elsewhere = device, anchors, elsewhere
        self._filling: dict[Path, Starter] = {}
        self._opening: dict[Path, int] = {}
        self._one = threading.Lock()

    def device_key(self) -> bytes:
        with Starter() as starter, _opened(private(self._device), os.O_DIRECTORY) as folder:
            answer, _ = starter.call("device_key", fds=[folder])
        return bytes.fromhex(answer["public"])

    def new_keys(self, workspace: str) -> Keys:
        self.device_key()
        with Starter() as starter, _opened(self._device / WRAPPING_KEY) as key:
            answer, _ = starter.call("make_keys", {"workspace": workspace}, [key])
        return Keys(workspace, answer["keys"].encode())

    @contextlib.contextmanager
    def creating(self, where: Path, keys: Keys, devices: Sequence[DeviceSpec]) -> Iterator[Filling]:
        _check(devices)
        with making(where, self._anchors / keys.workspace):
            args = {"devices": [{"name": each.name, "size": each.size} for each in devices]}
            with Starter() as starter, self._descriptors(where) as fds:
                starter.call("create", args | to_wire(keys), fds)
                yield _Filling(starter)
                for base in (each.name for each in devices if each.base):
                    starter.call("freeze", {"device": base})
                starter.call("stop")
            sync_folder(where.parent)

    @contextlib.contextmanager
    def resting(self, where: Path, keys: Keys, *, accept: bool = False) -> Iterator[Inspected]:
        with Starter() as starter, self._descriptors(where) as fds, self._feeding(where) as feeding:
            starter.call("open", {"accept": accept} | feeding.args | to_wire(keys), [*fds, *feeding.fds])
            yield _Inspected(starter)
            starter.call("stop")

    def open(
        self, where: Path, keys: Keys, runtime: Path, base: Base | None = None, term: Term | None = None
    ) -> OpenVault:
        with ExitStack() as stack:
            fds = stack.enter_context(self._descriptors(where))
            _require_free(where)  # before the sockets of a process that runs are taken from it
            image = {}
            if base is not None:
                fds.append(stack.enter_context(_opened(base.sealed)))
                fds += [stack.enter_context(_opened(folder, os.O_DIRECTORY)) for folder in base.folders]
                image = {"image": {"digest": base.digest, "folders": len(base.folders)}}
            feeding = stack.enter_context(self._feeding(where))
            fds += feeding.fds
            undo = stack.enter_context(ExitStack())
            for name in (SOCKET, NBD):
                fds.append(stack.enter_context(listen(runtime / name)).fileno())
                undo.callback((runtime / name).unlink, missing_ok=True)
            starter = undo.enter_context(Starter(runtime / LOG))
            cgroup.favour(starter.child.pid, runtime.name)  # the group of the machine that will wait for it
            undo.callback(cgroup.release, runtime.name)
            lease = {"lease": term.to_wire()} if term is not None else {}
            starter.call("open", image | lease | feeding.args | to_wire(keys), fds)
            undo.pop_all()
            feeding.kept = True
            return _Open(process.keep(starter, runtime), self._key, feeding.feed)

    def attach(self, where: Path, runtime: Path) -> OpenVault | None:
        found = process.attach(runtime)
        if found is None:
            self.release(where)
        if found is None:
            return None
        with self._feeding(where) as feeding:
            if feeding.feed is not None:
                try:
                    found.call("feed", fds=feeding.fds)
                    feeding.kept = True
                except TwofoldError as gone:  # its end is looked after elsewhere
                    log.info("a store was not fed: %s", gone.code)
            return _Open(found, self._key, feeding.feed)

    def afar(self, where: Path) -> tuple[int, int] | None:
        files = tuple(named(where).values())
        return (here(where, files), sum(file.length for file in files)) if files else None

    def fill(self, where: Path, progress: Progress) -> bool:
        with Starter() as starter, _opened(where, os.O_DIRECTORY) as folder, self._feeding(where) as feeding:
            if feeding.feed is None:
                return False
            with self._one:
                if self._opening.get(where) or where in self._filling:
                    raise ConflictError("The workspace's store is being opened.", safe="It was left as it is.")
                self._filling[where] = starter
            try:
                answer, _ = starter.call("bring", {}, [folder, *feeding.fds], progress, "bringing the rest")
            except UnreachableError as gone:
                if self._opening.get(where):
                    raise ConflictError(
                        "The workspace's store is being opened.", safe="It was left as it is."
                    ) from gone
                raise
            finally:
                with self._one:
                    self._filling.pop(where, None)
            return bool(answer["more"])

    @contextlib.contextmanager
    def _feeding(self, where: Path, files: Sequence[SealedFile] = ()) -> Iterator[Feeding]:
        """Where a part of the vault in this folder, or of one to be made of `files`, is elsewhere: what it is asked for on."""
        known = {file.name: file for file in files} or named(where)
        if not known or self._elsewhere is None:
            yield Feeding({}, [])
            return
        feed = Feed(where.parent.name, known, self._elsewhere)
        with feed.giving() as end:
            feeding = Feeding({"feed": True}, [end], feed)
            try:
                yield feeding
            finally:
                if not feeding.kept:
                    feed.close()

    @contextlib.contextmanager
    def _alone(self, where: Path) -> Iterator[None]:
        """Nobody fills it while this lasts; who does is ended, which loses nothing but the file on its way."""
        with self._one:
            self._opening[where] = self._opening.get(where, 0) + 1
            filling = self._filling.get(where)
        try:
            if filling is not None:
                filling.child.kill()
                filling.child.wait()
            yield
        finally:
            with self._one:
                self._opening[where] -= 1

    def release(self, where: Path, *, given_up: bool = False) -> None:
        process.release(where / "lock", given_up=given_up)

    def stored_bytes(self, where: Path) -> int:
        return sum(path.stat().st_blocks * 512 for path in where.rglob("*") if path.is_file())

    def destroy(self, where: Path) -> None:
        with self._alone(where):
            _require_free(where)
            self._anchor(where).unlink(missing_ok=True)
            if where.exists():
                shutil.rmtree(where)
                sync_folder(where.parent)

    def _anchor(self, where: Path) -> Path:
        return self._anchors / where.parent.name

    def _key(self) -> AbstractContextManager[int]:
        return _opened(self._device / WRAPPING_KEY)

    @contextlib.contextmanager
    def _descriptors(self, where: Path) -> Iterator[list[int]]:
        """What every opening hands over: the vault's folder, the folder of the anchors, the device's key."""
        if not where.is_dir():
            raise NotFoundError(f"There is no vault in {where}.")
        with ExitStack() as stack:
            stack.enter_context(self._alone(where))
            folder = stack.enter_context(_opened(where, os.O_DIRECTORY))
            anchors = stack.enter_context(_opened(private(self._anchors), os.O_DIRECTORY))
            yield [folder, anchors, stack.enter_context(_opened(self._device / WRAPPING_KEY))]


class _Parts:
    """Sealing and opening of boot parts over a conversation."""

    def __init__(self, talk: Conversation | Process) -> None:
        self._talk = talk

    def seal_part(self, part: Part, plain: int, sealed: int) -> None:
        self._talk.call("seal_part", {"name": part.name, "digest": part.sha256}, [plain, sealed])

    def open_part(self, part: Part, sealed: int) -> int:
        return one(self._talk.call("open_part", {"name": part.name, "digest": part.sha256}, [sealed])[1])


class _Inspected(_Parts, Generations):
    """`twofold.vault.seam.Inspected`."""

    def status(self) -> dict[str, Any]:
        return self._talk.call("status")[0]

    def resize(self, device: str, size: int, *, shrink: bool = False) -> None:
        self._talk.call("resize", {"device": device, "size": size, "shrink": shrink})

    def begin_anew(self, device: str, size: int, *, read_only: bool) -> None:
        self._talk.call("renew", {"device": device, "size": size, "read_only": read_only})

    def consume_memory(self) -> None:
        self._talk.call("consume_memory")

    def check(self, data: bool, progress: Progress) -> dict[str, Any]:
        return self._talk.call("check", {"data": data}, progress=progress, step="reading")[0]


class _Filling(_Parts):
    """`twofold.vault.seam.Filling`."""

    def fill(self, device: str, source: BinaryIO, progress: Progress) -> None:
        _, fds = self._talk.call("connect", {"device": device})
        with socket.socket(fileno=one(fds)) as stream:
            client = nbd.Client(stream, device)
            _pour(client, source, progress)
            client.disconnect()


class _Open(_Inspected, Supplied):
    """`twofold.vault.seam.OpenVault`."""

    _talk: Process

    def __init__(self, talk: Process, key: Callable[[], AbstractContextManager[int]], feed: Feed | None = None) -> None:
        super().__init__(talk)
        self._key, self._feed = key, feed

    def begin_epoch(self, keys: Keys) -> None:
        with self._key() as key:
            self._talk.call("begin_epoch", to_wire(keys), [key])

    def fill(self, progress: Progress) -> bool:
        return bool(self._talk.call("fill", progress=progress, step="bringing the rest")[0]["more"])

    def away(self) -> TwofoldError | None:
        return None if self._feed is None else self._feed.away

    @property
    def pid(self) -> int:
        return self._talk.pid

    def alive(self) -> bool:
        """Whether the vault process runs; where not, the machine on it is to be ended and the vault opened anew."""
        return self._talk.alive()

    def connect(self, device: str) -> socket.socket:
        return socket.socket(fileno=one(self._talk.call("connect", {"device": device})[1]))

    @property
    def socket(self) -> Path:
        return self._talk.runtime / NBD

    def head(self) -> str:
        return str(self._talk.call("head")[0]["head"])

    def seal_memory(self, identity: MemoryIdentity, memory: int, progress: Progress) -> int:
        if identity.disk_head != self.head():
            raise UsageError("The memory names another state of the disks than they are in.")
        args = {"identity": identity.to_wire()}
        return int(self._talk.call("seal_memory", args, [memory], progress, "Sealing memory")[0]["bytes"])

    def memory_identity(self) -> MemoryIdentity | None:
        identity = self._talk.call("memory_identity")[0]["identity"]
        return None if identity is None else MemoryIdentity.from_wire(identity)

    def open_memory(self, memory: int, progress: Progress) -> None:
        self._talk.call("open_memory", fds=[memory], progress=progress, step="Opening memory")

    def renew(self, term: Term) -> None:
        self._talk.call("lease", term.to_wire())

    def close(self) -> None:
        self._talk.stop()
        if self._feed is not None:
            self._feed.close()


@contextlib.contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    except FileNotFoundError as gone:
        raise DamagedError(
            f"{path} is gone, and without it no workspace of this device can be opened.",
            safe="Nothing was changed.",
            next="Restore it from a back-up of this computer.",
        ) from gone
    try:
        yield fd
    finally:
        os.close(fd)


def _require_free(where: Path) -> None:
    """Raises: ConflictError: a vault process has it open, and is not about to end."""
    if not process.free(where / "lock"):
        raise ConflictError(
            "The workspace's store is open already.", safe="It was left as it is.", next="Stop the workspace first."
        )


def _check(devices: Sequence[DeviceSpec]) -> None:
    names = [slug(device.name, "a device") for device in devices]
    if len(set(names)) != len(names):
        raise UsageError("Two devices of one vault have the same name.")
    if any(device.size <= 0 or device.size % 4096 for device in devices):
        raise UsageError("A device's size is a multiple of 4096 bytes.")


def _pour(client: nbd.Client, source: BinaryIO, progress: Progress) -> None:
    """Write all of `source`, leaving out blocks of zeros: a new device reads as zeros."""
    at, zeros = 0, bytes(_STEP)
    while data := source.read(_STEP):
        if at + len(data) > client.size:
            raise UsageError(f"The source is larger than the device ({client.size} bytes).")
        if data != zeros[: len(data)]:
            client.write(at, data + bytes(-len(data) % 512))
        at += len(data)
        progress("Filling", at, client.size)
    client.flush()
