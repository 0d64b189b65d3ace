"""A workspace's sealed store goes to a folder that can be carried away, and comes from one (docs/protocol.md, chapter 5)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from twofold.agent import base, rights
from twofold.agent.arrival import fit, require_carried
from twofold.agent.change import UNDO
from twofold.agent.checkout import equip, first, founded, undone
from twofold.agent.disks import at_hand
from twofold.agent.operations import Operation
from twofold.agent.registry import Registry
from twofold.agent.remote import Remote
from twofold.agent.repair import empty
from twofold.agent.rooms import give_back
from twofold.agent.store import KEY, LEASE, VAULT
from twofold.agent.workspace import Workspace
from twofold.image.chunks import ImageIndex
from twofold.image.fetch import fetch
from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, ConflictError, NotFoundError, RefusedError, TwofoldError, UsageError
from twofold.model.generation import Manifest, SealedFile
from twofold.model.workspace import Custody
from twofold.platform.clock import boottime
from twofold.trust.keys import VerifyKey, hex_bytes
from twofold.trust.signed import Context, sign, verify_by
from twofold.vault.copies import Folder, take
from twofold.vault.seam import Contents, Generations, Keys, Reading, Vault

RECORD = "generation.json"
_RECORD_LIMIT, _KEYS_LIMIT = 64 << 20, 96 << 10
_NOTE = "export"
_EPOCHS = 64  # that others may have begun and left without a trace in the folder


async def export(ws: Workspace, op: Operation, *, to: str, generation: int, key: str) -> dict[str, Any]:
    """Bring a folder to a generation of this workspace; 0 commits one now. Only files that it lacks are copied, and the signed
    record is replaced last. With `key`, a device's X25519 public key in hex, that device can open it.

    Raises:
        RefusedError: the company does not allow keys to leave this device. NoRoomError: that disk is full; doing it again goes
        on. ConflictError: the folder holds something else.
    """
    ws.whole()
    public = hex_bytes(key, 32, "a device's public key") if key else b""
    return await asyncio.to_thread(_Export(ws, op, _absolute(to), generation, public).run)


class _Export:
    def __init__(self, ws: Workspace, op: Operation, path: Path, generation: int, public: bytes) -> None:
        self._ws, self._op, self._path, self._generation, self._public = ws, op, path, generation, public

    def run(self) -> dict[str, Any]:
        ws = self._ws
        lease, image = ws.whole()
        # Before anything is copied: whether the other device may have the keys at all.
        if self._public:
            rights.require(lease, ws.record)
        keys = ws.rooms.vault.rewrap(ws.keys(), self._public, allowed=lease.policy.keys_leave) if self._public else None
        _make(self._path)
        with Folder(self._path) as folder, at_hand(ws) as vault, ExitStack() as after:
            former, ours = self._former(folder)
            known = former.files if former and ours else ()
            fresh = self._generation == 0
            wanted = None if fresh else self._generation
            if wanted is not None and any((each.number, each.note) == (wanted, UNDO) for each in vault.generations()):
                raise NotFoundError(f"Generation {wanted} stands on a former version.", safe="Nothing was copied.")
            for left in vault.generations() if fresh else ():
                if left.note == _NOTE:  # by an export whose agent was killed
                    vault.forget(left.number)
            with vault.reading(wanted, note=_NOTE, known=known, progress=self._op.progress) as reading:
                contents = reading.contents
                if fresh:
                    after.callback(_forget, vault, contents.generation)
                signer, parent = ws.rooms.identity.verify_key.public.hex(), former.id if former else ""
                manifest = contents.manifest(workspace=ws.name, signer=signer, parent=parent, image=image)
                sent = self._send(folder, manifest, former if ours else None, reading)
            if keys is not None:
                folder.write(keys_name(self._public), keys.wrapped)
            self._op.commit("It is copied already.")
            folder.write(RECORD, canonical(sign(Context.GENERATION, manifest.to_wire(), ws.rooms.identity.signing)))
            for name in folder.leftovers(manifest.by_name()):
                folder.remove(name)
        return {
            "folder": str(self._path),
            "generation": manifest.generation,
            "time": manifest.time,
            "id": manifest.id,
            "signer": manifest.device,
            "files": len(manifest.files),
            "bytes": manifest.length,
            "sent_files": len(sent),
            "sent_bytes": sum(file.length for file in sent),
            "key_for": hashlib.sha256(self._public).hexdigest() if self._public else "",
        }

    def _former(self, folder: Folder) -> tuple[Manifest | None, bool]:
        """What the folder has a record of, and whether it is one that this device signed."""
        if not folder.exists(RECORD):
            if folder.leftovers(()) and not any(folder.exists(name) for name in ("vault", "head.a", "lock")):
                return None, False  # an export that was cut off
            if folder.leftovers(()):
                raise ConflictError(
                    f"{self._path} is a sealed store itself.", safe="It was not touched.", next="Name another folder."
                )
            return None, False
        signer, manifest = read(folder)
        if manifest.workspace != self._ws.name:
            raise ConflictError(
                f"{self._path} holds the workspace {manifest.workspace}.",
                safe="It was not touched.",
                next="Name another folder.",
            )
        return manifest, signer == self._ws.rooms.identity.verify_key

    def _send(self, folder: Folder, manifest: Manifest, former: Manifest | None, reading: Reading) -> list[SealedFile]:
        """Copy what lacks. Files that a former record of ours names were verified when they were copied; others that are there
        are left from a try that was cut off, and are read."""
        before = former.by_name() if former else {}
        lacking = []
        for file in manifest.files:
            there = folder.holds(file) and (before.get(file.name) == file or folder.verifies(file, reading))
            if not there:
                lacking.append(file)
            self._op.progress("looking at the folder", 0, 0)
        total, done = sum(file.length for file in lacking), 0
        for file in lacking:
            folder.put(file, reading, self._op.progress, done, total)
            done += file.length
        return lacking


def _forget(vault: Generations, generation: int) -> None:
    """The folder has it by now, or the next try commits another; what can't be forgotten now is forgotten then."""
    with suppress(TwofoldError):
        vault.forget(generation)


def read(folder: Folder) -> tuple[VerifyKey, Manifest]:
    """The folder's record: the signature is right, and by whom it is, is the caller's to judge.

    Raises:
        BadInputError, RefusedError: it is none, or its signature is not right. DamagedError: there is none.
    """
    try:
        untrusted_document = json.loads(folder.read(RECORD, _RECORD_LIMIT))
        untrusted_signer = _claimed(untrusted_document)
    except (ValueError, KeyError, TypeError, RecursionError) as off:
        raise BadInputError(
            f"{RECORD} in {folder.path} is no record of a generation.", safe="Nothing was changed."
        ) from off
    # What it claims counts for nothing but to check that the same key signed it.
    signer, document = verify_by(Context.GENERATION, untrusted_document, [VerifyKey.from_hex(untrusted_signer)])
    return signer, Manifest.from_wire(document)


def _claimed(untrusted_document: dict[str, Any]) -> object:
    return json.loads(base64.b64decode(untrusted_document["payload"], validate=True))["signer"]


def keys_name(public: bytes) -> str:
    return f"keys-{hashlib.sha256(public).hexdigest()}.json"


async def import_(registry: Registry, name: str, op: Operation, *, folder: str, signer: str) -> dict[str, Any]:
    """Go on here with a workspace from an exported folder, under a new key epoch. `signer` is the id of the device that exported
    it, as somebody trustworthy said it; this device's own needs none. Whatever fails, nothing of it stays.

    Raises:
        ConflictError: the workspace is here already, or another device holds it. RefusedError: it is another device's record, or
        the folder has no key for this one.
    """
    there = registry.find(name)
    if there is not None and not empty(there):
        raise ConflictError(
            f"{there.title} is on this device already.",
            safe="It was not touched.",
            next=f"To have the other state instead, give this one up first:  twofold remove {name}",
        )
    if there is not None:
        await undone(registry, there)
    rooms, path = registry.rooms, _absolute(folder)
    began = time.monotonic()
    op.progress("looking at the folder", 0, 0)
    manifest, keys = await asyncio.to_thread(_offered, rooms.vault, rooms.identity.device, name, path, signer)
    op.progress("asking the server", 0, 0)
    remote = await asyncio.to_thread(rooms.remote)
    sent = boottime()
    signed = await asyncio.to_thread(remote.checkout, name)
    async with AsyncExitStack() as back:
        back.push_async_callback(give_back, rooms, name)
        op.check()
        if signed.lease.image != manifest.image:
            raise ConflictError(
                f"The folder holds {name} on the image {manifest.image}; the company's is {signed.lease.image} now.",
                safe="Nothing was changed.",
                next="Ask your administrator.",
            )
        index = await asyncio.to_thread(partial(remote.index, manifest.image, manifest.image_version, held=True))
        require_carried(signed.lease.title, manifest, index.manifest)
        ws = await asyncio.to_thread(founded, registry, signed, index.manifest)
        back.push_async_callback(undone, registry, ws)
        registry.add(ws)
        await asyncio.to_thread(base.note, ws.folder, index)
        await asyncio.to_thread(fetch, first(index), remote, registry.supply.cache, op.progress)
        fresh = await asyncio.to_thread(renewed, rooms.vault, keys, signed.lease.epoch)
        done = await asyncio.to_thread(_take, ws, path, manifest, fresh, op)
        await asyncio.to_thread(_equip, ws, manifest, remote, index, registry.supply.cache, op)
        ws.store.write(name, LEASE, canonical(signed.document))
        op.commit(f"{signed.lease.title} is on this device already.")
        at = rights.since(signed.lease.issued, sent)
        ws.hold(
            Custody.CHECKED_OUT,
            epoch=signed.lease.epoch,
            on_disk_verified_at=int(time.time()),
            contacted_at=at,
            **rights.seen(at),
        )
        await asyncio.to_thread(ws.load)
        ws.whole()
        back.pop_all()
    ws.tell()
    registry.supply.look_again()
    return {
        "generation": manifest.generation,
        "time": manifest.time,
        "signer": manifest.device,
        "epoch": done["epoch"],
        "bytes": manifest.length,
        "memory_forgotten": done["memory"],
        "seconds": round(time.monotonic() - began, 3),
    }


def _offered(vaults: Vault, device: str, name: str, path: Path, signer: str) -> tuple[Manifest, Keys]:
    """The folder's record, if it is whose it should be, and the workspace's keys for this device."""
    with Folder(path) as folder:
        _, manifest = read(folder)
        if manifest.device not in (device, signer):
            raise RefusedError(
                f"The folder was signed by the device {manifest.device[:16]}…, and nobody said that it is to be trusted."
                if not signer
                else f"The folder was signed by the device {manifest.device[:16]}…, not by {signer[:16]}….",
                safe="Nothing was changed.",
                next="Compare with what  twofold disk key  says on the device that it comes from, and name that with --from.",
            )
        if manifest.workspace != name:
            raise ConflictError(
                f"The folder holds the workspace {manifest.workspace}, not {name}.", safe="Nothing was changed."
            )
        file = keys_name(vaults.device_key())
        if not folder.exists(file):
            raise RefusedError(
                f"The folder has no key of {name} for this device.",
                safe="Nothing was changed.",
                next="Export it with  --for  and this device's key, which  twofold disk key  says.",
            )
        return manifest, Keys(name, folder.read(file, _KEYS_LIMIT))


def renewed(vaults: Vault, keys: Keys, least: int) -> Keys:
    """The keys under an epoch that nobody else has, and not below what the lease says.

    Raises:
        BadInputError: the lease is far ahead of them: they are not the newest that there are.
    """
    fresh = vaults.next_epoch(keys)
    if least - fresh.epoch > _EPOCHS:
        raise BadInputError(
            f"The keys of {keys.workspace} in the folder are too old for its lease.", safe="Nothing was changed."
        )
    while fresh.epoch < least:
        fresh = vaults.next_epoch(fresh)
    return fresh


def _take(ws: Workspace, path: Path, manifest: Manifest, keys: Keys, op: Operation) -> dict[str, Any]:
    """The key first; then the files, and the vault once they are verified."""
    vaults, where = ws.rooms.vault, ws.folder / VAULT
    ws.store.write(ws.name, KEY, keys.wrapped)
    with Folder(path) as folder, vaults.receiving(where):
        take(folder, manifest.files, where, op.progress)
        return vaults.adopt(where, keys, Contents.of(manifest), op.progress)


def _equip(ws: Workspace, manifest: Manifest, remote: Remote, index: ImageIndex, cache: Path, op: Operation) -> None:
    with ws.rooms.vault.resting(ws.folder / VAULT, ws.keys()) as vault:
        fit(vault, manifest, index.manifest)
        equip(ws, vault, remote, index, cache, op.progress)


def _absolute(path: str) -> Path:
    if not path.startswith("/") or "\0" in path:
        raise UsageError("The folder's path must be a whole one, from the root on.")
    return Path(path)


def _make(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError as gone:
        raise NotFoundError(f"There is no folder {path.parent}.", next="Name a folder that is there.") from gone
    except OSError as failed:
        raise TwofoldError(f"The folder {path} cannot be made ({failed.strerror}).") from failed
