"""The agent as a process: one for each user and home, taking over what a former one left, leaving VMs running at its end."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from twofold.agent import power
from twofold.agent.api import Listener
from twofold.agent.contact import Contact
from twofold.agent.eyes import Eyes
from twofold.agent.focus import FOCUS
from twofold.agent.journal import Journal
from twofold.agent.notices import EVENTS as NOTICES
from twofold.agent.operations import Operation, Operations
from twofold.agent.registry import Registry
from twofold.agent.rooms import Rooms
from twofold.agent.screen import Screen
from twofold.agent.supervision import Supervision
from twofold.agent.takeover import take_over
from twofold.agent.verbs import verbs
from twofold.agent.workspace import Workspace
from twofold.model.errors import ConflictError, RefusedError
from twofold.model.workspace import RunState
from twofold.platform.dirs import Dirs
from twofold.platform.memory import give_back

if TYPE_CHECKING:
    from twofold.agent.node import Node
    from twofold.agent.remote import Command

log = logging.getLogger(__name__)
_TOLD = ("running", "paused", "suspended", "off", "broken")
_NODE_RETRY = 3.0
_NEWS = ("checkout", "disk_import", "backup")  # their end is news for the server: it shows where a workspace is
_SETTLE = 60.0  # seconds that operations under way get when the agent ends


class Agent:
    def __init__(self, dirs: Dirs, rooms: Rooms | None = None) -> None:
        self.dirs, self.rooms = dirs, rooms or Rooms(dirs)
        self.eyes = Eyes(lambda: self.switcher_open, self._seen_otherwise)
        self.registry = Registry(dirs, self.rooms, self._tell, self.eyes.sight)
        self.operations = Operations(self._operation_changed, Journal(dirs.state))
        self._listener: Listener | None = None
        self._contact = Contact(self.registry, self.operations, self._beat_soon, self._seat)
        self._supervision = Supervision(self.registry.all, self._suspend, self._contact, self._stopped, self.erase)
        self.screen = Screen(self._suspend, self._start)
        self._over = asyncio.Event()
        self._extra: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._node: Node | None = None
        self._runs: dict[str, str] = {}

    def extra(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Something that runs as long as this agent does."""
        self._extra.append(work)

    def _tell(self, event: Mapping[str, Any]) -> None:
        if event.get("event") == "workspace":
            self._supervision.wake()
            self._seen_at_server(event)
        if self._listener is not None:
            self._listener.tell(event, switchers_only=event.get("event") in NOTICES | {FOCUS})

    def _seen_otherwise(self) -> None:
        for ws in self.registry.all():
            ws.doze.follow()

    def tell_switchers(self, event: Mapping[str, Any]) -> bool:
        return self._listener is not None and self._listener.tell(event, switchers_only=True) > 0

    def tell_notices(self) -> None:
        """A switcher has come that has heard of none."""
        for ws in self.registry.all():
            ws.notices.again()
            ws.focus.again()

    @property
    def switcher_open(self) -> bool:
        return self._listener is not None and self._listener.switchers > 0

    def _operation_changed(self, operation: Operation) -> None:
        if operation.over:
            log.info(
                "operation %s", operation.state,
                extra={"verb": operation.verb, "workspace": operation.workspace,
                       "error": operation.error.code if operation.error else None},
            )  # fmt: skip
            # Unsealed images and indexes are large and gone; the C library gives their room back only when told to.
            asyncio.get_running_loop().call_later(0.2, give_back)
            if operation.verb in _NEWS:
                self._beat_soon()
        self._tell({"event": "operation"} | operation.to_wire())

    def _seen_at_server(self, event: Mapping[str, Any]) -> None:
        """In a seat, whose person looks through the server: it hears at once how a workspace is."""
        name, run = str(event["workspace"]), str(event["run"])
        if self._extra and self._runs.get(name) != run:
            self._runs[name] = run
            if run in _TOLD:
                self._beat_soon()

    async def run(self, *, signals: bool = True) -> None:
        """Until `quit`, SIGTERM or SIGINT. Machines that run go on running.

        Raises:
            ConflictError: another agent serves this home.
        """
        lock = claim(self.dirs)
        try:
            loop = asyncio.get_running_loop()
            for stop in (signal.SIGTERM, signal.SIGINT) if signals else ():
                loop.add_signal_handler(stop, self._over.set)
            await asyncio.to_thread(self.registry.load)
            for ws in self.registry.all():
                await take_over(ws)
                if not self.registry.store.exists(ws.name):
                    self.registry.drop(ws)
            self._listener = Listener(self.dirs.agent_socket, verbs(self))
            self._contact.begin()
            log.info("agent ready", extra={"workspaces": len(self.registry.all())})
            if await asyncio.to_thread(self.rooms.is_node):
                self._seats().begin()
            work = [self._listener.serve(), self._supervision.run(), self.registry.supply.run()]
            work.append(self.registry.rest.run())
            work += [each() for each in self._extra]
            if self._extra:
                self._supervision.retry = _NODE_RETRY
                loop.call_later(0.2, self._beat_soon)  # somebody waits for what it was made for
            tasks = {loop.create_task(each) for each in work}
            over = loop.create_task(self._over.wait())
            try:
                done, _ = await asyncio.wait({*tasks, over}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in {*tasks, over}:
                    task.cancel()
                await asyncio.wait({*tasks, over}, timeout=5)
            for task in done - {over}:
                task.result()
        finally:
            await self._end()
            os.close(lock)

    async def _end(self) -> None:
        if self._node is not None:
            await self._node.close()
        await self.operations.settle(_SETTLE)
        if self._listener is not None:
            await self._listener.close()
        for ws in self.registry.all():
            await ws.let_go()
        log.info("agent ended")

    async def wind_down(self, *, suspend: bool) -> None:
        """End this agent; with `suspend` first suspend what runs. Raises the first suspend's error, and then goes on serving."""
        if suspend:
            still = (RunState.OFF, RunState.SUSPENDED, RunState.BROKEN)
            started = [(ws, self._suspend(ws)) for ws in self.registry.all() if ws.run not in still]
            for ws, operation in started:
                await operation.wait(None)
                if operation.error is not None and ws.machine is not None:
                    raise operation.error
        asyncio.get_running_loop().call_later(0.05, self._over.set)  # after the answer is out

    def _seats(self) -> Node:
        from twofold.agent.node import Node

        if self._node is None:
            self._node = Node(self)
            self._supervision.retry = _NODE_RETRY
        return self._node

    async def _seat(self, command: Command) -> str:
        if not await asyncio.to_thread(self.rooms.is_node):
            raise RefusedError("This machine is no node.", safe="Nothing was changed.")
        return await self._seats().seat(command)

    def end(self) -> None:
        """As SIGTERM does."""
        self._over.set()

    async def _stopped(self, ws: Workspace) -> bool:
        return await self.registry.rest.stopped(ws) or await self.registry.supply.stopped(ws)

    def _beat_soon(self) -> None:
        self._supervision.beat_soon()

    async def erase(self, ws: Workspace) -> None:
        from twofold.agent.orders import wipe

        await wipe(self.registry, self.operations, ws)

    def _suspend(self, ws: Workspace) -> Operation:
        return self.operations.submit("suspend", ws.name, {}, lambda op: power.suspend(ws, op))

    def _start(self, ws: Workspace) -> Operation:
        return self.operations.submit("start", ws.name, {"boot": False}, lambda op: power.start(ws, op, boot=False))


def claim(dirs: Dirs) -> int:
    """Hold the lock that makes this the only agent of this home; the kernel lets it go with the process (flock(2)).

    Raises:
        ConflictError: another one holds it.
    """
    lock = os.open(dirs.state / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as held:
        os.close(lock)
        raise ConflictError(
            "An agent runs already for this user and home.", safe="It goes on.", next="Ask it:  twofold agent status"
        ) from held
    return lock
