"""Whether a text field has the focus in a workspace, for the switcher that may open the person's on-screen keyboard for it.

Told to switchers alone and to no log. However fast a guest speaks, they hear the newest a few times a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from twofold.model.errors import ConflictError, TimedOutError, TwofoldError, UnreachableError

if TYPE_CHECKING:
    from twofold.agent.guest import Guest

log = logging.getLogger(__name__)

FOCUS = "focus"
EVERY = 0.25  # seconds


class Focus:
    """`guest` is asked when it is needed, `tell` reaches the switchers, `go` runs a coroutine beside."""

    def __init__(
        self,
        workspace: str,
        guest: Callable[[], Guest | None],
        tell: Callable[[Mapping[str, Any]], None],
        go: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._workspace, self._guest, self._tell, self._go = workspace, guest, tell, go
        self._asked: Guest | None = None
        self.kind = ""
        self._next = 0.0
        self._later: asyncio.TimerHandle | None = None

    def follow(self) -> None:
        """Ask a guest whose session has come up; forget one's that has gone."""
        guest = self._guest()
        if guest is None or not guest.session_up:
            self._asked = None
            if self.kind:
                self._is("")
        elif self._asked is not guest:
            self._asked = guest
            self._go(self._ask(guest))

    def heard(self, event: Mapping[str, Any]) -> None:
        """A checked event of the guest's. The same kind again is another field."""
        self._is(str(event["kind"]))

    def again(self) -> None:
        """Tell a switcher that has just come."""
        if self.kind:
            self._say()

    def _is(self, kind: str) -> None:
        self.kind = kind
        if self._later is None:
            loop = asyncio.get_running_loop()
            self._later = loop.call_later(max(self._next - loop.time(), 0), self._say)

    def _say(self) -> None:
        if self._later is not None:
            self._later.cancel()
        self._later, self._next = None, asyncio.get_running_loop().time() + EVERY
        self._tell({"event": FOCUS, "workspace": self._workspace, "kind": self.kind})

    async def _ask(self, guest: Guest) -> None:
        try:
            await guest.call("focus", on=True)
        except (ConflictError, TimedOutError, UnreachableError):
            if self._asked is guest:
                self._asked = None  # it is asked at the next look
        except TwofoldError as refused:  # an older image: it does not say
            log.info("the guest's focus: %s", refused.code, extra={"workspace": self._workspace})
