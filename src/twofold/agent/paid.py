"""Networks that are paid for by volume: what nobody waits for holds back there, unless the company's rule says otherwise."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from twofold.platform.network import metered

if TYPE_CHECKING:
    from twofold.agent.workspace import Workspace

STEP = "waiting: this network is paid for by volume"
_TRUE_FOR = 15.0  # seconds that an answer is good for: to ask starts a program


class Paid:
    """One for the machine."""

    def __init__(self) -> None:
        self._at, self._metered = -_TRUE_FOR, False
        self._one = asyncio.Lock()

    async def holds(self, ws: Workspace) -> bool:
        """Whether what this workspace's machine can start without is to wait."""
        if ws.lease is not None and ws.lease.policy.replicate_metered:
            return False
        async with self._one:
            if time.monotonic() - self._at >= _TRUE_FOR:
                self._metered = await asyncio.to_thread(metered)
                self._at = time.monotonic()
        return self._metered
