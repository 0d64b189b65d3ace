"""A name on the session's bus, served from the session's own loop: connected when it is wanted, and again when the bus went."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any

from twofold.guest import bus
from twofold.guest.wire import Refusal

AGAIN = 30.0  # seconds after which a bus that went is looked for again
_NO_QUEUE = 4  # RequestName: where somebody else has the name, let them

Does = dict[str, Callable[[bus.Message], tuple[str, tuple[Any, ...]]]]


class Service:
    """`names` are owned while `wanted`; `does` answers each call by its member with a signature and values. `signalled` gets what
    the bus itself says, `lost` is called when the bus has gone."""

    def __init__(
        self,
        address: str,
        names: tuple[str, ...],
        does: Does,
        signalled: Callable[[bus.Message], None] = lambda signal: None,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._address, self._names, self._signalled, self._gone = address, names, signalled, lost
        self._does: Does = does | {"Ping": lambda _: ("", ())}
        self.wanted = False
        self.bus: bus.Bus | None = None
        self.again = 0.0  # when a bus is looked for next
        self._watched: tuple[int, int] | None = None

    def watch(self, poll: select.poll) -> None:
        """Before each wait: connect where that is due, send what waits, have `poll` look."""
        if self.bus is None and self.wanted and self._address and time.monotonic() >= self.again:
            self._connect()
        self.flush()
        found = self.bus
        wanted = None if found is None else (found.fd, select.POLLIN | (select.POLLOUT if found.pending else 0))
        if wanted != self._watched:
            if self._watched is not None and (wanted is None or wanted[0] != self._watched[0]):
                poll.unregister(self._watched[0])
            if wanted is not None:
                poll.register(*wanted)
            self._watched = wanted

    def wait_ms(self, others: int | None) -> int | None:
        """How long the loop may sleep, `others` being the others' wish."""
        if self.bus is not None or not (self.wanted and self._address):
            return others
        mine = max(10, round((self.again - time.monotonic()) * 1000))
        return mine if others is None else min(mine, others)

    def turn(self, ready: set[int]) -> None:
        if self.bus is not None and self.bus.fd in ready:
            try:
                self.bus.read()
            except OSError:
                self._lost()

    def flush(self) -> None:
        if self.bus is not None:
            try:
                self.bus.flush()
            except OSError:
                self._lost()

    def drop(self) -> None:
        found, self.bus = self.bus, None
        if found is not None:
            found.close()

    def _connect(self) -> None:
        self.again = time.monotonic() + AGAIN
        try:
            self.bus = bus.Bus(self._address, self._heard)
            for name in self._names:
                self.bus.call(bus.BUS, bus.BUS_PATH, bus.BUS, "RequestName", "su", name, _NO_QUEUE)
        except OSError:
            self.drop()  # a session without a bus does without

    def _lost(self) -> None:
        self.again = time.monotonic() + AGAIN
        self.drop()
        self._gone()

    def _heard(self, untrusted_message: bus.Message) -> None:
        if self.bus is None:
            return
        if untrusted_message.kind == bus.SIGNAL and untrusted_message.sender == bus.BUS:
            self._signalled(untrusted_message)
            return
        if untrusted_message.kind != bus.CALL:
            return
        do = self._does.get(untrusted_message.member)
        try:
            if do is None:
                raise Refusal("UnknownMethod", "Not known here.")
            signature, values = do(untrusted_message)
            self.bus.answer(untrusted_message, signature, *values)
        except bus.Malformed:
            self.bus.refuse(untrusted_message, f"{bus.BUS}.Error.InvalidArgs", "Other arguments are wanted.")
        except Refusal as why:
            self.bus.refuse(untrusted_message, f"{bus.BUS}.Error.{why.code}", why.text)
