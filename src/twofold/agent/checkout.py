"""Check-out and removal: how a workspace comes to this device and how it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from twofold.agent import base, handover, hardware, parts, rights
from twofold.agent.arrival import Beginning, beginning, bring, fit, require_carried
from twofold.agent.operations import CancelledByPersonError, Operation
from twofold.agent.registry import Registry
from twofold.agent.remote import Remote, SignedLease
from twofold.agent.repair import empty, repair
from twofold.agent.rooms import give_back
from twofold.agent.store import IMAGE, KEY, LEASE, VAULT, Record, free_look
from twofold.agent.workspace import Workspace
from twofold.image import patches
from twofold.image import stick as carried
from twofold.image.chunks import ImageIndex
from twofold.image.fetch import Arrivals, Fetched, fetch, open_part
from twofold.model.canonical import canonical
from twofold.model.errors import NoRoomError, TwofoldError
from twofold.model.image import Firmware, ImageVersion
from twofold.model.progress import Progress
from twofold.model.workspace import Custody
from twofold.vault.seam import Parts

log = logging.getLogger(__name__)
_RECENT = 10.0  # seconds in which the list of releases is not looked at again: it is asked for beside the lease
_RESERVE = 512 << 20  # room beside the image, for the user's first day


async def checkout(registry: Registry, name: str, op: Operation, stick: str = "") -> dict[str, Any]:
    """Bring a workspace here: lease, image, fresh key, sealed store, the newest back up where there is one; one that is here
    already is repaired. Whatever fails or is cancelled, nothing of it stays but what the cache has, from which the next try goes
    on. `stick` is a folder that `image export` made; what it has is not fetched from the server."""
    there = registry.find(name)
    if there is not None and not empty(there):
        return await repair(registry, there, op)
    if there is not None:
        await undone(registry, there)
    rooms, loop = registry.rooms, asyncio.get_running_loop()
    began = time.monotonic()
    op.progress("asking the server", 0, 0)
    remote = await asyncio.to_thread(rooms.remote)
    async with AsyncExitStack() as undo:
        listing = asyncio.create_task(asyncio.to_thread(_listed, remote))  # takes as long as asking for the lease
        undo.push_async_callback(asyncio.wait, [listing])
        signed, sent = await handover.take(remote, name, op)
        undo.push_async_callback(give_back, rooms, name)
        op.check()
        lease = signed.lease
        begin = await asyncio.to_thread(beginning, remote, signed)
        version = lease.image_version if begin is None else begin.content.image_version
        index = await asyncio.to_thread(
            partial(remote.index, lease.image, version, channel=signed.channel, held=begin is not None, age=_RECENT)
        )
        if begin is not None:
            require_carried(lease.title, begin.content, index.manifest)
        cache = registry.supply.cache
        _require_room(registry, index)
        ws = await asyncio.to_thread(founded, registry, signed, index.manifest)
        undo.push_async_callback(undone, registry, ws)
        registry.add(ws)
        await asyncio.to_thread(base.note, ws.folder, index)
        brought = 0
        if stick:
            brought = (await asyncio.to_thread(carried.bring, index.ids, Path(stick), cache, op.progress)).sent
        patched = await asyncio.to_thread(patches.bring, index, remote, cache, op.progress)
        came: dict[str, Any] = {}
        if begin is None:
            arrivals = Arrivals(first(index))
            async with _fetching(index, remote, cache, op, arrivals) as coming:
                # What a start reads comes while the vault is filled; a back up has the line to itself.
                coming.add_done_callback(lambda _: loop.call_soon_threadsafe(registry.supply.look_again))
                await asyncio.to_thread(_fill, ws, remote, index, cache, op, arrivals)
                fetched = coming.result()
        else:
            fetched = await asyncio.to_thread(fetch, first(index), remote, cache, op.progress)
            came = await asyncio.to_thread(_go_on, ws, remote, begin, index, cache, op)
        ws.store.write(name, LEASE, canonical(signed.document))
        op.commit(f"{lease.title} is on this device already.")
        now = int(time.time())
        saved, verified = (begin.content.time, begin.content.generation) if begin is not None else (0, 0)
        known = {"on_disk_verified_at": now, "on_server_at": saved, "backup_at": now, "verified": verified}
        at = rights.since(lease.issued, sent)
        ws.hold(Custody.CHECKED_OUT, **known, epoch=signed.lease.epoch, contacted_at=at, **rights.seen(at))
        await asyncio.to_thread(ws.load)
        ws.whole()
        undo.pop_all()
    ws.tell()
    registry.supply.look_again()
    registry.rest.look_again()
    stored = await asyncio.to_thread(rooms.vault.stored_bytes, ws.folder / VAULT)
    return {
        "received": patched + fetched.sent,
        "brought": brought,
        "image": sum(index.ids.values()),
        "stored": stored,
        "from": saved,
        "seconds": round(time.monotonic() - began, 3),
    } | came


def _listed(remote: Remote) -> None:
    with contextlib.suppress(TwofoldError):  # who needs the list asks again, and is told
        remote.releases()


@asynccontextmanager
async def _fetching(
    index: ImageIndex, remote: Remote, cache: Path, op: Operation, arrivals: Arrivals
) -> AsyncIterator[Future[Fetched]]:
    """What must be here before a start comes while the block goes on. Where the block fails, it is given up, and waited for."""
    given_up = threading.Event()

    def progress(step: str, done: int, total: int) -> None:
        if given_up.is_set():
            raise CancelledByPersonError("The check-out failed.", safe="What was fetched stays.")
        op.progress(step, done, total)

    beside = ThreadPoolExecutor(1)
    coming = beside.submit(fetch, first(index), remote, cache, progress, arrivals)
    try:
        yield coming
    finally:
        given_up.set()
        await asyncio.to_thread(beside.shutdown)


def _go_on(
    ws: Workspace, remote: Remote, begin: Beginning, index: ImageIndex, cache: Path, op: Operation
) -> dict[str, Any]:
    came = bring(ws, begin, op)
    with ws.rooms.vault.resting(ws.folder / VAULT, ws.keys()) as vault:
        fit(vault, begin.content, index.manifest)
        equip(ws, vault, remote, index, cache, op.progress)
    return came


def founded(registry: Registry, signed: SignedLease, image: ImageVersion) -> Workspace:
    """The workspace's folder with its state and its key, still checking out."""
    lease, store = signed.lease, registry.store
    store.create(lease.workspace)
    try:
        key, colour = free_look((ws.record for ws in registry.all()), lease.colour)
        record = hardware.settled(Record(key=key, colour=colour), image)
        store.save(lease.workspace, record)
        ws = registry.make(lease.workspace)
        ws.record, ws.lease = record, lease
    except BaseException:
        store.destroy(lease.workspace)
        raise
    return ws


def first(index: ImageIndex) -> dict[bytes, int]:
    """The chunks that must be here before a start; the rest is fetched when it is read, or in the background."""
    return {row.id: row.stored for name in base.FIRST for row in index.chunks.get(name, ())}


def _fill(ws: Workspace, remote: Remote, index: ImageIndex, cache: Path, op: Operation, arrivals: Arrivals) -> None:
    """Make the vault, and fill it as what it begins with comes. Its data key is made by the vault process and never leaves
    it plain. The system disk stands on the image's chunks and takes no space; the user's is filled, since it is the user's from
    the first day on."""

    def progress(step: str, done: int, total: int) -> None:
        op.check()
        if arrivals.whole:  # until then what comes is told of
            op.progress(step, done, total)

    image, where, vaults = index.manifest, ws.folder / VAULT, ws.rooms.vault
    keys = vaults.new_keys(ws.name)
    ws.store.write(ws.name, KEY, keys.wrapped)
    with vaults.creating(where, keys, hardware.devices(image)) as filling:
        if image.part("user-template") is not None:
            with open_part(index, "user-template", cache, remote, arrivals) as source:
                filling.fill(hardware.USER, source, progress)
        equip(ws, filling, remote, index, cache, progress, arrivals)


def equip(
    ws: Workspace,
    vault: Parts,
    remote: Remote,
    index: ImageIndex,
    cache: Path,
    progress: Progress,
    arrivals: Arrivals | None = None,
) -> None:
    """Seal what a start needs beside the vault, and write down which image version it stands on. `arrivals`: of what is on its
    way."""
    image = index.manifest
    for name in hardware.BOOT_PARTS if image.firmware is Firmware.DIRECT else ():
        part = image.part(name)
        if part is not None:
            with open_part(index, name, cache, remote, arrivals) as source:
                parts.seal(ws.folder / parts.FOLDER, vault, part, source, progress)
    digest = base.seal(ws.folder, vault, index, progress)
    ws.store.write(ws.name, IMAGE, parts.seal_manifest(ws.rooms.identity.signing, image, digest))


def _require_room(registry: Registry, index: ImageIndex) -> None:
    # All of the image as sealed chunks; what the user's disk begins with once more, in the vault.
    user = sum(chunk.size for chunk in index.chunks.get("user-template", ()))
    needed = user + sum(index.ids.values()) + _RESERVE
    free = shutil.disk_usage(registry.store.root).free
    if free < needed:
        raise NoRoomError(
            f"The disk has {free >> 20} MiB left; this workspace needs {needed >> 20} MiB.",
            safe="Nothing was received.",
            next=f"Free at least {(needed - free) >> 20} MiB on this disk, then try again.",
        )


async def undone(registry: Registry, ws: Workspace) -> None:
    ws.record = Record(custody=Custody.CHECKING_OUT)
    registry.drop(ws)
    await asyncio.to_thread(ws.store.destroy, ws.name)
