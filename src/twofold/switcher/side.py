"""The words of a gate: whose keys they are now, where they go, and what it tells; whatever the session is made of."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Protocol

# Power, sleep, wake-up, suspend (linux/input-event-codes.h) mean the machine in the person's hand, never the one inside it.
DEVICE_KEYS: Final = frozenset((116, 142, 143, 205))


class Side(enum.StrEnum):
    """Whose keys they are now: the person's own windows, the guest, or our own search line."""

    PERSONAL = "personal"
    WORK = "work"
    TYPING = "typing"


@dataclass(frozen=True)
class Layout:
    """The person's keyboard in XKB's names; the group in use comes first in `layout` and `variant`."""

    model: str
    layout: str
    variant: str
    options: str


@dataclass(frozen=True)
class Locks:
    """Which locks the person's keyboard has on."""

    caps: bool
    num: bool


@dataclass(frozen=True)
class Moved:
    """The gate stands at `side` now. `pressed` is the X server's time of the key that did it, 0 where no key did."""

    side: Side
    pressed: int = 0
    at: float = 0.0


class KeySink(Protocol):
    """Where keys go while Work is in front; called on the gate's thread. `code` is a Linux key code."""

    def key(self, code: int, down: bool) -> None: ...

    def release_all(self) -> None: ...

    def locks(self, locks: Locks) -> None: ...


class AnyGate(Protocol):
    """What the switcher asks of a gate: `twofold.switcher.gate` under X, `twofold.switcher.waygate` on a phone."""

    @property
    def side(self) -> Side: ...

    def start(self) -> None: ...

    def wish(self, side: Side) -> None: ...

    def still_work(self) -> bool: ...

    def close(self) -> None: ...
