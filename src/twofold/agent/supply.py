"""The pieces of images that workspaces stand on: brought when a disk waits for one, and in the background until all are here.

A vault process has no network: it says what its reads wait for, and this agent, which has the device's identity, fetches it into
the cache that all workspaces share (docs/decisions/0007-who-fetches.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from twofold.agent import base
from twofold.agent.change import FORMER, NEXT
from twofold.agent.delivery import Delivery
from twofold.agent.paid import Paid
from twofold.agent.rooms import Rooms
from twofold.agent.store import Store
from twofold.model.errors import TwofoldError
from twofold.platform.memory import give_back
from twofold.vault.seam import OpenVault

if TYPE_CHECKING:
    from twofold.agent.workspace import Workspace

log = logging.getLogger(__name__)
CHUNKS = "chunks"
_AGAIN = 30.0  # seconds after which a server that was away is asked again for what nobody waits for
_TELL_EVERY = 0.5
_START = 60  # seconds that a guest may take until its session is up
_LOOK = 0.25
_BATCH = 4 << 20  # stored bytes at once
_SMALL_BATCH = 1 << 20  # while a machine runs here, whose own reads come first


@dataclass(frozen=True)
class Stock:
    """Stored bytes of a workspace's image: those in this machine's cache, and all. `held`: the rest waits for a network that is
    not paid for by volume; what a disk waits for comes all the same."""

    here: int
    of: int
    held: bool = False


class Supply:
    """One for the machine. `workspaces` are those on this device, whole or broken."""

    def __init__(self, cache: Path, rooms: Rooms, store: Store, workspaces: Callable[[], Sequence[Workspace]]) -> None:
        self.cache = cache / CHUNKS
        self._rooms, self._store, self._workspaces = rooms, store, workspaces
        self._deliveries: dict[str, Delivery] = {}
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()  # one batch, or one clearing of the cache
        self.paid = Paid()

    def serve(self, ws: Workspace, vault: OpenVault) -> None:
        """Bring what this workspace's disks wait for, until `end`. Doing it twice is doing it once."""
        delivery = self._deliveries.get(ws.name)
        if delivery is not None and delivery.vault is vault:
            return
        self.end(ws)
        if ws.base_digest:
            self._deliveries[ws.name] = Delivery(ws, vault, self._rooms, self.cache, self.look_again)

    def end(self, ws: Workspace) -> None:
        delivery = self._deliveries.pop(ws.name, None)
        if delivery is not None:
            delivery.end()

    async def stopped(self, ws: Workspace) -> bool:
        """QEMU has stopped the guest for a disk's sake. True if it was for want of a piece of the image; that is dealt with."""
        delivery = self._deliveries.get(ws.name)
        return delivery is not None and await delivery.stopped()

    def look_again(self) -> None:
        """A workspace has come, or something has gone from the cache."""
        self._changed.set()

    async def run(self) -> None:
        """Fill the cache with what the workspaces here stand on, the recorded order of the first start first. What is here is
        found again after this agent's death, and is not fetched twice."""
        while True:
            self._changed.clear()
            whole = [await self._fill(ws) for ws in list(self._workspaces()) if ws.base_digest and ws.wrong is None]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if all(whole) else _AGAIN):
                    await self._changed.wait()

    async def _fill(self, ws: Workspace) -> bool:
        """Whether all of a workspace's image is here now."""
        from twofold.image.fetch import batched, lacking, take

        try:
            pieces = await asyncio.to_thread(base.pieces, ws.folder)
            stored = pieces.stored
            missing = await asyncio.to_thread(lacking, self.cache, stored)
            urgent = len(set(islice(stored, pieces.urgent)).intersection(missing))
            total = sum(stored.values())
            here, told = total - sum(stored[chunk] for chunk in missing), 0.0
            ws.stocked(Stock(here, total))
            at = 0
            while at < len(missing):
                if ws not in self._workspaces():
                    return True
                if at >= urgent and await self.paid.holds(ws):
                    log.info("the image waits for another network", extra={"workspace": ws.name})
                    ws.stocked(Stock(here, total, held=True))
                    return False
                running = any(each.machine is not None for each in self._workspaces())
                batch = next(batched(missing[at : at + 256], stored, _SMALL_BATCH if running else _BATCH))
                await self._calm()
                if pieces.urgent and at >= urgent:
                    await self._up()
                async with self._turn:
                    remote = await asyncio.to_thread(self._rooms.remote)
                    await asyncio.to_thread(take, batch, remote, self.cache)
                at += len(batch)
                here += sum(stored[chunk] for chunk in batch)
                if time.monotonic() - told > _TELL_EVERY or at == len(missing):
                    told = time.monotonic()
                    ws.stocked(Stock(here, total))
        except TwofoldError as away:
            log.info("the image is not whole yet: %s", away.code, extra={"workspace": ws.name})
            return False
        if missing:
            log.info("the image is here", extra={"workspace": ws.name})
            give_back()
        return True

    async def _calm(self) -> None:
        """Until no disk waits for a piece that can be had."""
        for delivery in list(self._deliveries.values()):
            await delivery.idle.wait()

    async def _up(self) -> None:
        """While a guest starts, a person waits: what no start was seen to read waits too. (Where nobody knows what a start
        reads, all of it comes as fast as it can: piece by piece, as it is read, would take twice as long.)"""
        for ws in list(self._workspaces()):
            until = ws.record.launched_at + _START
            while ws.machine and ws.guest and not ws.guest.session_up and time.time() < until:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK)

    async def clear(self) -> int:
        """Remove the pieces that no workspace here stands on; answers their bytes. A list that can't be read keeps them all."""
        async with self._turn:
            try:
                return await asyncio.to_thread(self._clear)
            except TwofoldError as unread:
                log.warning("the cache was not cleared: %s", unread.code)
                return 0

    def _clear(self) -> int:
        folders = [self._store.folder(name) / where for name in self._store.names() for where in (".", NEXT, FORMER)]
        kept = {chunk.hex() for folder in folders for chunk in base.pieces(folder).stored}
        freed = 0
        for file in self.cache.glob("??/*"):
            if len(file.name) == 64 and file.name not in kept:
                freed += file.stat().st_size
                file.unlink(missing_ok=True)
        return freed


def wire(stock: Stock | None) -> dict[str, int] | None:
    return None if stock is None else dataclasses.asdict(stock)
