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
from twofold.agent.delivery import Coming, Delivery
from twofold.agent.paid import Paid
from twofold.agent.rooms import Rooms
from twofold.agent.store import Store
from twofold.model.errors import TwofoldError
from twofold.model.workspace import Custody, RunState
from twofold.platform.memory import give_back
from twofold.vault.seam import OpenVault

if TYPE_CHECKING:
    from twofold.agent.workspace import Workspace
    from twofold.image.base import Pieces

log = logging.getLogger(__name__)
CHUNKS = "chunks"
_AGAIN = 30.0  # seconds after which a server that was away is asked again for what nobody waits for
_TELL_EVERY = 0.5
_START = 60  # seconds that a guest may take until its session is up
_LOOK = 0.25
_BATCH = 2 << 20  # stored bytes at once
_SMALL_BATCH = 512 << 10  # while a machine runs here, whose own reads come first
_LANES = 4  # requests under way: while some are asked and kept, the line carries the others


@dataclass(frozen=True)
class Stock:
    """Stored bytes of a workspace's image: those in this machine's cache, and all. `held`: the rest waits for a network that is
    not paid for by volume; what a disk waits for comes all the same."""

    here: int
    of: int
    held: bool = False


class _Filling:
    """What a workspace's image lacks here, on its way: the most wanted first."""

    def __init__(self, ws: Workspace, pieces: Pieces, missing: Sequence[bytes]) -> None:
        self.ws, self.held, self._stored, self._missing, self._at, self._told = (
            ws,
            False,
            pieces.stored,
            missing,
            0,
            0.0,
        )
        self.recorded = pieces.urgent > 0
        self._first = frozenset(islice(pieces.stored, pieces.urgent))
        self._left = len(missing)
        self._total = sum(pieces.stored.values())
        self._here = self._total - sum(pieces.stored[chunk] for chunk in missing)
        self.tell()

    def next(self, most: int) -> list[bytes]:
        """About so many bytes, for whoever asks first; nothing at the end."""
        from twofold.image.fetch import batched

        batch: list[bytes] = next(batched(self._missing[self._at : self._at + 256], self._stored, most), [])
        self._at += len(batch)
        return batch

    def urgent(self, batch: Sequence[bytes]) -> bool:
        """A start was seen to read what this batch begins with."""
        return batch[0] in self._first

    def tell(self) -> None:
        self.ws.stocked(Stock(self._here, self._total, self.held))

    def came(self, batch: Sequence[bytes]) -> None:
        self._here += sum(self._stored[chunk] for chunk in batch)
        self._left -= len(batch)
        if time.monotonic() - self._told > _TELL_EVERY or not self._left:
            self._told = time.monotonic()
            self.tell()


class Supply:
    """One for the machine. `workspaces` are those on this device, whole or broken."""

    def __init__(self, cache: Path, rooms: Rooms, store: Store, workspaces: Callable[[], Sequence[Workspace]]) -> None:
        self.cache = cache / CHUNKS
        self._rooms, self._store, self._workspaces = rooms, store, workspaces
        self._deliveries: dict[str, Delivery] = {}
        self._coming = Coming()
        self._changed = asyncio.Event()
        self._lanes = [asyncio.Lock() for _ in range(_LANES)]  # each of one batch, or all of one clearing of the cache
        self.paid = Paid()

    def serve(self, ws: Workspace, vault: OpenVault) -> None:
        """Bring what this workspace's disks wait for, until `end`. Doing it twice is doing it once."""
        delivery = self._deliveries.get(ws.name)
        if delivery is not None and delivery.vault is vault:
            return
        self.end(ws)
        if ws.base_digest:
            self._deliveries[ws.name] = Delivery(ws, vault, self._rooms, self.cache, self.look_again, self._coming)

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
            whole = [await self._fill(ws) for ws in list(self._workspaces()) if _stands_on_pieces(ws)]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if all(whole) else _AGAIN):
                    await self._changed.wait()

    async def _fill(self, ws: Workspace) -> bool:
        """Whether all of a workspace's image is here now."""
        from twofold.image.fetch import lacking

        try:
            pieces = await asyncio.to_thread(base.pieces, ws.folder)
            missing = await asyncio.to_thread(lacking, self.cache, pieces.stored)
            filling = _Filling(ws, pieces, missing)
            lanes = [asyncio.ensure_future(self._bring(filling, lane)) for lane in self._lanes]
            try:
                await asyncio.gather(*lanes)
            finally:
                for lane in lanes:
                    lane.cancel()
                await asyncio.wait(lanes)
            if filling.held:
                return False
        except TwofoldError as away:
            log.info("the image is not whole yet: %s", away.code, extra={"workspace": ws.name})
            return False
        if missing:
            log.info("the image is here", extra={"workspace": ws.name})
            give_back()
        return True

    async def _bring(self, filling: _Filling, lane: asyncio.Lock) -> None:
        """One batch after the other, until none is left or the workspace is gone."""
        from twofold.image.fetch import take

        while filling.ws in self._workspaces():
            running = any(each.machine is not None for each in self._workspaces())
            if not (batch := filling.next(_SMALL_BATCH if running else _BATCH)):
                return
            if not filling.urgent(batch) and await self.paid.holds(filling.ws):
                log.info("the image waits for another network", extra={"workspace": filling.ws.name})
                filling.held = True
                filling.tell()
                return
            # What a start reads comes in its order, as fast as it can: a disk that waits mostly waits for the next of it.
            if not filling.urgent(batch):
                await self._calm()
                if filling.recorded:
                    await self._up()
            async with lane:
                with self._coming.batch(batch):
                    remote = await asyncio.to_thread(self._rooms.remote)
                    await asyncio.to_thread(take, batch, remote, self.cache)
            filling.came(batch)

    async def _calm(self) -> None:
        """Until no disk waits for a piece that can be had."""
        for delivery in list(self._deliveries.values()):
            await delivery.idle.wait()

    async def _up(self) -> None:
        """While a guest starts, a person waits: what no start was seen to read waits too. (Where nobody knows what a start
        reads, all of it comes as fast as it can: piece by piece, as it is read, would take twice as long.)"""
        for ws in list(self._workspaces()):
            until = ws.record.launched_at + _START
            while ws.record.run is RunState.STARTING or (  # noqa: ASYNC110
                ws.machine and ws.guest and not ws.guest.session_up and time.time() < until
            ):
                await asyncio.sleep(_LOOK)

    async def clear(self) -> int:
        """Remove the pieces that no workspace here stands on; answers their bytes. A list that can't be read keeps them all."""
        async with contextlib.AsyncExitStack() as stack:
            for lane in self._lanes:
                await stack.enter_async_context(lane)
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


def _stands_on_pieces(ws: Workspace) -> bool:
    """One that is still coming is made while its pieces come."""
    return ws.wrong is None and bool(ws.base_digest or ws.record.custody is Custody.CHECKING_OUT)


def wire(stock: Stock | None) -> dict[str, int] | None:
    return None if stock is None else dataclasses.asdict(stock)
