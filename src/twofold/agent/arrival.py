"""A workspace goes on here from its newest back up, under a new key epoch; its files come when they are read, and behind."""

from __future__ import annotations

import base64
import hashlib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.agent.change import begin_anew
from twofold.agent.operations import Operation
from twofold.agent.past import Kept, Past
from twofold.agent.remote import Remote, SignedLease
from twofold.agent.store import KEY, VAULT
from twofold.agent.workspace import Workspace
from twofold.model.canonical import canonical
from twofold.model.errors import (
    ConflictError,
    DamagedError,
    NoRoomError,
    RefusedError,
)
from twofold.model.generation import Manifest
from twofold.model.image import ImageVersion, SystemMode
from twofold.trust.keys import VerifyKey
from twofold.trust.signed import Context, verify, verify_by
from twofold.vault.seam import Contents, Inspected, Keys

log = logging.getLogger(__name__)


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


def require_carried(title: str, manifest: Manifest, image: ImageVersion) -> None:
    """Whether a workspace whose disks are `manifest`'s can go on here on `image`, of the same version. The user's disk serves any
    machine; a system disk that was written to, only one like that which wrote it.

    Raises:
        ConflictError: it cannot.
    """
    if manifest.arch == image.arch or image.mode is SystemMode.STATELESS:
        return
    raise ConflictError(
        f"{title} comes from {manifest.arch} machines, and what was installed in its system runs on those alone; "
        f"this one is {image.arch}.",
        safe="Nothing was changed: it is where it was, with all that is in it.",
        next=f"Use a machine that is {manifest.arch}. An image whose system begins anew at each start goes to both kinds; "
        "your administrator can grant you one.",
    )


def fit(vault: Inspected, manifest: Manifest, image: ImageVersion) -> None:
    """Put the system disk that this machine needs beside the user's, where another kind of machine had it before."""
    if manifest.arch != image.arch:
        begin_anew(vault, image)


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


def bring(ws: Workspace, begin: Beginning, op: Operation) -> dict[str, Any]:
    """A vault that is read from the server until all of it is here (`twofold.agent.rest`), under a new key epoch: whoever had
    older keys opens nothing from here on.

    Raises:
        RefusedError: no key of it is wrapped for this device. NoRoomError. UnreachableError. DamagedError: what was read of it
        is not what was backed up.
    """
    vaults, where, manifest = ws.rooms.vault, ws.folder / VAULT, begin.content
    op.progress("making a new key", 0, 0)
    _require_room(ws.folder, manifest.length)
    keys = _fresh(ws, begin)
    ws.store.write(ws.name, KEY, keys.wrapped)
    op.progress("opening its back up", 0, 0)
    with vaults.receiving(where):
        done = vaults.adopt(where, keys, Contents.of(manifest), op.progress, far=True)
    Kept(begin.head, manifest).save(ws.folder)
    return {"back_up": manifest.length, "epoch": done["epoch"]}


def _fresh(ws: Workspace, begin: Beginning) -> Keys:
    vaults = ws.rooms.vault
    vaults.device_key()
    try:
        keys = vaults.next_epoch(begin.keys)
        while keys.epoch < max(begin.least, begin.content.epoch + 1):
            keys = vaults.next_epoch(keys)
    except (DamagedError, RefusedError) as shut:
        log.info("no key for this device: %s", shut.happened, extra={"workspace": ws.name})
        raise _no_key(ws.title) from shut
    return keys


def _require_room(folder: Path, bytes_: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < bytes_:
        raise NoRoomError(
            f"The disk has {free >> 20} MiB left; this back up needs {bytes_ >> 20} MiB.",
            safe="Nothing of it is lost: it is on the server.",
            next=f"Free at least {(bytes_ - free) >> 20} MiB on this disk, then try again.",
        )
