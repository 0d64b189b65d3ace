"""Taking a lease that a node may have: the node shuts the workspace down, backs it up, gives it back; this device waits."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from twofold.agent.operations import Operation
from twofold.agent.remote import Remote, SignedLease
from twofold.model.errors import TimedOutError, UnreachableError
from twofold.platform.clock import boottime

_LOOK, _AWAY = 0.5, 60.0
PATIENCE = 900.0  # seconds; a large back up from a node takes its time, and cancelling is always possible


async def take(remote: Remote, name: str, op: Operation) -> tuple[SignedLease, float]:
    """The lease, once nobody else has it, and when it was asked for (`platform.clock.boottime`).

    Raises:
        ConflictError: another device of a person has it, or the node could not give it back.
    """
    number, heard, end = 0, 0.0, time.monotonic() + PATIENCE
    while True:
        sent = boottime()
        try:
            found = await asyncio.to_thread(partial(remote.wanted, name, number))
        except (UnreachableError, TimedOutError):
            if not number or time.monotonic() > heard + _AWAY:
                raise  # else the node goes on with it, and the server comes back
            op.check()
            await asyncio.sleep(_LOOK)
            continue
        heard = time.monotonic()
        if isinstance(found, SignedLease):
            return found, sent
        if time.monotonic() > end:
            raise TimedOutError(
                f"{found.place} has not given {name} back within {PATIENCE / 60:g} minutes.",
                safe="Nothing is lost; it is still being backed up there, or waits for that.",
                next="Try again; it goes on where it is.",
            )
        number = found.request
        op.progress(f"waiting for {found.place}: it is shut down and backed up there", 0, 0)
        op.check()
        await asyncio.sleep(_LOOK)
