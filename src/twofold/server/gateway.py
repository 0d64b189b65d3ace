"""The gateway: a node's line and a browser's, joined. Bytes pass unread; what they may say is checked at the node
(`display.rfb`).

A node keeps one line waiting for each workspace that runs there. A browser that shows a ticket takes it; the node then opens
the screen, and lays the next line. Both ends meet in this process, so a server has one worker; with more of them a browser's
line would go on to the worker that has the node's, over a socket of theirs: `meet` is the place for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from anyio.to_thread import run_sync
from starlette.types import Receive, Send

PROTOCOL = "twofold-screen-1"
BEGIN, ALIVE = "begin", "alive"  # text messages; bytes are the screen's
TAKEN, GONE, ENDED, IDLE, BUSY, TOO_LONG = 4001, 4002, 4003, 4005, 4006, 1009  # close codes, read by static/screen.js
_MESSAGE = 2 << 20  # bytes of one message
_AHEAD = 4  # messages that may wait here, each way; then nothing more is read from where they come
_BROWSER_SECONDS, _NODE_SECONDS = 150.0, 60.0  # without a word, also "alive"; a browser in a pocket has a slow clock
_MEET_SECONDS = 10.0
_LOOK_SECONDS = 5.0
_VIEWERS = 8  # of one user


class ClosedError(Exception):
    """The line is over; `code` says why, where it was we who ended it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"closed ({code})")
        self.code = code


class Line:
    """One WebSocket, as ASGI has it. One task reads ahead a little, so that nothing that was read is ever lost to a timeout."""

    def __init__(self, receive: Receive, send: Send, seconds: float, silence: int) -> None:
        """`silence` is the code for one from which nothing comes for `seconds`."""
        self._receive, self._send, self._seconds, self._silence = receive, send, seconds, silence
        self._queue: asyncio.Queue[bytes | str | None] = asyncio.Queue(_AHEAD)
        self._reader = asyncio.get_running_loop().create_task(self._read())
        self._open = True

    async def _read(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                await self._queue.put(None)
                return
            if message["type"] == "websocket.receive":
                untrusted = message.get("bytes")
                await self._queue.put(untrusted if untrusted is not None else message.get("text") or "")

    async def next(self) -> bytes | str:
        """
        Raises:
            ClosedError: it is over, silent for too long, or a message is too large.
        """
        try:
            async with asyncio.timeout(self._seconds):
                untrusted = await self._queue.get()
        except TimeoutError:
            raise ClosedError(self._silence) from None
        if untrusted is None:
            self._open = False
            raise ClosedError(GONE)
        if len(untrusted) > _MESSAGE:
            raise ClosedError(TOO_LONG)
        return untrusted

    async def pixels(self) -> bytes:
        """The next bytes; words that it is alive are left out. Raises: ClosedError."""
        while isinstance(untrusted := await self.next(), str):
            pass
        return untrusted

    async def say(self, data: bytes | str) -> None:
        """Raises: ClosedError."""
        if not self._open:
            raise ClosedError(GONE)
        kind = "text" if isinstance(data, str) else "bytes"
        try:
            await self._send({"type": "websocket.send", kind: data})
        except (RuntimeError, OSError) as gone:
            self._open = False
            raise ClosedError(GONE) from gone

    async def close(self, code: int) -> None:
        """Idempotent."""
        self._reader.cancel()
        if self._open:
            self._open = False
            with suppress(RuntimeError, OSError):
                await self._send({"type": "websocket.close", "code": code, "reason": ""})


@dataclass(eq=False)
class Place:
    """A node's line. `holder` is the device that laid it."""

    line: Line
    holder: str
    taken: asyncio.Event = field(default_factory=asyncio.Event)
    free: asyncio.Event = field(default_factory=asyncio.Event)  # nobody but who took it reads from it
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class Viewer:
    user_id: int
    stop: asyncio.Future[int]  # set to a close code by whoever wants it to end


class Gateway:
    """All lines of this process, by grant."""

    def __init__(self) -> None:
        self._waiting: dict[int, Place] = {}
        self._shown: dict[int, Place] = {}
        self._viewers: dict[int, Viewer] = {}
        self._news = asyncio.Condition()

    def has(self, grant: int) -> bool:
        """Whether its screen can be seen, or is being seen. Any thread may ask."""
        return grant in self._waiting or grant in self._shown

    async def offer(self, grant: int, holder: str, receive: Receive, send: Send) -> None:
        """A node's line, until it ends."""
        await send({"type": "websocket.accept", "subprotocol": PROTOCOL})
        place = Place(Line(receive, send, _NODE_SECONDS, GONE), holder)
        former = self._waiting.get(grant)
        self._waiting[grant] = place
        if former is not None:
            former.over.set()
        async with self._news:
            self._news.notify_all()
        try:
            await self._wait(place)
        finally:
            if self._waiting.get(grant) is place:
                del self._waiting[grant]
            await place.line.close(GONE)

    async def _wait(self, place: Place) -> None:
        """While nobody looks the node says that it is alive; from then on the browser's side reads."""
        loop = asyncio.get_running_loop()
        ends = {loop.create_task(place.taken.wait()), loop.create_task(place.over.wait())}
        word = loop.create_task(place.line.next())
        try:
            while True:
                await asyncio.wait({word, *ends}, return_when=asyncio.FIRST_COMPLETED)
                if any(end.done() for end in ends):
                    break
                word.result()
                word = loop.create_task(place.line.next())
        except ClosedError:
            return
        finally:
            for task in (word, *ends):
                task.cancel()
            await asyncio.wait({word, *ends})
            place.free.set()
        await place.over.wait()

    async def meet(self, grant: int) -> Place | None:
        """The node's line of a workspace, for one viewer alone; None where none comes."""
        try:
            async with asyncio.timeout(_MEET_SECONDS), self._news:
                await self._news.wait_for(lambda: grant in self._waiting)
                place = self._waiting.pop(grant)
                place.taken.set()
                return place
        except TimeoutError:
            return None

    async def view(self, grant: int, user_id: int, receive: Receive, send: Send, still: Callable[[str], bool]) -> None:
        """A browser's line, until it ends. It takes the place of a former one of this workspace. `still` says whether this user
        may see what that machine shows; it is asked again and again."""
        await send({"type": "websocket.accept", "subprotocol": PROTOCOL})
        line, code = Line(receive, send, _BROWSER_SECONDS, IDLE), BUSY
        viewer, former = Viewer(user_id, asyncio.get_running_loop().create_future()), self._viewers.get(grant)
        try:
            if former is None and sum(each.user_id == user_id for each in self._viewers.values()) >= _VIEWERS:
                return
            self._viewers[grant] = viewer
            if former is not None and not former.stop.done():
                former.stop.set_result(TAKEN)
            code = await self._show(grant, viewer, line, still)
        finally:
            if self._viewers.get(grant) is viewer:
                del self._viewers[grant]
            await line.close(code)

    async def _show(self, grant: int, viewer: Viewer, line: Line, still: Callable[[str], bool]) -> int:
        """Join the two lines; returns why that ended, as a close code for the browser."""
        place = await self.meet(grant)
        if place is None:
            return GONE
        self._shown[grant] = place
        try:
            if not await run_sync(still, place.holder):
                return ENDED
            await place.free.wait()
            await place.line.say(BEGIN)
            work = [_pump(line, place.line), _pump(place.line, line), _until_not(still, place.holder)]
            tasks = {asyncio.get_running_loop().create_task(each) for each in work}
            done, left = await asyncio.wait({*tasks, viewer.stop}, return_when=asyncio.FIRST_COMPLETED)
            for task in left - {viewer.stop}:
                task.cancel()
            await asyncio.wait(tasks)
            return next(each.result() for each in done)
        except ClosedError:
            return GONE
        finally:
            if self._shown.get(grant) is place:
                del self._shown[grant]
            place.over.set()


async def _pump(source: Line, to: Line) -> int:
    """One direction: the next message is read when the former is written."""
    try:
        while True:
            await to.say(await source.pixels())
    except ClosedError as over:
        return over.code


async def _until_not(still: Callable[[str], bool], holder: str) -> int:
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        if not await run_sync(still, holder):
            return ENDED
