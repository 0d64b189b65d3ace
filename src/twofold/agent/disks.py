"""A workspace's sealed store looked at on purpose: what it takes, whether it is whole, and giving up what is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from twofold.agent.operations import Operation
from twofold.agent.store import VAULT
from twofold.model.errors import ConflictError, UsageError
from twofold.model.workspace import RunState
from twofold.vault.seam import Inspected

if TYPE_CHECKING:
    from twofold.agent.workspace import Workspace


async def info(ws: Workspace, op: Operation) -> dict[str, Any]:
    """The vault process's own account of it, and the bytes that its files take on this disk."""
    op.progress("opening the sealed disks", 0, 0)

    def look() -> dict[str, Any]:
        with at_hand(ws) as vault:
            found: dict[str, Any] = vault.status()["vault"]
        inside = ws.guest.home if ws.guest is not None else None
        waiting = {"grow_to": ws.record.grow_to, "inside": inside}
        return found | waiting | {"files": ws.rooms.vault.stored_bytes(ws.folder / VAULT)}

    return await asyncio.to_thread(look)


async def check(ws: Workspace, op: Operation, *, data: bool) -> dict[str, Any]:
    """Go through it, while it runs or not; `data` opens every block. Damage is in the result."""

    def look() -> dict[str, Any]:
        with at_hand(ws) as vault:
            return vault.check(data, op.progress)

    return await asyncio.to_thread(look)


async def survey(ws: Workspace, op: Operation) -> dict[str, Any]:
    """What a repair would give up and what is safe, and the digest that names this plan. Changes nothing.

    Raises:
        ConflictError: it is open.
    """
    _require_off(ws)
    digest, plan = await asyncio.to_thread(ws.rooms.vault.survey, ws.folder / VAULT, ws.keys(), op.progress)
    return {"digest": digest, "plan": plan}


async def repair(ws: Workspace, op: Operation, *, yes: bool, plan: str) -> dict[str, Any]:
    """Give up what is lost, so that the rest can be used: exactly the plan of this digest, or, without one, what is found now.

    Raises:
        ConflictError: it is open; or something else would be given up by now than what the plan names.
    """
    _require_off(ws)
    vaults, where = ws.rooms.vault, ws.folder / VAULT
    if not yes:
        raise UsageError(
            f"Repairing gives up for good what is lost of the store of {ws.title}; work that was done after the copy that is"
            " here is given up too, and so is suspended memory where it can't be told whether it fits.",
            safe="Nothing was changed.",
            next=f"See what it is:  twofold disk repair {ws.name}",
        )
    if not plan:
        plan, found = await asyncio.to_thread(vaults.survey, where, ws.keys(), op.progress)
        if found["sound"]:
            return {"plan": found, "zeroed": 0, "generations": [], "memory": False, "anchored": None}
    op.commit("What is lost is being given up already.")
    done = await asyncio.to_thread(vaults.repair, where, ws.keys(), plan, op.progress)
    run = RunState.OFF if ws.record.run is RunState.SUSPENDED and done["memory"] else ws.record.run
    ws.become(run, memory_stored=ws.record.memory_stored and not done["memory"], error=None)
    return done


async def upgrade(ws: Workspace, op: Operation) -> dict[str, Any]:
    """Give the store the newest format that this version knows, in place."""
    op.progress("opening the sealed disks", 0, 0)

    def work() -> dict[str, Any]:
        with at_hand(ws) as vault:
            return vault.upgrade()

    return await asyncio.to_thread(work)


def _require_off(ws: Workspace) -> None:
    if ws.vault is not None:
        raise ConflictError(
            f"{ws.title} runs; its store is open and cannot be repaired.",
            safe="Nothing was changed.",
            next=f"Stop it first:  twofold stop {ws.name}",
        )


@contextmanager
def at_hand(ws: Workspace) -> Iterator[Inspected]:
    """The process of a machine that runs; else one for this question."""
    if ws.vault is not None:
        yield ws.vault
        return
    with ws.rooms.vault.resting(ws.folder / VAULT, ws.keys()) as vault:
        yield vault
