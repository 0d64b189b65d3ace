"""A running workspace's network: its process is kept alive beside the machine, and kept at the policy of the lease."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from twofold.engine import network as process
from twofold.model.errors import TwofoldError
from twofold.model.lease import Lease
from twofold.model.reach import NONE, reach

log = logging.getLogger(__name__)
_AGAIN = 1.0  # seconds between two starts of a process that ended by itself


class Outside:
    """What of the world one workspace's machine may reach. `lease` and `runtime` are asked when they are needed, `go` runs a
    coroutine beside."""

    def __init__(
        self,
        name: str,
        lease: Callable[[], Lease | None],
        runtime: Callable[[], Path],
        go: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._name, self._lease, self._runtime, self._go = name, lease, runtime, go
        self._process: process.Network | None = None
        self._applied = ""  # the rule that the process has; empty where that is not known
        self._wanted = False
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    async def open(self) -> Path:
        """Start the process, or take over one that is there; returns the socket for QEMU. Raises as `process.start`."""
        async with self._turn:
            self._wanted = True
            return (await self._open()).link

    async def take_over(self, *, card: bool) -> None:
        """A machine goes on under this agent: so does its network, if it has a `card` or a process that was never noted. Never
        fails: without the process it reaches nothing."""
        if not card:
            found = await asyncio.to_thread(process.attach, self._runtime())
            if found is None:
                return
            found.close()
        try:
            await self.open()
        except TwofoldError as failed:
            log.warning("the network process: %s", failed, extra={"workspace": self._name})
            self._go(self._anew())

    async def follow(self) -> None:
        """Have the process do what the lease's policy says now. Cheap where it does."""
        if self._process is None or self._applied == self._rule():
            return
        async with self._turn:
            if self._process is not None:
                await self._apply(self._process)

    async def close(self) -> None:
        """The machine has ended. Idempotent."""
        async with self._turn:
            self._wanted = False
            former = self._drop()
            if former is not None:
                await asyncio.to_thread(former.stop)

    def let_go(self) -> None:
        """The agent ends; the process goes on."""
        self._wanted = False
        former = self._drop()
        if former is not None:
            former.close()

    def _rule(self) -> str:
        lease = self._lease()
        return lease.policy.network if lease is not None else NONE

    async def _open(self) -> process.Network:
        if self._process is not None:
            return self._process
        runtime, rule = self._runtime(), self._rule()
        found = await asyncio.to_thread(process.attach, runtime)
        if found is None:
            found = await asyncio.to_thread(process.start, runtime, reach(rule))
            self._applied = rule
        self._process = found
        asyncio.get_running_loop().add_reader(found.pidfd, self._ended)
        if not self._applied:
            await self._apply(found)
        return found

    async def _apply(self, to: process.Network) -> None:
        """A process that cannot be told what holds now is ended: the next one begins with it."""
        rule = self._rule()
        try:
            await asyncio.to_thread(to.set_policy, reach(rule))
            self._applied = rule
            log.info("network policy applied", extra={"workspace": self._name})
        except TwofoldError as failed:
            log.warning("the network process: %s", failed, extra={"workspace": self._name})
            self._applied = ""
            to.kill()

    def _drop(self) -> process.Network | None:
        former, self._process, self._applied = self._process, None, ""
        if former is not None and former.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(former.pidfd)
        return former

    def _ended(self) -> None:
        log.error("network process ended", extra={"workspace": self._name})
        former = self._drop()
        if former is not None:
            former.stop()
        self._go(self._anew())

    async def _anew(self) -> None:
        """The machine lives: QEMU connects to the next process by itself."""
        await asyncio.sleep(_AGAIN)
        if self._wanted:
            await self.take_over(card=True)
