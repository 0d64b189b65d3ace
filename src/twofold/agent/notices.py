"""A workspace's notifications on their way to the personal side: no more of them than the policy of this moment lets through.

The guest is told the level, and is not trusted to keep to it. What it says goes to the switcher alone, and to no log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from twofold.model.errors import ConflictError, TimedOutError, TwofoldError, UnreachableError
from twofold.model.lease import Lease
from twofold.model.policy import NOTIFICATIONS

if TYPE_CHECKING:
    from twofold.agent.guest import Guest

log = logging.getLogger(__name__)

EVENTS = frozenset({"notice", "notice-gone"})
MAX_OPEN = 32
BURST, EVERY = 12, 2.0  # so many at once, then one in so many seconds; what is more is dropped
NONE, APP, FULL = NOTIFICATIONS


class Notices:
    """`lease` and `guest` are asked when they are needed, `tell` reaches the switchers, `go` runs a coroutine beside."""

    def __init__(
        self,
        workspace: str,
        lease: Callable[[], Lease | None],
        guest: Callable[[], Guest | None],
        tell: Callable[[Mapping[str, Any]], None],
        go: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._workspace, self._lease, self._guest, self._tell, self._go = workspace, lease, guest, tell, go
        # A number, and what was told of it; nothing while that is being found out.
        self._open: dict[int, dict[str, Any]] = {}
        self._shown_at = NONE  # the highest level at which something of what is open was told
        self._told: tuple[Guest, str] | None = None  # which guest knows which level
        # As the guest named them first; later it cannot say anything by them.
        self._names: dict[str, str] | None = None
        self._naming = asyncio.Lock()
        self._left, self._at = float(BURST), 0.0

    @property
    def level(self) -> str:
        lease = self._lease()
        return lease.policy.notifications if lease is not None else NONE

    def follow(self) -> None:
        """Do what the policy says now: take back what it does not let through any more, tell the guest. Cheap where it does."""
        guest, level = self._guest(), self.level
        if guest is None or NOTIFICATIONS.index(level) < NOTIFICATIONS.index(self._shown_at):
            self._take_back()
        if guest is None:
            self._names = self._told = None
        elif not guest.session_up:
            self._told = None
            if guest.up:  # its session has ended, and its programs with it
                self._take_back()
        elif self._told != (guest, level):
            self._told = guest, level
            self._go(self._tell_guest(guest, level))

    def heard(self, event: Mapping[str, Any]) -> None:
        """A checked event of the guest's, one of EVENTS."""
        number = int(event["notice"])
        if event["event"] == "notice-gone":
            self._gone(number)
        elif self.level != NONE and self._spend():
            former, word = self._open.pop(number, {}), dict[str, Any]()
            self._open[number] = word
            while len(self._open) > MAX_OPEN:
                self._gone(next(iter(self._open)))
            self._go(self._show(number, word, event, former))

    def again(self) -> None:
        """Tell all that is open to a switcher that has just come."""
        for told in self._open.values():
            if told:
                self._tell(told)

    async def _show(
        self, number: int, word: dict[str, Any], event: Mapping[str, Any], former: Mapping[str, Any]
    ) -> None:
        app = str(event["app"])
        name = await self._name(app) if app else ""
        level = self.level
        if level == NONE or self._open.get(number) is not word:
            return  # taken back, or said anew, while its application's name was asked for
        self._shown_at = max(self._shown_at, level, key=NOTIFICATIONS.index)
        word |= {
            "event": "notice",
            "workspace": self._workspace,
            "notice": number,
            "app": app if name else "",
            "name": name,
        }
        word |= {part: event[part] if level == FULL else "" for part in ("summary", "body")}
        if word != former:  # a guest says all that is open anew when it is told the level
            self._tell(dict(word))

    async def _name(self, app: str) -> str:
        guest = self._guest()
        async with self._naming:
            if self._names is None and guest is not None:
                try:
                    answer = await guest.call("apps")
                except TwofoldError as failed:
                    log.info("no names of applications: %s", failed.code, extra={"workspace": self._workspace})
                    return ""
                self._names = {each["id"]: each["name"] for each in answer["apps"]}
        return (self._names or {}).get(app, "")

    async def _tell_guest(self, guest: Guest, level: str) -> None:
        try:
            await guest.call("notices", level=level)
        except (ConflictError, TimedOutError, UnreachableError):
            if self._told == (guest, level):
                self._told = None  # it is told at the next look
        except TwofoldError as refused:  # an older image: it has none
            log.info("the guest's notifications: %s", refused.code, extra={"workspace": self._workspace})

    def _take_back(self) -> None:
        for number in list(self._open):
            self._gone(number)
        self._shown_at = NONE

    def _gone(self, number: int) -> None:
        if self._open.pop(number, None) is not None:
            self._tell({"event": "notice-gone", "workspace": self._workspace, "notice": number})

    def _spend(self) -> bool:
        now = time.monotonic()
        self._left = min(float(BURST), self._left + (now - self._at) / EVERY)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
