"""What one running workspace's disks wait for: fetched as they ask, and the guest paused, never failed, while it can't be had."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from twofold.agent.rooms import Rooms
from twofold.model.errors import NoRoomError, TimedOutError, TwofoldError, UnreachableError
from twofold.model.workspace import RunState
from twofold.vault.seam import OpenVault

if TYPE_CHECKING:
    from twofold.agent.workspace import Workspace

log = logging.getLogger(__name__)
_AT_ONCE = 32  # a few megabytes: what waits first comes first, also over a slow line
_RETRY = 3.0  # seconds between two tries to reach a source that is away, while a disk waits
_LOOK = 0.25
_RECENT = 30.0  # seconds; longer than the vault process keeps a read
_STOPPED = "io-error"  # QEMU's word for a guest that it has stopped for a disk's sake


class Coming:
    """Pieces that somebody is bringing into the cache already: nobody else needs to ask for them."""

    def __init__(self) -> None:
        self._batches: dict[bytes, asyncio.Future[bool]] = {}

    @contextmanager
    def batch(self, ids: Sequence[bytes]) -> Iterator[None]:
        """While these are on their way; they are there at its end, unless it ends by an error."""
        came = asyncio.get_running_loop().create_future()
        self._batches |= dict.fromkeys(ids, came)
        try:
            yield
            came.set_result(True)
        finally:
            if not came.done():
                came.set_result(False)
            for chunk in ids:
                if self._batches.get(chunk) is came:
                    del self._batches[chunk]

    def of(self, ids: Iterable[bytes]) -> dict[asyncio.Future[bool], list[bytes]]:
        """Which of these come, with what says, at its end, whether they came."""
        found: dict[asyncio.Future[bool], list[bytes]] = {}
        for chunk in ids:
            if chunk in self._batches:
                found.setdefault(self._batches[chunk], []).append(chunk)
        return found


class Delivery:
    """Begins at once, ends with the vault process or by `end`. `again` is told when something was missing that had been here."""

    def __init__(
        self, ws: Workspace, vault: OpenVault, rooms: Rooms, cache: Path, again: Callable[[], None], coming: Coming
    ) -> None:
        self.vault = vault
        self._ws, self._vault, self._rooms, self._cache, self._again = ws, vault, rooms, cache, again
        self._coming = coming
        self._along: set[asyncio.Task[None]] = set()
        self._wanted: dict[bytes, None] = {}  # the most urgent first
        self._some = asyncio.Event()
        self.idle = asyncio.Event()  # no disk waits for a piece that is about to come
        self.idle.set()
        self._why: TwofoldError | None = None
        self._last = -_RECENT
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"delivery {ws.name}")

    def end(self) -> None:
        self._task.cancel()
        self.idle.set()

    async def stopped(self) -> bool:
        """See `Supply.stopped`."""
        if self._wanted or self._along:
            await self._hold()
            return True
        if time.monotonic() - self._last < _RECENT:
            await self._go_on()
            return True
        return False

    async def _run(self) -> None:
        try:
            work = {asyncio.ensure_future(each) for each in (self._bring_all(), self._left_paused())}
            try:
                async for ids in self._vault.wants():
                    if self._ws.stock is not None and self._ws.stock.here == self._ws.stock.of:
                        self._again()  # the cache has lost something
                    along = self._coming.of(ids)
                    for came, theirs in along.items():
                        task = asyncio.ensure_future(self._comes_along(came, theirs))
                        self._along.add(task)
                        task.add_done_callback(self._along.discard)
                    self._want([chunk for chunk in ids if not any(chunk in theirs for theirs in along.values())])
            finally:
                self.idle.set()
                work |= self._along
                for each in work:
                    each.cancel()
                await asyncio.wait(work)
                for each in work:
                    if not each.cancelled() and (failed := each.exception()) is not None:
                        log.error("delivery failed", exc_info=failed, extra={"workspace": self._ws.name})
        except TwofoldError as gone:
            log.info("delivery ended: %s", gone.code, extra={"workspace": self._ws.name})

    def _want(self, ids: Sequence[bytes]) -> None:
        if ids:
            self._wanted |= dict.fromkeys(ids)
            self._some.set()
            self.idle.clear()

    async def _comes_along(self, came: asyncio.Future[bool], ids: Sequence[bytes]) -> None:
        """These are being brought for another reason."""
        await asyncio.wait([came])
        if not came.result():
            self._want(ids)
            return
        self._last = time.monotonic()
        try:
            await asyncio.to_thread(self._vault.arrived, ids)
            if not self._wanted:
                await self._go_on()
        except TwofoldError as gone:  # as in `_bring_all`
            log.info("delivery: %s", gone.code, extra={"workspace": self._ws.name})

    async def _left_paused(self) -> None:
        """A former agent may have died while the guest was held: let it try again; what still lacks is asked for again."""
        for _ in range(20):
            if self._ws.machine is not None:
                break
            await asyncio.sleep(_LOOK)  # whoever took over the disks is about to take over the machine
        if self._ws.record.run is RunState.PAUSED:
            await self._go_on()

    async def _bring_all(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            while self._wanted:
                try:
                    await self._bring(list(self._wanted)[:_AT_ONCE])
                except TwofoldError as gone:  # the vault process, or the machine: their ends are looked after elsewhere
                    log.info("delivery: %s", gone.code, extra={"workspace": self._ws.name})
                    await asyncio.sleep(_LOOK)

    async def _bring(self, ids: Sequence[bytes]) -> None:
        failed, why = await asyncio.to_thread(self._take, ids)
        came = [chunk for chunk in ids if chunk not in failed]
        if came:
            self._last = time.monotonic()
            await asyncio.to_thread(self._vault.arrived, came)
            for chunk in came:
                self._wanted.pop(chunk, None)
        self._why = why
        if why is None:
            if not self._wanted:
                self.idle.set()
                await self._go_on()
            return
        self.idle.set()
        log.info("a disk waits for its image: %s", why.code, extra={"workspace": self._ws.name})
        await asyncio.to_thread(self._vault.absent, list(failed), why.happened)
        until = time.monotonic() + _RETRY
        self._some.clear()
        while time.monotonic() < until and not self._some.is_set():
            await self._hold()
            await asyncio.sleep(_LOOK)

    def _take(self, ids: Sequence[bytes]) -> tuple[set[bytes], TwofoldError | None]:
        """What could not be had, and why. One piece that the server lacks keeps no other from coming."""
        from twofold.image.fetch import take

        try:
            take(ids, self._rooms.remote(), self._cache)
        except (UnreachableError, TimedOutError, NoRoomError) as away:
            return set(ids), away
        except TwofoldError as off:
            if len(ids) == 1:
                return set(ids), off
            halves = (ids[: len(ids) // 2], ids[len(ids) // 2 :])
            results = [self._take(half) for half in halves]
            return results[0][0] | results[1][0], results[0][1] or results[1][1]
        return set(), None

    async def _hold(self) -> None:
        """Say so once QEMU has stopped the guest."""
        ws = self._ws
        if ws.machine is None or ws.record.run is not RunState.RUNNING or (await ws.machine.stats()).status != _STOPPED:
            return
        ws.become(RunState.PAUSED, error=self._waits().to_wire())

    async def _go_on(self) -> None:
        """Let the guest try again, if it was stopped for this."""
        ws = self._ws
        if ws.machine is None or ws.record.run not in (RunState.RUNNING, RunState.PAUSED):
            return
        if (await ws.machine.stats()).status != _STOPPED:
            return
        await ws.machine.resume()
        if ws.record.run is RunState.PAUSED:
            ws.become(RunState.RUNNING, error=None)
            if ws.guest is not None:
                ws.guest.set_time_when_up()

    def _waits(self) -> TwofoldError:
        why = self._why or UnreachableError("It has not come yet.")
        kind = type(why)
        away = isinstance(why, UnreachableError | TimedOutError)
        return kind(
            f"{self._ws.title} is paused: a piece of its system is not on this device yet. {why.happened}",
            safe="Nothing is lost; it stands still exactly where it was.",
            next="Connect to your company's server; it goes on by itself." if away else why.next,
        )
