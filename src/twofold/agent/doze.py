"""A workspace that nobody looks at and in which nothing happens stands still: its guest says so, its policy allows it.

Only its own processors stop, and when they run again is ours to say: a guest that lies gains nothing. They run again for the
person, for what is asked of the guest, for what it said is due, and now and then for a short while in which mail can come.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from twofold.agent.eyes import Sight
from twofold.model.errors import ConflictError, TimedOutError, TwofoldError, UnreachableError
from twofold.model.policy import DARK, UNSEEN
from twofold.model.workspace import DOZE_MOVES, Doze, RunState, move

if TYPE_CHECKING:
    from twofold.agent.guest import Guest
    from twofold.agent.workspace import Workspace

log = logging.getLogger(__name__)

EVENTS = frozenset({"idle", "busy"})
QUIET = 20  # seconds in which nothing must have happened in the guest
LATEST = 900.0  # seconds after which it runs for a GLANCE whatever the guest has said
GLANCE = 15.0
LINGER = 10.0  # it goes on for so long after it was woken, or something was asked of it
SOON = 30  # what is due within so many seconds is waited for
_ALLOWS = {DARK: {Sight.DARK}, UNSEEN: {Sight.DARK, Sight.UNSEEN}}


class Dozing:
    """`sight` says how a workspace is seen, `go` runs a coroutine beside. States change by DOZE_MOVES alone."""

    def __init__(
        self, ws: Workspace, sight: Callable[[str], Sight], go: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._ws, self._sight, self._go = ws, sight, go
        self.state = Doze.AWAKE
        self._told: tuple[Guest, bool] | None = None  # which guest knows whether we want to hear
        self._idle = False  # by the guest's last word
        self._due = math.inf  # when it has something to do by itself, as it said; monotonic
        self._until = 0.0  # it runs at least until then
        self._turning = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None

    def follow(self) -> None:
        """Do what holds now. Cheap where nothing has changed."""
        guest, wanted = self._ws.guest, self._wanted
        if guest is None or not (guest.up and guest.session_up):
            self._idle, self._told = False, None
        elif self._told != (guest, wanted) and (wanted or self._told) and self.state is not Doze.DOZING:
            self._told, self._idle = (guest, wanted), False
            self._go(self._tell_guest(guest, wanted))
        now = time.monotonic()
        if self.state is not Doze.AWAKE and not (wanted and self._idle):
            self._go(self.wake())
        elif self.state is not Doze.DOZING and self._may:
            if now >= self._until:
                self._go(self._stand())
            else:
                self._again(self._until)

    def heard(self, event: Mapping[str, Any]) -> None:
        """A checked event of the guest's, one of EVENTS."""
        self._idle = event["event"] == "idle"
        due = int(event.get("due", 0))
        self._due = time.monotonic() + due if due else math.inf
        self.follow()

    async def wake(self, linger: float = LINGER) -> None:
        """Let it run, at least for a while. Quick where it does."""
        self._until = max(self._until, time.monotonic() + linger)
        if self.state is Doze.AWAKE and not self._turning.locked():
            return
        async with self._turning:
            if self.state is Doze.DOZING:
                await self._run(Doze.AWAKE)
            elif self.state is Doze.GLANCING:
                self._become(Doze.AWAKE)
        self.follow()

    def over(self) -> None:
        """The machine's own state has changed: what its processors do is no longer ours."""
        if self.state is not Doze.AWAKE:
            self._become(Doze.AWAKE)
            if (guest := self._ws.guest) is not None:
                guest.going.set()

    # -- the turns ------------------------------------------------------------------------------------------------------

    @property
    def _wanted(self) -> bool:
        """Whether it may stand still by what is seen, and by its company."""
        lease = self._ws.lease
        return self._runs and lease is not None and self._sight(self._ws.name) in _ALLOWS.get(lease.policy.doze, ())

    @property
    def _runs(self) -> bool:
        """By its own state: nobody but us has stopped it."""
        return self._ws.machine is not None and self._ws.record.run is RunState.RUNNING

    @property
    def _may(self) -> bool:
        return self._wanted and self._idle and time.monotonic() + SOON <= self._due

    async def _stand(self) -> None:
        async with self._turning:
            guest, machine = self._ws.guest, self._ws.machine
            if guest is None or machine is None or self.state is Doze.DOZING:
                return
            if not self._may or time.monotonic() < self._until:
                return
            if guest.asked:  # an answer is on its way
                self._again(time.monotonic() + 1)
                return
            guest.going.clear()
            try:
                await machine.pause()
            except TwofoldError as failed:
                guest.going.set()
                log.warning("it does not stand still: %s", failed.code, extra={"workspace": self._ws.name})
                return
            if not self._runs:  # somebody has taken it in hand meanwhile
                guest.going.set()
                return
            self._become(Doze.DOZING)
            self._at(min(self._due, time.monotonic() + LATEST), self._glance)
        self.follow()  # what was said while it stopped

    async def _glance(self) -> None:
        async with self._turning:
            if self.state is not Doze.DOZING:
                return
            self._due = math.inf
            self._until = time.monotonic() + GLANCE
            await self._run(Doze.GLANCING)
        self.follow()

    async def _run(self, then: Doze) -> None:
        if (machine := self._ws.machine) is not None and self._runs:
            await machine.resume()
        self._become(then)
        if (guest := self._ws.guest) is not None:
            guest.going.set()
            guest.set_time_when_up()

    def _become(self, then: Doze) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.state = move(DOZE_MOVES, self.state, then, self._ws.name)
        log.info("it is %s", then, extra={"workspace": self._ws.name})
        self._ws.tell()

    def _again(self, at: float) -> None:
        async def look() -> None:
            self.follow()

        if self._timer is None or self._timer.cancelled():
            self._at(at, look)

    def _at(self, at: float, do: Callable[[], Coroutine[Any, Any, None]]) -> None:
        def now() -> None:
            self._timer = None
            self._go(do())

        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), now)

    async def _tell_guest(self, guest: Guest, wanted: bool) -> None:
        try:
            await guest.call("doze", on=wanted, quiet=QUIET)
        except (ConflictError, TimedOutError, UnreachableError):
            if self._told == (guest, wanted):
                self._told = None  # it is told at the next look
        except TwofoldError as refused:  # an older image
            log.info("the guest does not doze: %s", refused.code, extra={"workspace": self._ws.name})
