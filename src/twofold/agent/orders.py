"""What the company asks of a workspace on this device, done; the words that come back are its receipt."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from typing import Any

from twofold.agent import backup, change, leaving, power, rights
from twofold.agent.operations import AT_ONCE, TRANSFER, Operation, Operations, Work
from twofold.agent.registry import Registry
from twofold.agent.remote import Command
from twofold.agent.workspace import Workspace
from twofold.model.errors import BadInputError, NotFoundError, TwofoldError
from twofold.model.workspace import RunState

_NOTHING = "Nothing of it is on this device."


async def obey(registry: Registry, operations: Operations, command: Command) -> str:
    """Do it, once or again.

    Raises:
        UnreachableError, TimedOutError: the server went away; it asks again. TwofoldError: it can't be done, and why.
    """
    if command.verb == "open":
        return await _open(registry, operations, command.workspace)
    for each in operations.under_way(command.workspace, "") if command.verb != leaving.WIPE else ():
        if each.verb == "checkout":  # asked of a workspace that is not here yet
            await each.wait(None)
    ws = registry.find(command.workspace)
    here = ws is not None and (ws.lease is None or ws.lease.token == command.token)
    if ws is None or not here:
        if command.verb in (leaving.WIPE, "discard", "replicate-discard", "release"):
            return _NOTHING
        raise NotFoundError(_NOTHING)
    match command.verb:
        case "lock":
            return await _lock(ws, operations, command.by)
        case "unlock":
            ws.note(locked=False, locked_by="", error=None)
            return "It is unlocked."
        case "wipe":
            return await wipe(registry, operations, ws)
        case "replicate":
            work: Work = partial(_backed_up, ws, operations)
            result = (await _done(operations, "backup", ws, {"why": backup.COMPANY}, work)).result
            return f"Generation {result['generation']} is on the server ({result['kind']}); {result['sent_bytes']} bytes sent."
        case "discard":
            work = partial(_discarded, registry, ws, operations)
            return await _gone(registry, ws, _done(operations, "discard", ws, {"why": backup.COMPANY}, work))
        case "upgrade":
            work = partial(_upgraded, registry, ws, operations, command.version)
            done = (await _done(operations, "upgrade", ws, {"version": command.version}, work)).result
            if "already" in done:
                return f"It stands on version {done['version']}, and goes to no other."
            return f"Version {done['version']} is there ({done['received']} bytes came); its next start takes it."
        case "reset":
            work = partial(change.reset, ws, yes=True, may="")
            done = (await _done(operations, "reset", ws, {"why": backup.COMPANY}, work, lane="")).result
            return f"Its next start drops {done['drops']}."
        case "replicate-discard" | "release":
            if (
                command.verb == "release" and ws.record.run is RunState.SUSPENDED
            ):  # what is open is the person's, not ours to give up
                await _end(operations.submit("start", ws.name, {"boot": False}, partial(power.start, ws, boot=False)))
            await _off(ws, operations)
            work = partial(_given_back, registry, ws, operations)
            return await _gone(registry, ws, _done(operations, "checkin", ws, {"why": backup.COMPANY}, work))
    raise BadInputError(f"This version does not know how to {command.verb[:40]!r}.")


async def _open(registry: Registry, operations: Operations, name: str) -> str:
    """On a node: bring it here where it is not, and start it where it does not run."""
    from twofold.agent.checkout import checkout
    from twofold.agent.repair import empty

    ws = registry.find(name)
    if ws is None or empty(ws):
        await _end(operations.submit("checkout", name, {}, lambda op: checkout(registry, name, op)))
        ws = registry.get(name)
    if ws.record.run is RunState.PAUSED:
        await _end(operations.submit("resume", name, {}, partial(power.resume, ws)))
    else:
        await _end(operations.submit("start", name, {"boot": False}, partial(power.start, ws, boot=False)))
    return "It runs."


async def _gone(registry: Registry, ws: Workspace, work: Awaitable[Operation]) -> str:
    """The receipt's words. What a former agent had begun may be ended before this gets its turn: then it is done as well."""
    try:
        return _words((await work).result["receipt"])
    except NotFoundError:
        if registry.find(ws.name) is ws:
            raise
        return _NOTHING


async def wipe(registry: Registry, operations: Operations, ws: Workspace) -> str:
    """The key is destroyed before anything else, whatever is under way; then the rest of this workspace, and nothing besides."""
    ws.note(leaving=leaving.WIPE)
    for each in operations.all():
        if each.workspace == ws.name and each.lane != AT_ONCE:
            with suppress(TwofoldError):  # one that can't be cancelled ends by itself
                each.cancel()
    turns = [operations.turn(ws.name, lane) for lane in (TRANSFER, "")]
    operation = operations.submit("wipe", ws.name, {}, partial(leaving.wiped, registry, ws, turns), AT_ONCE)
    await operation.wait(None)
    if operation.error is not None:
        raise operation.error
    return _words(operation.result["receipt"])


async def _lock(ws: Workspace, operations: Operations, by: str) -> str:
    lease, _ = ws.whole()
    ws.note(locked=True, locked_by=by, error=rights.locked(lease, by).to_wire())
    if ws.machine is None:
        return "It is locked; it did not run."
    operation = operations.submit("suspend", ws.name, {}, partial(power.suspend, ws))
    await operation.wait(None)
    if operation.error is None:
        return "It is locked; what ran is suspended."
    if ws.machine is not None and ws.record.run is RunState.RUNNING:
        await _done(operations, "pause", ws, {}, partial(power.pause, ws), lane="")
    ws.fail(rights.locked(lease, by))
    return f"It is locked; what ran is paused, since it could not be suspended: {operation.error.happened}"


async def _off(ws: Workspace, operations: Operations) -> None:
    """Shut down, so that all of it is on its disks; what was suspended is given up, as the company asked."""
    if ws.record.run is RunState.SUSPENDED:
        await _done(operations, "off", ws, {}, partial(power.off, ws), lane="")
    elif ws.machine is not None:
        await _done(operations, "stop", ws, {}, partial(power.stop, ws), lane="")


async def _backed_up(ws: Workspace, operations: Operations, op: Operation) -> dict[str, object]:
    return await backup.wanted(ws, op, operations.turn(ws.name), why=backup.COMPANY)


async def _discarded(registry: Registry, ws: Workspace, operations: Operations, op: Operation) -> dict[str, object]:
    return await leaving.discard(registry, ws, op, operations.turn(ws.name), yes=True, may="")


async def _upgraded(
    registry: Registry, ws: Workspace, operations: Operations, version: int, op: Operation
) -> dict[str, object]:
    return await change.upgrade(registry, ws, op, operations.turn(ws.name), version=version)


async def _given_back(registry: Registry, ws: Workspace, operations: Operations, op: Operation) -> dict[str, object]:
    return await leaving.check_in(registry, ws, op, operations.turn(ws.name), may="")


async def _done(
    operations: Operations, verb: str, ws: Workspace, args: dict[str, Any], work: Work, lane: str = TRANSFER
) -> Operation:
    return await _end(operations.submit(verb, ws.name, args, work, lane))


async def _end(operation: Operation) -> Operation:
    await operation.wait(None)
    if operation.error is not None:
        raise operation.error
    return operation


def _words(receipt: dict[str, object]) -> str:
    key = "Its key was destroyed" if receipt["key_destroyed"] else "It had no key any more"
    return (
        f"{key}, then {receipt['sealed_bytes_removed']} sealed bytes removed. Nothing else of this device was touched."
    )
