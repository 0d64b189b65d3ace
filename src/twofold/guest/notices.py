"""The session's notification service (Desktop Notifications Specification 1.2), for as long as the host wants to hear of any.

What programs post is told to the host, no more of it than the level lets through; the host and the personal side show it. Where
the level is none this service is not there at all, so that a program shows what it has to say by itself.
"""

from __future__ import annotations

import re
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from twofold.guest import bus, wire
from twofold.guest.wire import Refusal

NONE, APP, FULL = "none", "app", "full"
NAME, PATH = "org.freedesktop.Notifications", "/org/freedesktop/Notifications"
MAX_OPEN = 32
MAX_SUMMARY, MAX_BODY = 120, 400  # characters
BURST, EVERY = 10, 1.0  # so many at once, then one in so many seconds
SAID_ANEW = 8  # of what is open, to a host that asks
AGAIN = 30.0  # seconds after which a bus that went is looked for again
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
_NO_QUEUE = 4  # RequestName: where somebody else has the name, let them


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
        self._address, self._known, self._bring, self._emit = address, known, bring, emit
        self.level = NONE
        self._bus: bus.Bus | None = None
        self._again = 0.0
        self._open: dict[int, _Open] = {}
        self._last = 0
        self._budget = Budget(BURST, EVERY)
        self._watched: tuple[int, int] | None = None

    # -- the host -------------------------------------------------------------------------------------------------------

    def set_level(self, args: Mapping[str, Any]) -> dict[str, Any]:
        level = wire.text(args, "level", 8)
        if level not in (NONE, APP, FULL):
            raise Refusal("bad-argument", "level must be none, app or full.")
        self.level, self._again = level, 0.0
        if level == NONE:
            for number in list(self._open):
                self._close(number, LOST)
            self._flush()
            self._drop()
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

    @property
    def _wanted(self) -> bool:
        return self.level != NONE and bool(self._address)

    # -- the loop -------------------------------------------------------------------------------------------------------

    def watch(self, poll: select.poll) -> None:
        """Before each wait: connect where that is due, send what waits, have `poll` look."""
        now = time.monotonic()
        if self._bus is None and self._wanted and now >= self._again:
            self._connect()
        self._flush()
        found = self._bus
        wanted = None if found is None else (found.fd, select.POLLIN | (select.POLLOUT if found.pending else 0))
        if wanted != self._watched:
            if self._watched is not None and (wanted is None or wanted[0] != self._watched[0]):
                poll.unregister(self._watched[0])
            if wanted is not None:
                poll.register(*wanted)
            self._watched = wanted

    def wait_ms(self, others: int | None) -> int | None:
        """How long the loop may sleep, `others` being the others' wish."""
        if self._bus is not None or not self._wanted:
            return others
        mine = max(10, round((self._again - time.monotonic()) * 1000))
        return mine if others is None else min(mine, others)

    def turn(self, ready: set[int]) -> None:
        if self._bus is not None and self._bus.fd in ready:
            try:
                self._bus.read()
            except OSError:
                self._lost()

    def _connect(self) -> None:
        self._again = time.monotonic() + AGAIN
        try:
            self._bus = bus.Bus(self._address, self._heard)
            self._bus.call(bus.BUS, bus.BUS_PATH, bus.BUS, "RequestName", "su", NAME, _NO_QUEUE)
        except OSError:
            self._drop()  # a session without a bus does without

    def _flush(self) -> None:
        if self._bus is not None:
            try:
                self._bus.flush()
            except OSError:
                self._lost()

    def _lost(self) -> None:
        self._again = time.monotonic() + AGAIN
        self._drop()
        for number in list(self._open):
            self._close(number, LOST)

    def _drop(self) -> None:
        found, self._bus = self._bus, None
        if found is not None:
            found.close()

    # -- programs -------------------------------------------------------------------------------------------------------

    def _heard(self, untrusted_call: bus.Message) -> None:
        if untrusted_call.kind != bus.CALL or self._bus is None:
            return
        does: dict[str, Callable[[bus.Message], tuple[str, tuple[Any, ...]]]] = {
            "Notify": self._notify, "CloseNotification": self._withdraw, "GetCapabilities": self._capabilities,
            "GetServerInformation": self._information, "Ping": lambda _: ("", ()),
        }  # fmt: skip
        do = does.get(untrusted_call.member)
        try:
            if do is None:
                raise Refusal("UnknownMethod", "Not known here.")
            signature, values = do(untrusted_call)
            self._bus.answer(untrusted_call, signature, *values)
        except bus.Malformed:
            self._bus.refuse(untrusted_call, f"{bus.BUS}.Error.InvalidArgs", "Other arguments are wanted.")
        except Refusal as why:
            self._bus.refuse(untrusted_call, f"{bus.BUS}.Error.{why.code}", why.text)

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
        if self._bus is not None:
            try:
                self._bus.signal(to.sender, PATH, NAME, member, signature, *args)
            except OSError:
                pass  # the bus does not read; the next flush says so
