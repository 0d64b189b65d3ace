"""The session's notification service (Desktop Notifications Specification 1.2), for as long as the host wants to hear of any.

What programs post is told to the host, no more of it than the level lets through; the host and the personal side show it. Where
the level is none this service is not there at all, so that a program shows what it has to say by itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from twofold.guest import bus, wire
from twofold.guest.service import Service
from twofold.guest.wire import Refusal

NONE, APP, FULL = "none", "app", "full"
NAME, PATH = "org.freedesktop.Notifications", "/org/freedesktop/Notifications"
MAX_OPEN = 32
MAX_SUMMARY, MAX_BODY = 120, 400  # characters
BURST, EVERY = 10, 1.0  # so many at once, then one in so many seconds
SAID_ANEW = 8  # of what is open, to a host that asks
TAPPED, WITHDRAWN, LOST = 2, 3, 4  # why a notification was closed: by its person, its program, or for another reason
_TAGS = re.compile(r"</?(?:b|i|u|a|img|br|p|span|tt|big|small|sub|sup|s)(?:\s[^<>]*)?/?>", re.IGNORECASE)
_MARKS = {
    "&lt;": "<",
    "&gt;": ">",
    "&quot;": '"',
    "&apos;": "'",
    "&#39;": "'",
    "&amp;": "&",
}  # the ampersand comes last


def plain(text: str, limit: int) -> str:
    """Text without markup, in one line of at most `limit` characters."""
    text = _TAGS.sub("", text[: 4 * limit])
    for mark, letter in _MARKS.items():
        text = text.replace(mark, letter)
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


class Budget:
    """`burst` at once, then one in `every` seconds."""

    def __init__(self, burst: int, every: float) -> None:
        self._burst, self._every = burst, every
        self._left, self._at = float(burst), time.monotonic()

    def spend(self) -> bool:
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) / self._every)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(frozen=True)
class _Open:
    sender: str
    app: str
    default: bool  # its program wants to hear of a tap
    resident: bool
    summary: str
    body: str


class Notices:
    """`known` finds an application by names, `bring` has it in front (`Launches`), `emit` tells the host."""

    def __init__(
        self, address: str, known: Callable[..., str], bring: Callable[[str], str], emit: Callable[[bytes], None]
    ) -> None:
        self._known, self._bring, self._emit = known, bring, emit
        self.level = NONE
        self.service = Service(
            address,
            (NAME,),
            {"Notify": self._notify, "CloseNotification": self._withdraw, "GetCapabilities": self._capabilities,
             "GetServerInformation": self._information},
            lost=self._lost,
        )  # fmt: skip
        self._open: dict[int, _Open] = {}
        self._last = 0
        self._budget = Budget(BURST, EVERY)

    # -- the host -------------------------------------------------------------------------------------------------------

    def set_level(self, args: Mapping[str, Any]) -> dict[str, Any]:
        level = wire.text(args, "level", 8)
        if level not in (NONE, APP, FULL):
            raise Refusal("bad-argument", "level must be none, app or full.")
        self.level, self.service.again, self.service.wanted = level, 0.0, level != NONE
        if level == NONE:
            for number in list(self._open):
                self._close(number, LOST)
            self.service.flush()
            self.service.drop()
        for number in list(self._open)[-SAID_ANEW:]:  # the host may be another than before
            self._tell(number)
        return {}

    def tapped(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """The person tapped it: its program hears of that, and its application comes to the front."""
        number, found = self._find(args)
        if found.default:
            self._signal(found, "ActionInvoked", "us", number, "default")
        if not found.resident:
            self._close(number, TAPPED)
        return {"launch": self._bring(found.app) if found.app else ""}

    def dismissed(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """It went on the personal side, by its person or by itself."""
        self._close(self._find(args)[0], TAPPED)
        return {}

    def _find(self, args: Mapping[str, Any]) -> tuple[int, _Open]:
        number = wire.integer(args, "notice", 1, 0xFFFFFFFF)
        found = self._open.get(number)
        if found is None:
            raise Refusal("not-found", "There is no such notification any more.")
        return number, found

    def _lost(self) -> None:
        for number in list(self._open):
            self._close(number, LOST)

    # -- programs -------------------------------------------------------------------------------------------------------

    def _notify(self, untrusted_call: bus.Message) -> tuple[str, tuple[Any, ...]]:
        name, replaces, _, summary, body, actions, hints, _ = untrusted_call.args("susssasa{sv}i")
        if not self._budget.spend():
            raise Refusal("LimitsExceeded", "So many notifications are shown to nobody.")
        entry = hints.get("desktop-entry", ("", ""))
        app = self._known(entry[1] if entry[0] == "s" else "", name)
        resident = hints.get("resident", ("", 0)) == ("b", 1)
        number = replaces or self._fresh()
        self._open.pop(number, None)
        words = plain(summary, MAX_SUMMARY), plain(body, MAX_BODY)
        self._open[number] = _Open(untrusted_call.sender, app, "default" in actions[::2], resident, *words)
        while len(self._open) > MAX_OPEN:
            self._close(next(iter(self._open)), LOST)
        self._tell(number)
        return "u", (number,)

    def _tell(self, number: int) -> None:
        found, full = self._open[number], self.level == FULL
        words = {"summary": found.summary if full else "", "body": found.body if full else ""}
        self._emit(wire.event("notice", notice=number, app=found.app, **words))

    def _fresh(self) -> int:
        self._last = self._last % 0x7FFFFFFF + 1
        return self._last if self._last not in self._open else self._fresh()

    def _withdraw(self, untrusted_call: bus.Message) -> tuple[str, tuple[Any, ...]]:
        (number,) = untrusted_call.args("u")
        self._close(number, WITHDRAWN)
        return "", ()

    def _capabilities(self, _: bus.Message) -> tuple[str, tuple[Any, ...]]:
        return "as", (["actions", "body"],)

    def _information(self, _: bus.Message) -> tuple[str, tuple[Any, ...]]:
        return "ssss", ("Twofold", "Twofold", "1", "1.2")

    def _close(self, number: int, why: int) -> None:
        found = self._open.pop(number, None)
        if found is not None:
            self._signal(found, "NotificationClosed", "uu", number, why)
            self._emit(wire.event("notice-gone", notice=number))

    def _signal(self, to: _Open, member: str, signature: str, *args: Any) -> None:
        if self.service.bus is not None:
            try:
                self.service.bus.signal(to.sender, PATH, NAME, member, signature, *args)
            except OSError:
                pass  # the bus does not read; the next flush says so
