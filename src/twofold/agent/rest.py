"""What a workspace left with the server when it began here: brought behind, whole files, until nobody is needed any more.

The vault process asks by itself for what the guest reads (`twofold.vault.afar`); here the rest is asked for, whether the
workspace runs or not, and a guest that had to be stopped for want of the server goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from twofold.agent.store import VAULT
from twofold.agent.supply import Stock
from twofold.model.errors import ConflictError, TwofoldError
from twofold.model.workspace import Custody, RunState

if TYPE_CHECKING:
    from twofold.agent.workspace import Workspace

log = logging.getLogger(__name__)
# Seconds until the next try: while nobody waits; and while a guest does, or somebody else was first.
_AGAIN, _SOON = 5.0, 2.0
_STOPPED = "io-error"


class Rest:
    """One for the machine."""

    def __init__(self, workspaces: Callable[[], Sequence[Workspace]]) -> None:
        self._workspaces = workspaces
        self._changed = asyncio.Event()
        self._held: set[str] = set()

    def look_again(self) -> None:
        """A workspace has come."""
        self._changed.set()

    async def run(self) -> None:
        while True:
            self._changed.clear()
            waits: list[float | None] = [await self._bring(ws) for ws in list(self._workspaces()) if _counts(ws)]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min((each for each in waits if each is not None), default=None)):
                    await self._changed.wait()

    async def _bring(self, ws: Workspace) -> float | None:
        """One file of a workspace. Seconds until it is worth another try; None where all of it is here."""
        vaults, where = ws.rooms.vault, ws.folder / VAULT
        try:
            stock = await asyncio.to_thread(vaults.afar, where)
            ws.awaited(None if stock is None else Stock(*stock))
            if stock is None:
                await self._go_on(ws)
                return None
            before, of = stock

            def told(step: str, done: int, total: int) -> None:
                loop.call_soon_threadsafe(ws.awaited, Stock(min(before + done, of), of))

            loop, vault = asyncio.get_running_loop(), ws.vault
            if vault is not None:
                await asyncio.to_thread(vault.fill, told)
            elif ws.record.run in (RunState.OFF, RunState.SUSPENDED):
                await asyncio.to_thread(vaults.fill, where, told)
            else:
                return _SOON
        except ConflictError:
            return _SOON  # somebody is about to open it, or has ended it
        except TwofoldError as away:
            log.info("the rest has not come yet: %s", away.code, extra={"workspace": ws.name})
            return _SOON if self._held or ws.vault is None else _AGAIN
        await self._go_on(ws)
        return 0.0

    async def stopped(self, ws: Workspace) -> bool:
        """QEMU has stopped the guest for a disk's sake. True if it was for want of what is with the server; that is said, and it
        goes on when that comes."""
        away = ws.vault.away() if ws.vault is not None else None
        if away is None:
            return await self._go_on(ws) if ws.name in self._held else False
        if ws.record.run is RunState.RUNNING:
            self._held.add(ws.name)
            error = type(away)(
                f"{ws.title} is paused: a part of it is not on this device yet. {away.happened}",
                safe="Nothing is lost; it stands still exactly where it was.",
                next="Connect to your company's server; it goes on by itself.",
            )
            ws.become(RunState.PAUSED, error=error.to_wire())
            self._changed.set()
        return True

    async def _go_on(self, ws: Workspace) -> bool:
        if ws.name not in self._held:
            return False
        self._held.discard(ws.name)
        if ws.machine is None or (await ws.machine.stats()).status != _STOPPED:
            return False
        await ws.machine.resume()
        if ws.record.run is RunState.PAUSED:
            ws.become(RunState.RUNNING, error=None)
            if ws.guest is not None:
                ws.guest.set_time_when_up()
        return True


def _counts(ws: Workspace) -> bool:
    return (
        ws.wrong is None and ws.record.custody is Custody.CHECKED_OUT and not ws.record.taken and not ws.record.leaving
    )
