"""A workspace's sealed store looked at on purpose: what it takes, whether it is whole, and going on with an older one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twofold.agent.operations import Operation
from twofold.agent.store import VAULT
from twofold.agent.workspace import Workspace
from twofold.model.errors import ConflictError, UsageError
from twofold.model.workspace import RunState
from twofold.vault.seam import Inspected


async def info(ws: Workspace, op: Operation) -> dict[str, Any]:
    """The vault process's own account of it, and the bytes that its files take on this disk."""
    op.progress("opening the sealed disks", 0, 0)

    def look() -> dict[str, Any]:
        with _at_hand(ws) as vault:
            found: dict[str, Any] = vault.status()["vault"]
        return found | {"files": ws.rooms.vault.stored_bytes(ws.folder / VAULT)}

    return await asyncio.to_thread(look)


async def check(ws: Workspace, op: Operation, *, data: bool) -> dict[str, Any]:
    """Go through it, while it runs or not; `data` opens every block. Damage is in the result."""

    def look() -> dict[str, Any]:
        with _at_hand(ws) as vault:
            return vault.check(data, op.progress)

    return await asyncio.to_thread(look)


async def repair(ws: Workspace, op: Operation, *, yes: bool) -> dict[str, Any]:
    """Make the store that is here the one that counts, although it is older than it was or nothing says how old it is.

    Raises:
        DamagedError: it is not its age that is wrong. ConflictError: it is open.
    """
    if ws.vault is not None:
        raise ConflictError(f"{ws.title} runs; its store is open and needs no repair.", safe="Nothing was changed.")
    if not yes:
        raise UsageError(
            f"Repairing makes the store of {ws.title} that is here count as the newest;"
            " work that was done after it is given up, and so is suspended memory.",
            safe="Nothing was changed.",
            next=f"If that is what you want:  twofold disk repair {ws.name} --yes",
        )
    op.progress("opening the sealed disks", 0, 0)

    def accept() -> dict[str, Any]:
        with ws.rooms.vault.resting(ws.folder / VAULT, ws.keys(), accept=True) as vault:
            found: dict[str, Any] = vault.status()["vault"]
            return found

    found = await asyncio.to_thread(accept)
    run = RunState.OFF if ws.record.run is RunState.SUSPENDED else ws.record.run
    ws.become(run, memory_stored=False, error=None)
    return found


@contextmanager
def _at_hand(ws: Workspace) -> Iterator[Inspected]:
    """The process of a machine that runs; else one for this question."""
    if ws.vault is not None:
        yield ws.vault
        return
    with ws.rooms.vault.resting(ws.folder / VAULT, ws.keys()) as vault:
        yield vault
