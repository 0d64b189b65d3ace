"""The loop that looks after everything by the clock."""

from __future__ import annotations

import asyncio

from twofold.agent.supervision import IDLE, Supervision
from twofold.agent.workspace import Workspace


class _Asking:
    """Contact that wants another heartbeat while it is still at one, as a receipt does that is ready at once."""

    wanted = True

    def __init__(self) -> None:
        self.beats = 0
        self.twice = asyncio.Event()
        self.supervision: Supervision | None = None

    async def beat(self) -> int:
        self.beats += 1
        if self.beats == 1 and self.supervision is not None:
            self.supervision.beat_soon()
        if self.beats == 2:
            self.twice.set()
        return 1


def test_what_is_asked_for_during_a_heartbeat_is_not_forgotten() -> None:
    async def none(_: Workspace) -> bool:
        return False

    async def erase(_: Workspace) -> None: ...

    async def go() -> int:
        contact = _Asking()
        contact.supervision = Supervision(list, lambda _: None, contact, none, erase)
        loop = asyncio.create_task(contact.supervision.run())
        contact.supervision.beat_soon()
        async with asyncio.timeout(IDLE / 2):
            await contact.twice.wait()
        loop.cancel()
        return contact.beats

    assert asyncio.run(go()) == 2
