"""What the agent says of one workspace, checked and put into words."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from twofold.model.errors import BadInputError, TwofoldError, from_wire
from twofold.model.names import PALETTE
from twofold.model.workspace import Custody, RunState

_SHUT = {
    "taken": "taken back", "locked": "locked", "ended": "ended", "away": "locked", "assurance": "may not run here",
    "code": "wants your code",
}  # fmt: skip
_LATE = 2  # times the interval, after which a back up is late


@dataclass(frozen=True)
class Face:
    """What is left to show of a workspace that is not here: `colour` is "#rrggbb"."""

    title: str
    colour: str


@dataclass(frozen=True)
class Card:
    """`colour` is "#rrggbb", `key` 0 to 9 (0: none), times are Unix seconds with 0 for never."""

    name: str
    title: str
    colour: str
    key: int
    custody: Custody
    run: RunState
    in_memory: bool
    on_disk_at: int
    on_server_at: int
    expires: int
    session_up: bool
    agent_up: bool
    has_agent: bool
    memory_stored: bool
    sound_out: bool
    here: int  # bytes of its image on this device, and all of them; 0 of 0 where it stands on none
    of: int
    error: TwofoldError | None
    warning: TwofoldError | None  # the right to run it is about to end
    shut: str  # why it may not run, in a word: one of _SHUT; empty where it may
    backed_up_every: int  # seconds, 0: never by itself
    may_back_up: bool
    may_defer: bool
    may_check_in: bool
    may_discard: bool
    wants_code: bool  # its policy has it open with a code of the person's
    code: str  # "locked" or "open" where it has such a code, else empty
    image: str
    version: int

    @classmethod
    def from_wire(cls, untrusted_workspace: object) -> Card:
        """Raises: BadInputError: not a workspace as docs/protocol.md has it."""
        try:
            return cls._read(untrusted_workspace)
        except (KeyError, TypeError, ValueError, AttributeError) as bad:
            raise BadInputError("The agent described a workspace in a way that we can't read.") from bad

    @classmethod
    def _read(cls, wire: Any) -> Card:
        where, policy, shut = wire["whereabouts"], wire["policy"], str(wire.get("shut") or "")
        every = policy.get("replicate_seconds", 0)
        # Its image, and of its own files those that are with the server still.
        parts = [part for name in ("base", "rest") if (part := wire.get(name))]
        colour = str(wire["colour"])
        return cls(
            name=str(wire["workspace"]),
            title=str(wire["title"])[:60],
            colour=colour if colour in PALETTE.values() else PALETTE.get(colour, PALETTE["blue"]),
            key=int(wire["key"]) if 0 <= int(wire["key"]) <= 9 else 0,
            custody=Custody(wire["custody"]),
            run=RunState(wire["run"]),
            in_memory=bool(where["in_memory"]),
            on_disk_at=int(where["on_disk_verified_at"]),
            on_server_at=int(where["on_server_at"]),
            expires=int(wire.get("expires") or 0),
            session_up=bool(wire["session_up"]),
            agent_up=bool(wire["agent_up"]),
            has_agent=bool(wire.get("has_agent", True)),
            memory_stored=bool(wire.get("memory_stored", False)),
            sound_out=policy.get("sound_out") is True,
            here=sum(int(part["here"]) for part in parts),
            of=sum(int(part["of"]) for part in parts),
            error=from_wire(wire["error"]) if wire.get("error") else None,
            warning=from_wire(wire["warning"]) if wire.get("warning") else None,
            shut=shut if shut in _SHUT else "",
            backed_up_every=every if type(every) is int and every > 0 else 0,
            may_back_up=policy.get("replicate") is True,
            may_defer=policy.get("defer") is True,
            may_check_in=policy.get("checkin") is True,
            may_discard=policy.get("discard") is True,
            wants_code=policy.get("unlock") is True,
            code=str(wire.get("code") or ""),
            image=str(wire.get("image") or "")[:60],
            version=int(wire.get("version") or 0),
        )

    @property
    def runs(self) -> bool:
        return self.run in (RunState.RUNNING, RunState.PAUSED)

    @property
    def has_screen(self) -> bool:
        """There is a machine whose screen can be had; while it is being woken it does not run yet."""
        return self.runs or (self.run is RunState.RESUMING and self.in_memory)


SENDS = ("backup", "checkin", "discard")


@dataclass(frozen=True)
class Transfer:
    """Work under way that sends what is new to the server, or gives it up: bytes that travel, of `whole` that it is about."""

    operation: str
    verb: str
    step: str
    done: int
    total: int
    left: int  # seconds, 0: it can't be told
    whole: int = 0

    @classmethod
    def from_wire(cls, untrusted_operation: dict[str, Any]) -> Transfer | None:
        """None where it is none, or has ended. Raises: BadInputError."""
        wire = untrusted_operation
        try:
            if wire["verb"] not in SENDS or wire["state"] not in ("queued", "running", "paused"):
                return None
            step = "standing still" if wire["state"] == "paused" else str(wire["step"])[:60]
            counts = [int(wire.get(name) or 0) for name in ("done", "total", "left", "whole")]
            return cls(str(wire["operation"]), str(wire["verb"]), step or "waiting for its turn", *counts)
        except (KeyError, TypeError, ValueError) as bad:
            raise BadInputError("The agent described its work in a way that we can't read.") from bad

    @property
    def share(self) -> float | None:
        return min(1.0, self.done / self.total) if self.total > 0 else None

    @property
    def words(self) -> str:
        if self.total <= 0:
            return self.step.capitalize()
        rest = f" · {self.left} s left" if self.left else ""
        return f"{self.step.capitalize()}: {self.done / 1e6:.1f} of {self.total / 1e6:.1f} MB{rest}"


def ago(then: int, now: float | None = None) -> str:
    """How long since, as people say it."""
    seconds = max(0, int((time.time() if now is None else now) - then))
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds // 60} min ago"
    if seconds < 86400:
        return f"{seconds // 3600} h ago"
    return f"{seconds // 86400} d ago"


def clock(then: int) -> str:
    """The time today, else the day and the time."""
    local, today = time.localtime(then), time.localtime()
    return time.strftime("%H:%M" if local[:3] == today[:3] else "%d %b %H:%M", local)


@dataclass(frozen=True)
class Pill:
    """One of the three facts; `sure` lights its dot, `late` makes it a warning. `share`: how much of it is done, while it is."""

    text: str
    sure: bool
    late: bool = False
    share: float | None = None


def pills(card: Card, transfer: Transfer | None = None) -> tuple[Pill, Pill, Pill]:
    """The three facts that a person must never have to guess apart."""
    return (
        Pill("in memory", True) if card.in_memory else Pill("not in memory", False),
        Pill(f"on this disk · {clock(card.on_disk_at)}", True) if card.on_disk_at else Pill("not on this disk", False),
        _server(card, transfer),
    )


def _server(card: Card, transfer: Transfer | None) -> Pill:
    if transfer is not None:
        words = {"backup": "backing up", "checkin": "checking in"}.get(transfer.verb, "discarding")
        return Pill(words, bool(card.on_server_at), share=transfer.share)
    if not card.on_server_at:
        return Pill("not on the server", False)
    if late(card):
        return Pill(f"not backed up since {clock(card.on_server_at)}", False, late=True)
    return Pill(f"on the server · {ago(card.on_server_at)}", True)


def late(card: Card, now: float | None = None) -> bool:
    """A back up that should have been made by itself was not."""
    since = (time.time() if now is None else now) - card.on_server_at
    return bool(card.on_server_at and card.backed_up_every and since > _LATE * card.backed_up_every)


def lease(card: Card) -> str:
    """Until when the workspace runs without hearing from the company, and whether it could at all."""
    left = card.expires - time.time()
    if card.shut:
        return _SHUT[card.shut]
    if card.expires and left <= 0:
        return "lease ended"
    if card.warning is not None and card.expires:
        hours, minutes = divmod(max(60, int(left)) // 60, 60)
        return f"ends in {hours} h" if hours else f"ends in {minutes} min"
    if card.here < card.of:
        return f"online only · {100 * card.here // card.of} % here"
    if not card.expires:
        return ""
    return time.strftime(
        "offline until %H:%M" if left < 72000 else "offline until %a %d %b", time.localtime(card.expires)
    )
