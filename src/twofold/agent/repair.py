"""Checking out what is here already: what the server can send again replaces what is lost or damaged; no disk is touched."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from twofold.agent import base, hardware, parts
from twofold.agent.operations import Operation
from twofold.agent.registry import Registry
from twofold.agent.store import IMAGE, KEY, LEASE, STATE, VAULT, free_look
from twofold.agent.workspace import Workspace
from twofold.image.chunks import ImageIndex
from twofold.image.fetch import open_part
from twofold.model.canonical import canonical
from twofold.model.errors import DamagedError, TwofoldError
from twofold.model.image import Arch, Firmware, ImageVersion
from twofold.model.lease import Lease
from twofold.model.workspace import Custody
from twofold.vault.seam import Parts

log = logging.getLogger(__name__)


def empty(ws: Workspace) -> bool:
    """Whether a check-out was cut off before anything was kept: neither a key nor a store."""
    return ws.wrong is not None and not any((ws.folder / name).exists() for name in (KEY, VAULT))


async def repair(registry: Registry, ws: Workspace, op: Operation) -> dict[str, Any]:
    """`{"already": custody}` where nothing lacked, else `{"repaired": [file, …]}` too.

    Raises:
        DamagedError: what lacks is only here (the key, the store); it says what is left to do.
    """
    result = await asyncio.to_thread(_Repair(registry, ws, op).run)
    if "repaired" in result:
        ws.fail(None)
    return result


class _Repair:
    def __init__(self, registry: Registry, ws: Workspace, op: Operation) -> None:
        self._registry, self._ws, self._op = registry, ws, op
        self._mended: list[str] = []
        self._index: ImageIndex | None = None
        self._digest = ""

    def run(self) -> dict[str, Any]:
        ws, op = self._ws, self._op
        op.progress("looking at what is here", 0, 0)
        ws.stored_keys()
        if not (ws.folder / VAULT).is_dir() and ws.wrong is not None:
            raise ws.wrong
        lease = self._lease()
        image = self._image(lease)
        self._parts(image)
        if not (ws.folder / STATE).exists():
            self._state(lease, image)
        if self._mended:
            log.info("repaired %s", ", ".join(self._mended), extra={"workspace": ws.name})
            ws.load()
        ws.whole()
        return {"already": ws.record.custody} | ({"repaired": self._mended} if self._mended else {})

    def _lease(self) -> Lease:
        ws = self._ws
        try:
            return ws.rooms.lease(ws.store.read(ws.name, LEASE))
        except TwofoldError:
            signed = ws.rooms.remote().checkout(ws.name)
            ws.store.write(ws.name, LEASE, canonical(signed.document))
            self._mended.append(LEASE)
            return signed.lease

    def _image(self, lease: Lease) -> ImageVersion:
        ws = self._ws
        try:
            image, self._digest = parts.open_manifest(ws.rooms.identity.verify_key, ws.store.read(ws.name, IMAGE))
            return image
        except DamagedError:
            index = self._published(lease.image, ws.record.version or lease.image_version, None)
            # A vault that was filled at its check-out has no list of pieces.
            self._digest = base.plain(index)[1].sha256 if (ws.folder / parts.FOLDER / base.LIST).exists() else ""
            description = parts.seal_manifest(ws.rooms.identity.signing, index.manifest, self._digest)
            ws.store.write(ws.name, IMAGE, description)
            self._mended.append(IMAGE)
            return index.manifest

    def _parts(self, image: ImageVersion) -> None:
        ws = self._ws
        folder = ws.folder / parts.FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        wanted = [image.part(name) for name in hardware.BOOT_PARTS if image.firmware is Firmware.DIRECT]
        if not any(wanted) and not self._digest:
            return
        with ExitStack() as stack:
            # The process of a machine that runs has the keys; else one is started for this.
            vault: Parts = ws.vault or stack.enter_context(ws.rooms.vault.resting(ws.folder / VAULT, ws.keys()))
            for part in filter(None, wanted):
                try:
                    os.close(parts.unseal(folder, vault, image, part.name))
                except DamagedError:
                    index = self._published(image.image, image.version, image.arch)
                    cache = self._registry.dirs.cache / "chunks"
                    with open_part(index, part.name, cache, ws.rooms.remote()) as source:
                        parts.seal(folder, vault, part, source, self._op.progress)
                    self._mended.append(part.name)
            if self._digest:
                self._base(folder, vault, image)

    def _base(self, folder: Path, vault: Parts, image: ImageVersion) -> None:
        """The index that the disks stand on, and the list of its pieces."""
        ws = self._ws
        try:
            base.require(folder, vault, self._digest)
            if base.pieces(ws.folder).stored:
                return
        except DamagedError:
            pass  # either is made anew
        index = self._published(image.image, image.version, image.arch)
        base.note(ws.folder, index)
        self._digest = base.seal(ws.folder, vault, index, self._op.progress)
        description = parts.seal_manifest(ws.rooms.identity.signing, image, self._digest)
        ws.store.write(ws.name, IMAGE, description)
        self._mended.append(base.NAME)

    def _state(self, lease: Lease, image: ImageVersion) -> None:
        """As at the first check-out, but for what its processes have shown: the vault knows of stored memory by itself."""
        ws = self._ws
        number, colour = free_look((each.record for each in self._registry.all() if each is not ws), lease.colour)
        found = dataclasses.replace(ws.record, custody=Custody.CHECKED_OUT, key=number, colour=colour)
        ws.store.save(ws.name, hardware.settled(found, image))
        self._mended.append(STATE)

    def _published(self, image: str, version: int, arch: Arch | None) -> ImageIndex:
        if self._index is None:
            self._op.progress("asking the server", 0, 0)
            self._index = self._ws.rooms.remote().index(image, version, arch, held=True)
        return self._index
