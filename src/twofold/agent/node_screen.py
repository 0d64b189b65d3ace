"""The screens of what runs in a seat, offered to the server over lines that this node opens: nothing listens here.

For each machine one line waits at the server. When somebody is to see it, the server says `begin`; this side then opens the
machine's screen and hands bytes on, through `display.rfb`, which knows what may pass.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from twofold.agent.registry import Registry
from twofold.agent.workspace import Workspace
from twofold.display.rfb import Rules, Session
from twofold.model.errors import BadInputError, TwofoldError
from twofold.model.workspace import RunState
from twofold.trust import https, request

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from twofold.agent.remote import Remote

log = logging.getLogger(__name__)
PROTOCOL, BEGIN, ALIVE = "twofold-screen-1", "begin", "alive"
_LOOK, _AGAIN, _LATEST = 0.25, 0.5, 4.0
_ALIVE_EVERY = 20.0
_STEP = 64 << 10
_MESSAGE = 2 << 20


class Screens:
    """Keeps a line for each workspace of `registry` that runs."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lines: dict[Workspace, asyncio.Task[None]] = {}

    async def run(self) -> None:
        try:
            while True:
                self._tend()
                await asyncio.sleep(_LOOK)
        finally:
            for task in self._lines.values():
                task.cancel()
            if self._lines:
                await asyncio.wait(set(self._lines.values()))

    def _tend(self) -> None:
        shown = {ws for ws in self._registry.all() if ws.machine is not None and ws.record.run is RunState.RUNNING}
        for ws in self._lines.keys() - shown:
            if self._lines[ws].done():
                del self._lines[ws]
            else:
                self._lines[ws].cancel()
        for ws in shown:
            if ws not in self._lines or self._lines[ws].done():
                self._lines[ws] = asyncio.get_running_loop().create_task(self._keep(ws), name=f"screen {ws.name}")

    async def _keep(self, ws: Workspace) -> None:
        """One line after the other, until the machine has ended."""
        from websockets.exceptions import WebSocketException

        rest = _AGAIN
        while True:
            try:
                remote = await asyncio.to_thread(ws.rooms.remote)
                if await _line(ws, remote):
                    rest = _AGAIN
                    continue
            except (OSError, WebSocketException, TimeoutError) as away:
                log.info("no line for a screen: %s", type(away).__name__, extra={"workspace": ws.name})
            except TwofoldError as ended:
                log.info("a screen's line ended: %s", ended, extra={"workspace": ws.name})
            await asyncio.sleep(rest)
            rest = min(2 * rest, _LATEST)


async def _line(ws: Workspace, remote: Remote) -> bool:
    """Lay a line, wait on it, serve it. True if somebody has looked."""
    from websockets.asyncio.client import connect
    from websockets.typing import Subprotocol

    place, path = remote.enrolment.place, f"{https.API}/device/screen/{ws.name}"
    proof = request.headers(remote.identity.signing, remote.enrolment.server_key.id, "GET", path, b"")
    async with connect(
        f"{place.origin.replace('https', 'wss', 1)}{path}",
        ssl=https.context(remote.enrolment.authority),
        additional_headers=proof,
        subprotocols=[Subprotocol(PROTOCOL)],
        compression=None,
        max_size=_MESSAGE,
        max_queue=4,
        open_timeout=15,
        close_timeout=2,
        user_agent_header=None,
        proxy=None,
    ) as line:
        alive = asyncio.get_running_loop().create_task(_alive(line))
        try:
            async for message in line:
                if message == BEGIN:
                    await _serve(ws, line)
                    return True
            return False
        finally:
            alive.cancel()


async def _alive(line: ClientConnection) -> None:
    from websockets.exceptions import ConnectionClosed

    with suppress(ConnectionClosed):
        while True:
            await line.send(ALIVE)
            await asyncio.sleep(_ALIVE_EVERY)


async def _serve(ws: Workspace, line: ClientConnection) -> None:
    """One viewer, from the first byte of the screen to the last."""
    machine = ws.machine
    if machine is None:
        return
    session = Session(Rules(lambda: _may(ws, "clipboard_to_work"), lambda: _may(ws, "clipboard_from_work")))
    reader, writer = await asyncio.open_connection(sock=await machine.screen(), limit=_STEP)
    loop = asyncio.get_running_loop()
    tasks = {loop.create_task(_out(session, reader, line)), loop.create_task(_in(session, line, writer))}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        writer.close()


async def _out(session: Session, reader: asyncio.StreamReader, line: ClientConnection) -> None:
    """What the machine shows; the next part is read when the former is sent. Raises: BadInputError."""
    while untrusted := await reader.read(_STEP):
        if shown := session.screen(untrusted):
            await line.send(shown)


async def _in(session: Session, line: ClientConnection, writer: asyncio.StreamWriter) -> None:
    """What the person does. Raises: BadInputError."""
    async for untrusted in line:
        if isinstance(untrusted, str):
            raise BadInputError("Words in place of a screen's bytes.")
        writer.write(session.viewer(untrusted))
        await writer.drain()


def _may(ws: Workspace, rule: str) -> bool:
    """What the policy says now."""
    return ws.lease is not None and bool(getattr(ws.lease.policy, rule))
