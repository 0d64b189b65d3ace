"""The heartbeat: this device says how its workspaces are, and hears what its leases, rules and administrators want."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from twofold.agent import rights
from twofold.agent.operations import Operations
from twofold.agent.outcomes import outcomes
from twofold.agent.registry import Registry
from twofold.agent.store import LEASE
from twofold.agent.workspace import Workspace
from twofold.model.canonical import canonical
from twofold.model.errors import TimedOutError, TwofoldError, UnreachableError
from twofold.model.workspace import Custody

log = logging.getLogger(__name__)
_VERBS = {"backup": "replicate", "checkin": "check-in"}


class Contact:
    def __init__(self, registry: Registry, operations: Operations) -> None:
        self._registry, self._operations = registry, operations
        self._told_starts: set[str] = set()

    async def beat(self) -> int:
        """Fetch this device's leases as they are now; one that is missing was taken back. Returns the time of the answer."""
        # Those that were here before we asked: a check-out that ends meanwhile is not in this answer.
        here = [
            ws
            for ws in self._registry.all()
            if ws.wrong is None and ws.record.custody is Custody.CHECKED_OUT and ws.lease
        ]
        told = [self._told(ws) for ws in here]
        beat = await asyncio.to_thread(lambda: self._registry.rooms.remote().heartbeat(told))
        held = {each.lease.workspace: each for each in beat.leases}
        for ws in here:
            if ws.lease is None or self._registry.find(ws.name) is not ws:
                continue
            fresh = held.get(ws.name)
            if fresh is None or fresh.lease.token < ws.lease.token:
                if not ws.record.taken:
                    ws.note(taken=True)
                    ws.fail(rights.taken(ws.lease))
                continue
            if fresh.lease != ws.lease:
                await asyncio.to_thread(ws.store.write, ws.name, LEASE, canonical(fresh.document))
                ws.lease = fresh.lease
            if ws.record.taken:
                ws.note(taken=False, error=None)
        await self._tell_starts()
        return int(time.time())

    async def _tell_starts(self) -> None:
        remote = await asyncio.to_thread(self._registry.rooms.remote)
        for outcome in list(outcomes(self._operations.all(), self._registry.find, self._told_starts, time.time())):
            try:
                await asyncio.to_thread(remote.started, outcome.image, outcome.version, good=outcome.good)
            except (UnreachableError, TimedOutError):
                return  # with the next heartbeat
            except TwofoldError as no:
                log.info("the server did not take how a start went: %s", no.code)
            self._told_starts.add(outcome.operation)

    def _told(self, ws: Workspace) -> dict[str, Any]:
        """docs/protocol.md, *Heartbeat*: how one workspace is. The signed lease goes along, so that a server that was restored
        from a backup takes this device back as its holder."""
        assert ws.lease is not None
        moving = next((op for op in self._operations.under_way(ws.name, "transfer") if op.verb in _VERBS), None)
        return {
            "workspace": ws.name,
            "token": ws.lease.token,
            "run": ws.run,
            "transfer": None
            if moving is None
            else {
                "verb": _VERBS[moving.verb],
                "state": "running" if moving.state == "running" else "waiting",
                "done": moving.done,
                "total": moving.total,
            },
        }
