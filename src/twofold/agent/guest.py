"""The guest's agent as one workspace sees it: connected in the background, every call with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twofold.model.errors import ConflictError, TimedOutError, TwofoldError

if TYPE_CHECKING:
    from twofold.agent.channel import GuestChannel

log = logging.getLogger(__name__)

# Seconds each verb gets: the guest's own work under load decides, not the channel's.
DEADLINES = {"shutdown": 10.0, "freeze": 15.0, "display": 15.0, "launch": 15.0, "apps": 20.0, "icon": 15.0}
DEADLINE = 10.0
_HELLO = 2.0
_AGAIN = 0.2
_CHECK = 15.0
_PATIENCE = 5.0  # after a start or resume, what is asked waits so long for the guest's first answer

Heard = Callable[[Mapping[str, Any]], None]


class Guest:
    """`up`: it answers. `session_up`: its graphical session is there. `heard` gets its events, and `{"event": "state"}`
    when one of the two has changed. `wake` is awaited before it is asked anything; while `going` is not set its
    processors stand still, and nothing is expected of it."""

    def __init__(self, path: Path, heard: Heard, wake: Callable[[], Awaitable[None]] | None = None) -> None:
        self._path, self._heard, self._wake = path, heard, wake
        self._channel: GuestChannel | None = None
        self._task: asyncio.Task[None] | None = None
        self._time_due = True
        self._patient_until = 0.0
        self._answers = asyncio.Event()
        self.going = asyncio.Event()
        self.going.set()
        self.asked = 0  # calls under way
        self.up = self.session_up = False
        self.home: dict[str, int] | None = (
            None  # bytes of the user's disk and of the file system on it, as the guest says
        )

    def start(self) -> None:
        self._patient_until = time.monotonic() + _PATIENCE
        self._task = asyncio.get_running_loop().create_task(self._keep())

    def set_time_when_up(self) -> None:
        """After a resume or the host system's sleep the guest's clock stands in the past; set it as soon as it answers."""
        self._time_due = True
        self._patient_until = time.monotonic() + _PATIENCE
        if self.up and self._channel is not None:
            asyncio.get_running_loop().create_task(self._set_time(self._channel))

    async def call(self, verb: str, **args: Any) -> dict[str, Any]:
        """Ask the guest; just after a start or resume, wait a moment for it.

        Raises:
            ConflictError: its agent is not there yet. TimedOutError: it is there and does not answer.
        """
        self.asked += 1
        try:
            if self._wake is not None:
                await self._wake()
            return await self._call(verb, args)
        finally:
            self.asked -= 1

    async def _call(self, verb: str, args: Mapping[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(self._patient_until - time.monotonic(), 0)):
                await self._answers.wait()
        channel = self._channel
        if channel is None or not self.up:
            raise ConflictError(
                "The system inside does not answer yet.",
                safe="It is running.",
                next="Wait until its desktop is there; if that never happens, look at its screen.",
            )
        try:
            return await channel.call(verb, timeout=DEADLINES.get(verb, DEADLINE), **args)
        except TimedOutError as late:
            self._is(up=False, session_up=self.session_up)
            raise TimedOutError(
                f"The system inside did not answer '{verb}' in time.",
                safe="It is running; nothing was lost.",
                next="Look at its screen. If it is stuck: twofold off, then twofold start.",
            ) from late

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=5)
        await self._drop()

    async def _keep(self) -> None:
        """Connect, ask hello until it answers, then look now and then whether it still does."""
        from twofold.agent.channel import MAX_MALFORMED, GuestChannel

        while True:
            await self.going.wait()
            try:
                if self._channel is None:
                    self._channel = await GuestChannel.connect(self._path, self._event)
                hello = await self._channel.call("hello", timeout=_HELLO)
                self.home = hello.get("home")
                self._is(up=True, session_up=bool(hello["session"]))
                if self._time_due:
                    await self._set_time(self._channel)
            except TimedOutError:
                if self.going.is_set():  # else it was asked in its last moment
                    self._is(up=False, session_up=False)
            except TwofoldError as gone:
                log.info("guest channel: %s", gone.code)
                cut_off = self._channel is not None and self._channel.malformed >= MAX_MALFORMED
                await self._drop()
                if cut_off:
                    return  # it talks nonsense: until the next start this guest has no agent
            await asyncio.sleep(_CHECK if self.up and self.session_up else _AGAIN)

    async def _set_time(self, channel: GuestChannel) -> None:
        try:
            await channel.call("time", timeout=DEADLINE, unix_ms=time.time_ns() // 1_000_000)
            self._time_due = False
        except TwofoldError as failed:
            log.info("the guest's time was not set: %s", failed.code)

    def _event(self, event: Mapping[str, Any]) -> None:
        if event.get("event") == "session":
            self._is(up=self.up, session_up=bool(event["up"]))
        self._heard(event)

    def _is(self, *, up: bool, session_up: bool) -> None:
        if (up, session_up) != (self.up, self.session_up):
            self.up, self.session_up = up, session_up
            (self._answers.set if up else self._answers.clear)()
            self._heard({"event": "state"})

    async def _drop(self) -> None:
        channel, self._channel = self._channel, None
        self._is(up=False, session_up=False)
        if channel is not None:
            await channel.close()
