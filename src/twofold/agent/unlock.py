"""The unlock code: what a person must know before a workspace starts, where its policy asks for one.

The wrapped keys lie on the disk under the code (docs/keys.md); only while it is unlocked has the agent them in its memory as they
were. A try is counted on the disk before it is made, so that ending the agent in the middle of one gains nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable

from twofold.agent import epochs, rights
from twofold.agent.store import KEY
from twofold.agent.workspace import Workspace
from twofold.model.errors import RefusedError, TwofoldError, UsageError
from twofold.vault.seam import Keys

log = logging.getLogger(__name__)


def require(ws: Workspace) -> None:
    """Before a start. Raises: RefusedError: the policy wants a code and there is none yet; or it has not been given."""
    lease, _ = ws.whole()
    if lease.policy.unlock and not ws.stored_keys().locked:
        raise RefusedError(
            f"Your company wants {ws.title} to open with a code of yours.",
            safe="Nothing was started.",
            next=f"Choose one:  twofold unlock {ws.name} --new",
        )
    ws.keys()


async def choose(ws: Workspace, code: str) -> None:
    """Set the code, or another one in place of one that was just given. Raises: RefusedError: it was not given."""
    async with ws.one_code:
        keys = await asyncio.to_thread(epochs.fresh, ws, ws.keys())
        locked = await asyncio.to_thread(ws.rooms.vault.lock, keys, code)
        await asyncio.to_thread(ws.store.write, ws.name, KEY, locked.wrapped)
        ws.opened = keys
        ws.tell()
        await epochs.kept(ws, keys)
        log.info("an unlock code was set", extra={"workspace": ws.name})


async def unlock(ws: Workspace, code: str, erase: Callable[[], Awaitable[None]]) -> None:
    """Try a code. Wrong ones lock the workspace, and later erase it, as its policy says.

    Raises:
        RefusedError: another code, or it is locked. UsageError: it has no code. NoRoomError: the try could not be counted.
    """
    async with ws.one_code:
        lease, _ = ws.whole()
        if not ws.stored_keys().locked:
            raise UsageError(f"{ws.title} has no unlock code.", safe="Nothing was changed.")
        await _settle(ws, erase)  # what a try that was cut off would have done
        if ws.record.locked:
            raise rights.locked(lease, ws.record.locked_by)
        _count(ws)
        try:
            ws.opened = await asyncio.to_thread(ws.rooms.vault.unlock, ws.stored_keys(), code)
        except RefusedError as wrong:
            if await _settle(ws, erase, fresh=True):
                raise RefusedError(
                    f"This is not the unlock code, and there were too many of them: {ws.title} has been erased here.",
                    safe="What was backed up is on your company's server.",
                ) from wrong
            raise RefusedError(
                "This is not the unlock code." + (" It is locked now." if ws.record.locked else ""),
                safe="Nothing was opened.",
                next="Ask your administrator to unlock it." if ws.record.locked else _left(ws),
            ) from wrong
        ws.note(unlock_tries=0, unlock_locked=0)
        if epochs.due(ws):
            await _renew(ws, ws.opened, code)


async def _renew(ws: Workspace, keys: Keys, code: str) -> None:
    """Begin a key epoch that is due, which only who has the code can keep. What fails is tried again with the next code."""
    try:
        keys = await asyncio.to_thread(epochs.fresh, ws, keys)
        locked = await asyncio.to_thread(ws.rooms.vault.lock, keys, code)
        await asyncio.to_thread(ws.store.write, ws.name, KEY, locked.wrapped)
        ws.opened = keys
        await epochs.kept(ws, keys)
    except TwofoldError as failed:
        log.warning("no new key: %s", failed, extra={"workspace": ws.name})


def _count(ws: Workspace) -> None:
    """On the disk before the try; where it can't be written there is none."""
    counted = dataclasses.replace(ws.record, unlock_tries=ws.record.unlock_tries + 1)
    ws.store.save(ws.name, counted)
    ws.record = counted


async def _settle(ws: Workspace, erase: Callable[[], Awaitable[None]], *, fresh: bool = False) -> bool:
    """Lock or erase where so many tries want it; whether it was erased. An administrator who unlocks it gives one more try
    each time (`unlock_locked`: for how many it was locked)."""
    lease, _ = ws.whole()
    tries, policy = ws.record.unlock_tries, lease.policy
    if 0 < policy.erase_failures <= tries:
        log.warning("%s: erasing", rights.CODES, extra={"workspace": ws.name})
        await erase()
        if not fresh:
            raise RefusedError(f"{ws.title} has been erased here: there were {rights.CODES}.")
        return True
    if 0 < policy.unlock_failures <= tries and tries > ws.record.unlock_locked:
        ws.note(locked=True, locked_by=rights.CODES, unlock_locked=tries)
    return False


def _left(ws: Workspace) -> str:
    lease, _ = ws.whole()
    left = lease.policy.unlock_failures - ws.record.unlock_tries
    return f"{left} more {'try' if left == 1 else 'tries'}, then it is locked." if left > 0 else "Try again."
