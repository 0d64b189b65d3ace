"""A machine that runs, or sleeps, is shut down so that its workspace can leave this device; where that fails it is as it was.

Memory stays on no server, so a desktop is given back with its system shut down (docs/decisions/0028). What can be sent while
the person goes on working is sent first: then the time in which nobody works is short, and a server that is away is found out
about while nothing has been changed yet.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from twofold.agent import backup, power, rights
from twofold.agent.operations import CancelledByPersonError, Operation, Operations, Work
from twofold.agent.past import BRANCH
from twofold.agent.workspace import Workspace
from twofold.model.errors import ConflictError, TimedOutError, TwofoldError
from twofold.model.workspace import RunState

_AWAKE = (RunState.RUNNING, RunState.PAUSED)


@asynccontextmanager
async def closed(ws: Workspace, op: Operation, operations: Operations) -> AsyncIterator[None]:
    """A `backup.Turn` with the machine off: what sleeps is woken, what runs is backed up as it runs and then shut down cleanly.

    Raises:
        TimedOutError: it did not shut down. ConflictError: it may not be woken. What waking and backing up raise. With each of
        these the machine is as it was.
    """
    turn, off = operations.turn(ws.name), False
    async with turn:  # what was under way has ended
        before = ws.record.run
    try:
        if before is RunState.SUSPENDED:
            await _wake(ws, op, operations)
        if ws.machine is not None:
            result = await backup.back_up(ws, op, turn)
            if result["kind"] == BRANCH:
                raise backup.branched(ws.title)
        async with turn:
            opened = ws.opened  # a machine that ends takes the unlock code with it, and its disks are still to be read
            if ws.machine is not None:
                await power.stop(ws, op)
                ws.opened = opened
            off = True
            try:
                yield
            finally:
                ws.opened = None if before in (*_AWAKE, RunState.SUSPENDED) else opened
    except TwofoldError as failed:
        if not off:
            await _put_back(ws, operations, before)
        if isinstance(failed, CancelledByPersonError) and before is not RunState.OFF:
            raise CancelledByPersonError(failed.happened, safe=_left(ws)) from failed
        if isinstance(failed, TimedOutError) and before is RunState.SUSPENDED and ws.record.run is before:
            raise TimedOutError(
                failed.happened,
                safe="It sleeps again, as it did; nothing was lost.",
                next="Look at its screen:  twofold open",
            ) from failed
        raise


def _left(ws: Workspace) -> str:
    """What a cancel leaves behind: a system that was asked to shut down can't be asked to forget it."""
    if ws.machine is None:
        return "All of it is on this disk. It was shut down already."
    return (
        "Nothing was given up. If it was asked to shut down already it may still do so; all of it stays on this disk."
    )


async def _wake(ws: Workspace, op: Operation, operations: Operations) -> None:
    """As an operation of its own, cancelled with this one for as long as it lets itself be."""
    lease, _ = ws.whole()
    if (refused := rights.refusal(lease, ws.record)) is not None:
        raise ConflictError(
            f"{ws.title} is asleep, what is open in it stays on no server, and it may not be woken. {refused['happened']}",
            safe="Nothing was changed.",
            next=f"Give up what is open, and then give it back:  twofold off {ws.name} --yes",
        )
    work: Work = partial(power.start, ws, boot=False)
    waking = operations.submit("start", ws.name, {"boot": False}, work)
    op.progress("waking it", 0, 0)
    try:
        await op.or_cancelled(waking.wait(None))
    except CancelledByPersonError:
        with suppress(ConflictError):  # it has started
            waking.cancel()
        await waking.wait(None)
        raise
    if waking.error is not None:
        raise waking.error


async def _put_back(ws: Workspace, operations: Operations, before: RunState) -> None:
    """As it was, as far as it still runs."""
    if ws.machine is None or ws.record.run is before:
        return
    if before is RunState.SUSPENDED:
        await operations.submit("suspend", ws.name, {}, partial(power.suspend, ws)).wait(None)
    elif before is RunState.PAUSED:
        await operations.submit("pause", ws.name, {}, partial(power.pause, ws)).wait(None)
