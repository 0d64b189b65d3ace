"""A workspace goes on here from its newest back up: sealed files come from the server, and are opened under a new key epoch."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.agent.operations import Operation
from twofold.agent.past import Kept, Past
from twofold.agent.remote import Remote, SignedLease
from twofold.agent.store import KEY, VAULT
from twofold.agent.workspace import Workspace
from twofold.model.canonical import canonical
from twofold.model.errors import (
    DamagedError,
    NoRoomError,
    RefusedError,
    TimedOutError,
    UnreachableError,
)
from twofold.model.generation import Manifest, SealedFile
from twofold.trust.keys import VerifyKey
from twofold.trust.signed import Context, verify, verify_by
from twofold.vault.copies import unwritable
from twofold.vault.seam import Contents, Keys

log = logging.getLogger(__name__)
FOLDER = "arriving"  # in the cache: what has come of a back up, for the next try
_PART = ".part"
_STEP = 4 << 20
_PATIENCE, _AGAIN = 60.0, 1.0


@dataclass(frozen=True)
class Beginning:
    """What a check-out goes on from. `keys` are wrapped for several devices, perhaps for this one."""

    head: str
    content: Manifest
    keys: Keys
    least: int  # the key epoch that this holder must write in, or a newer one


def beginning(remote: Remote, signed: SignedLease) -> Beginning | None:
    """What the lease says that this device goes on from, verified; None where the workspace begins anew.

    Raises:
        RefusedError: the documents are not what the lease names, or no device of this user signed them.
    """
    lease, begin = signed.lease, signed.begin
    if not lease.content:
        return None
    known = {VerifyKey.from_hex(public) for public in Past(remote).devices()}
    document, head = begin.get("content"), begin.get("head")
    _, found = verify_by(Context.GENERATION, document, known)
    manifest = Manifest.from_wire(found)
    chosen = manifest.id
    if head is not None:
        restored = verify(Context.GENERATION, head, [remote.enrolment.server_key])
        if not isinstance(restored, dict) or restored.get("of") != manifest.id:
            raise _another()
        chosen = hashlib.sha256(base64.b64decode(head["payload"])).hexdigest()
    own = (manifest.id, chosen, manifest.workspace, manifest.image)
    if own != (lease.content, lease.head, lease.workspace, lease.image):
        raise _another()
    if not isinstance(begin.get("keys"), dict):
        raise _no_key(lease.title)
    return Beginning(lease.head, manifest, Keys(lease.workspace, canonical(begin["keys"])), lease.epoch)


def _another() -> RefusedError:
    return RefusedError(
        "What the server sent is not the back up that its lease names.",
        safe="It was not used.",
        next="Try again; if it stays so, tell your administrator.",
    )


def _no_key(title: str) -> RefusedError:
    return RefusedError(
        f"The back up of {title} is on the server, and its key was never wrapped for this device.",
        safe="Nothing was changed; whoever has the key can still open it.",
        next="On a device that has it:  twofold backup --for KEY   with the key that  twofold disk key  says here.",
    )


def bring(ws: Workspace, past: Past, begin: Beginning, cache: Path, op: Operation) -> dict[str, Any]:
    """All of its files, then the vault of them, under a new key epoch: whoever had older keys opens nothing from here on.

    Raises:
        RefusedError: no key of it is wrapped for this device. NoRoomError. DamagedError: a file is not what was backed up.
    """
    vaults, where, manifest = ws.rooms.vault, ws.folder / VAULT, begin.content
    op.progress("making a new key", 0, 0)
    keys = _fresh(ws, begin)
    came = _Coming(ws.name, past, manifest, cache / FOLDER / ws.name, op)
    received = came.run()
    ws.store.write(ws.name, KEY, keys.wrapped)
    with vaults.receiving(where):
        came.put(where)
        try:
            done = vaults.adopt(where, keys, Contents.of(manifest), op.progress)
        except DamagedError:
            came.clear()  # what is damaged is fetched anew
            raise
    Kept(begin.head, manifest).save(ws.folder)
    came.clear()
    return {"received_back_up": received, "epoch": done["epoch"]}


def _fresh(ws: Workspace, begin: Beginning) -> Keys:
    vaults = ws.rooms.vault
    vaults.device_key()
    try:
        keys = vaults.next_epoch(begin.keys)
        while _newest(keys) < max(begin.least, begin.content.epoch + 1):
            keys = vaults.next_epoch(keys)
    except (DamagedError, RefusedError) as shut:
        log.info("no key for this device: %s", shut.happened, extra={"workspace": ws.name})
        raise _no_key(ws.title) from shut
    return keys


def _newest(keys: Keys) -> int:
    return max(int(row["epoch"]) for row in json.loads(keys.wrapped)["epochs"])


class _Coming:
    """A back up's files on their way, each by its digest; what has come stays for the next try."""

    def __init__(self, name: str, past: Past, manifest: Manifest, folder: Path, op: Operation) -> None:
        self._name, self._past, self._manifest, self._folder, self._op = name, past, manifest, folder, op
        self._done = 0

    def run(self) -> int:
        """Until all are here; returns the bytes that came now."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        keep = {file.digest for file in self._manifest.files}
        for path in self._folder.iterdir():
            if path.name.removesuffix(_PART) not in keep:
                path.unlink()
        lacking = [file for file in self._manifest.files if not self._whole(file).exists()]
        parts = {file.digest: self._part(file) for file in lacking}
        before = sum(path.stat().st_size for path in parts.values() if path.exists())
        total = sum(file.length for file in lacking) - before
        self._require_room(total)
        self._op.whole = self._manifest.length
        for file in lacking:
            self._one(file, total)
        return self._done

    def put(self, where: Path) -> None:
        """Into the vault's folder; the same file where both lie on one disk."""
        for file in self._manifest.files:
            try:
                os.link(self._whole(file), where / file.name)
            except OSError:
                shutil.copyfile(self._whole(file), where / file.name)

    def clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _one(self, file: SealedFile, total: int) -> None:
        part, moved = self._part(file), time.monotonic()
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                at = min(os.fstat(fd).st_size, file.length)
                while at < file.length:
                    self._op.progress("bringing all of its back up", self._done, total)
                    try:
                        data = self._past.read(self._name, file, at, min(_STEP, file.length - at))
                    except (UnreachableError, TimedOutError):
                        if time.monotonic() - moved > _PATIENCE:
                            raise
                        self._op.progress("waiting for the server", self._done, total)
                        time.sleep(_AGAIN)
                        continue
                    at, moved = at + os.pwrite(fd, data, at), time.monotonic()
                    self._done += len(data)
                os.ftruncate(fd, file.length)
                os.fsync(fd)
            finally:
                os.close(fd)
            part.rename(self._whole(file))
        except OSError as failed:
            raise unwritable(self._folder, failed) from failed

    def _whole(self, file: SealedFile) -> Path:
        return self._folder / file.digest

    def _part(self, file: SealedFile) -> Path:
        return self._folder / (file.digest + _PART)

    def _require_room(self, bytes_: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < bytes_:
            raise NoRoomError(
                f"The disk has {free >> 20} MiB left; this back up needs {bytes_ >> 20} MiB.",
                safe="Nothing of it is lost: it is on the server.",
                next=f"Free at least {(bytes_ - free) >> 20} MiB on this disk, then try again.",
            )
