"""How a workspace leaves this device: checked in, discarded or removed. First comes what a death half-way must not undo: the
back up, then the server's word, then the key, then the rest."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, nullcontext, suppress
from typing import Any

from twofold.agent import backup
from twofold.agent.disks import at_hand
from twofold.agent.operations import CancelledByPersonError, Operation
from twofold.agent.past import LINE, Kept, Past
from twofold.agent.registry import Registry
from twofold.agent.rooms import give_back
from twofold.agent.store import KEY, VAULT
from twofold.agent.workspace import Workspace
from twofold.model.errors import (
    ConflictError,
    NotFoundError,
    RefusedError,
    TimedOutError,
    TwofoldError,
    UnreachableError,
    UsageError,
)
from twofold.model.workspace import Custody, RunState

log = logging.getLogger(__name__)
DISCARD, WIPE = "discard", "wipe"  # what a record says is leaving, where it is no generation's id
_MOMENT = 30.0


async def check_in(
    registry: Registry, ws: Workspace, op: Operation, turn: backup.Turn, may: str = "checkin"
) -> dict[str, Any]:
    """Back up what is new, give the lease back, remove the workspace from this device. Until the server has all of it nothing is
    given up; from then on the rest is finished whatever happens. `may`: the rule of the policy that allows it. `turn` may be one
    that shuts the machine down (`closing.closed`).

    Raises:
        RefusedError: the company does not let the person do that. ConflictError: it runs, or its memory is stored, which stays
        on no server.
    """
    lease, _ = ws.whole()
    if may and not getattr(lease.policy, may):
        raise RefusedError(
            f"Your company does not let {ws.title} be checked in from here.", safe="Nothing was changed."
        )
    began = time.monotonic()
    async with turn:
        ws.whole()
        if not ws.record.leaving:
            _require_off(ws)
        if ws.record.custody is not Custody.CHECKING_IN:
            ws.hold(Custody.CHECKING_IN, error=None)
        try:
            result = await _given_back(ws, op)
        except TwofoldError as failed:
            _stays(ws, failed)
            raise
        receipt = await erase(registry, ws, op)
    return result | {"receipt": receipt, "seconds": round(time.monotonic() - began, 3)}


async def _given_back(ws: Workspace, op: Operation) -> dict[str, Any]:
    result: dict[str, Any] = {"id": ws.record.leaving}
    if not ws.record.leaving:
        result = await backup.back_up(ws, op, nullcontext())
        if result["kind"] != LINE:
            raise backup.branched(ws.title)
        op.commit(f"{ws.title} is on the server already, and is about to leave this device.")
        ws.keep(leaving=result["id"])
    op.progress("giving it back", 0, 0)
    try:
        past = await asyncio.to_thread(lambda: Past(ws.rooms.remote()))
        await asyncio.to_thread(past.checkin, backup.holding(ws), result["id"])
    except (RefusedError, NotFoundError) as gone:
        # The lease is another's by now. What is here is on the server to the last byte all the same.
        log.info("the lease had gone already: %s", gone.code, extra={"workspace": ws.name})
    return result


def _stays(ws: Workspace, failed: TwofoldError) -> None:
    """It did not leave. Where the server may have taken it and its answer was lost, it is finished at the next contact."""
    if ws.record.leaving and isinstance(failed, UnreachableError | TimedOutError):
        ws.fail(failed)
        return
    quiet = isinstance(failed, CancelledByPersonError)
    ws.note(custody=Custody.CHECKED_OUT, leaving="", error=None if quiet else failed.to_wire())


def _require_off(ws: Workspace) -> None:
    if ws.record.run is RunState.SUSPENDED:
        raise ConflictError(
            f"{ws.title} is suspended; what is open in it stays on no server.",
            safe="Nothing was changed.",
            next=f"Let it be woken and shut down, with --yes, or give up what is open:  twofold off {ws.name} --yes",
        )
    if ws.machine is not None or ws.vault is not None:
        raise ConflictError(
            f"{ws.title} is {ws.run}.",
            safe="Nothing was changed.",
            next=f"Let it be shut down, with --yes, or stop it first:  twofold stop {ws.name}",
        )


async def loss(ws: Workspace, op: Operation) -> dict[str, Any]:
    """What discarding gives up: `backed_up` (Unix seconds, 0: never), `changed` bytes of the disks since (null: it can't be
    told), and whether something is open."""
    op.progress("looking at what is new", 0, 0)
    return await asyncio.to_thread(_loss, ws)


def _loss(ws: Workspace) -> dict[str, Any]:
    ws.whole()
    kept = Kept.load(ws.folder)
    kept = kept if kept is not None and kept.kind == LINE else None
    changed: int | None = None
    with at_hand(ws) as vault:
        since = kept.content.generation if kept is not None else 0
        if any(each.number == since for each in vault.generations()):
            disks = [each["name"] for each in vault.status()["vault"]["devices"] if not each["read_only"]]
            changed = sum(length for disk in disks for _, length in vault.changed(disk, since))
    return {
        "backed_up": kept.content.time if kept is not None else 0,
        "changed": changed,
        "open": ws.machine is not None or ws.record.memory_stored,
        "seconds": max(0, int(time.time()) - kept.content.time) if kept is not None else 0,
    }


async def discard(
    registry: Registry, ws: Workspace, op: Operation, turn: backup.Turn, *, yes: bool, may: str = "discard"
) -> dict[str, Any]:
    """Give the lease back without what is new here, and remove the workspace: the server's newest back up is what goes on. The
    server agrees before anything is given up.

    Raises:
        RefusedError: the company does not let the person do that.
    """
    lease, _ = ws.whole()
    if may and not getattr(lease.policy, may):
        raise RefusedError(f"Your company does not let {ws.title} be discarded.", safe="Nothing was changed.")
    if not yes:
        raise UsageError(
            f"Discarding gives up everything in {ws.title} that is not on the server.",
            safe="Nothing was changed.",
            next=f"See what that is:  twofold discard {ws.name}",
        )
    async with turn:
        ws.whole()
        op.commit("The server has been told already.")
        op.progress("telling the server", 0, 0)
        ws.keep(leaving=DISCARD)
        try:
            past = await asyncio.to_thread(lambda: Past(ws.rooms.remote()))
            await asyncio.to_thread(past.discard, backup.holding(ws))
        except TwofoldError:
            ws.note(leaving="")
            raise
        return {"receipt": await erase(registry, ws, op)}


async def wiped(registry: Registry, ws: Workspace, turns: Sequence[backup.Turn], op: Operation) -> dict[str, Any]:
    """The key, then whatever runs, then the rest; who is in the middle of something gets a moment to let go."""
    op.commit("Its key is destroyed already.")
    had_key = await asyncio.to_thread(ws.store.destroy_key, ws.name)
    await ws.kill_machine()
    async with AsyncExitStack() as held:
        with suppress(TimeoutError):
            async with asyncio.timeout(_MOMENT):
                for turn in turns:
                    await held.enter_async_context(turn)
        return {"receipt": await erase(registry, ws, op, had_key=had_key)}


async def go_on(registry: Registry, ws: Workspace, op: Operation, turn: backup.Turn) -> dict[str, Any]:
    """Finish what a former agent began: from where the server had agreed there is no way back."""
    if ws.record.leaving == WIPE or (ws.record.leaving and not (ws.folder / KEY).exists()):
        async with turn:
            return {"receipt": await erase(registry, ws, op)}
    if ws.record.leaving == DISCARD:
        return await discard(registry, ws, op, turn, yes=True, may="")
    return await check_in(registry, ws, op, turn, may="")


async def remove(registry: Registry, ws: Workspace, op: Operation, *, yes: bool) -> dict[str, Any]:
    """Remove a workspace from this device: the key first, so that what is left is noise from that moment on."""
    if ws.machine is not None and not yes:
        raise ConflictError(f"{ws.title} is {ws.run}.", next=f"Suspend or stop it first:  twofold stop {ws.name}")
    if not yes:
        raise UsageError(
            f"Removing {ws.title} destroys everything in it that is only on this device.",
            safe="Nothing was removed.",
            next=f"If that is what you want:  twofold remove {ws.name} --yes",
        )
    op.commit("Its key is destroyed already.")
    receipt = await erase(registry, ws, op)
    await give_back(registry.rooms, ws.name)
    return {"receipt": receipt}


async def erase(registry: Registry, ws: Workspace, op: Operation, *, had_key: bool = False) -> dict[str, Any]:
    """Remove everything of a workspace from this device, and nothing else; the receipt says what that was. `had_key`: its key was
    destroyed just now."""
    where, stored = ws.folder / VAULT, 0
    if where.is_dir():
        stored = await asyncio.to_thread(registry.rooms.vault.stored_bytes, where)
    op.progress("switching off", 0, 0)
    await ws.kill_machine()
    await ws.close_vault()
    had_key = await asyncio.to_thread(ws.store.destroy_key, ws.name) or had_key
    op.progress("removing the sealed store", 0, 0)
    if where.is_dir():
        # A workspace whose key can't be read was never attached to: its disks' process may still be there.
        await asyncio.to_thread(registry.rooms.vault.release, where, given_up=True)
        await asyncio.to_thread(registry.rooms.vault.destroy, where)
    told = _told(ws, op) | {
        "key_destroyed": had_key,
        "sealed_bytes_removed": stored,
        "removed_at": int(time.time()),
    }
    with suppress(TwofoldError, OSError):  # a full disk keeps nothing from leaving
        await asyncio.to_thread(registry.receipts.add, told)
    await asyncio.to_thread(ws.store.destroy, ws.name)
    registry.drop(ws)
    freed = await registry.supply.clear()
    return {name: told[name] for name in ("workspace", "key_destroyed", "sealed_bytes_removed", "removed_at")} | {
        "image_bytes_removed": freed,
        "stays": "The company's image: on its server, and here what other workspaces stand on. No work of yours is in it.",
        "not_promised": "A disk may keep old copies of the wrapped key; they open only with this device's own key.",
    }


def _told(ws: Workspace, op: Operation) -> dict[str, Any]:
    """What a receipt says of it for the person; `company` where it was not theirs to decide."""
    asked = op.verb == WIPE or op.args.get("why") == backup.COMPANY
    return {
        "workspace": ws.name,
        "title": ws.title,
        "colour": ws.record.colour,
        "verb": op.verb,
        "company": asked,
        "token": ws.lease.token if ws.lease is not None else 0,
    }
