"""What the agent does by the clock: room on the disk, the host system's sleep, the lease, the heartbeat to the server."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from twofold.agent import change, rights
from twofold.agent.workspace import Workspace
from twofold.model.errors import NoRoomError, RefusedError, TimedOutError, TwofoldError, UnreachableError
from twofold.model.workspace import Doze, RunState

log = logging.getLogger(__name__)

TICK = 2.0  # seconds while something runs
IDLE = 10.0  # and while nothing does
PAUSE_BELOW = 96 << 20  # bytes free on the vault's disk; a suspend's memory would still be refused before it starts
RESUME_ABOVE = 256 << 20  # the store takes its next segment in advance, and keeps some for its cleaner
_SLEPT = 2.0  # seconds that the two clocks may drift apart between two ticks
_RETRY = 60.0  # seconds; a node, on which people wait, tries sooner
_SEEN_EVERY = 600
_ALONE = 300  # seconds between two heartbeats of a device without a workspace


class Contact(Protocol):
    """`twofold.agent.contact.Contact`: `wanted` says whether there is a server to be told."""

    @property
    def wanted(self) -> bool: ...

    async def beat(self) -> int: ...


class Supervision:
    """One loop for all workspaces. It wakes rarely while nothing runs."""

    def __init__(
        self,
        workspaces: Callable[[], list[Workspace]],
        suspend: Callable[[Workspace], object],
        contact: Contact,
        stopped: Callable[[Workspace], Awaitable[bool]],
        erase: Callable[[Workspace], Awaitable[None]],
    ) -> None:
        self._workspaces, self._suspend, self._contact, self._stopped = workspaces, suspend, contact, stopped
        self._erase = erase
        self.retry = _RETRY  # seconds between two tries to reach a server that is away
        self._stages: dict[str, int] = {}
        self._versions: dict[str, int] = {}
        self._away = False  # the last try to reach the server failed
        self._no_room: set[str] = set()
        self._woken = asyncio.Event()
        self._next_beat = 0.0
        self._gap = _gap()

    async def run(self) -> None:
        while True:
            await self._rest()
            slept = self._after_sleep()
            for ws in self._workspaces():
                try:
                    await self._look(ws, slept=slept)
                except (TwofoldError, OSError) as failed:
                    log.warning("supervision: %s", failed, extra={"workspace": ws.name})
            try:
                await self._beat()
            except OSError as failed:  # a disk that fails; what runs is looked after all the same
                log.warning("heartbeat: %s", failed)

    def wake(self) -> None:
        """Something has changed: look soon, even where nothing ran before."""
        self._woken.set()

    def beat_soon(self) -> None:
        """There is news, or a receipt to be sent."""
        self._next_beat = 0.0
        self.wake()

    async def _rest(self) -> None:
        if any(ws.machine is not None and ws.doze.state is not Doze.DOZING for ws in self._workspaces()):
            await asyncio.sleep(TICK)
            return
        try:
            async with asyncio.timeout(IDLE):
                await self._woken.wait()
        except TimeoutError:
            pass  # nothing has changed; the heartbeat may be due
        self._woken.clear()  # not before: what woke us while we looked is still to be looked at

    def _after_sleep(self) -> bool:
        """CLOCK_BOOTTIME counts while the host system sleeps, CLOCK_MONOTONIC does not (clock_gettime(2))."""
        gap, self._gap = self._gap, _gap()
        return self._gap - gap > _SLEPT

    async def _look(self, ws: Workspace, *, slept: bool) -> None:
        if ws.lease is None or ws.wrong is not None:
            return
        now = rights.now(ws.record)
        if now - ws.record.seen_at > _SEEN_EVERY:
            ws.note(**rights.seen(now))
        if (stage := rights.stage(ws.lease, ws.record)) != self._stages.get(ws.name, 0):
            self._stages[ws.name] = stage
            ws.tell()  # with or without a warning
        if self._versions.setdefault(ws.name, ws.record.version) != ws.record.version:
            self._versions[ws.name] = ws.record.version
            self.beat_soon()  # the company wants to know which version it stands on
        # Only where the server was asked in vain just now: a wrong clock alone destroys nothing.
        if self._away and not ws.record.leaving and rights.erase_due(ws.lease, ws.record):
            log.warning("the company's time without contact is over: erasing", extra={"workspace": ws.name})
            await self._erase(ws)
            return
        if ws.machine is None or ws.record.run not in (RunState.RUNNING, RunState.PAUSED):
            return
        if slept and ws.guest is not None:
            ws.guest.set_time_when_up()
        await self._room(ws)
        await ws.network.follow()
        ws.notices.follow()
        ws.focus.follow()
        ws.doze.follow()
        await change.judge(ws, int(time.time()))
        try:
            rights.require(ws.lease, ws.record)
        except RefusedError as ended:
            if ws.record.error != ended.to_wire():
                ws.fail(ended)
                self._suspend(ws)

    async def _room(self, ws: Workspace) -> None:
        """Pause before the disk is full: a guest must never see an error for want of room."""
        machine = ws.machine
        if machine is None:
            return
        free = shutil.disk_usage(ws.folder).free
        # QEMU says so by itself; asking it every two seconds would wake it as often as all else that an idle one does.
        stopped = ws.record.run is RunState.RUNNING and machine.paused_by_store.is_set()
        if stopped and free >= PAUSE_BELOW and await self._stopped(ws):
            return
        if ws.record.run is RunState.RUNNING and (free < PAUSE_BELOW or stopped):
            self._no_room.add(ws.name)
            await machine.pause()
            ws.become(RunState.PAUSED, error=_full(ws, free).to_wire())
        elif ws.record.run is RunState.PAUSED and ws.name in self._no_room and free > RESUME_ABOVE:
            await machine.resume()
            ws.become(RunState.RUNNING, error=None)
        if ws.record.run is not RunState.PAUSED:
            self._no_room.discard(ws.name)

    async def _beat(self) -> None:
        """Tell the server that this device is there; being away is fine, and known by the time of the last contact."""
        leased = [ws for ws in self._workspaces() if ws.lease is not None and ws.wrong is None]
        if time.monotonic() < self._next_beat or not self._contact.wanted:
            return
        self._next_beat = time.monotonic() + self.retry
        try:
            at = await self._contact.beat()
        except TwofoldError as away:
            log.info("the server is away: %s", away.code)
            self._away = isinstance(away, UnreachableError | TimedOutError)
            return
        self._away = False
        every = min((ws.lease.policy.heartbeat_seconds for ws in leased if ws.lease is not None), default=_ALONE)
        if self._next_beat:  # else somebody has asked for another one meanwhile
            self._next_beat = time.monotonic() + every
        here = self._workspaces()  # one may have gone while the server was asked
        for ws in (each for each in leased if each in here):
            _heard(ws, at)


def _heard(ws: Workspace, at: int) -> None:
    """There was contact: `at` is the time by the server's word, whatever this device's clock says or has said before."""
    if ws.lease is None:
        return
    shut = rights.refusal(ws.lease, ws.record)
    ws.note(contacted_at=at, **rights.seen(at))
    if shut is not None and ws.record.error == shut and rights.refusal(ws.lease, ws.record) is None:
        ws.fail(None)


def _full(ws: Workspace, free: int) -> NoRoomError:
    return NoRoomError(
        f"{ws.title} is paused: the disk that holds it has {free >> 20} MiB left.",
        safe="Nothing is lost; it stands still exactly where it was.",
        next=f"Free some space on this disk; it goes on by itself from {RESUME_ABOVE >> 20} MiB.",
    )


def _gap() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
