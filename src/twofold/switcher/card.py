"""What the agent says of one workspace, checked and put into words."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from twofold.model.errors import BadInputError, TwofoldError, from_wire
from twofold.model.names import PALETTE
from twofold.model.workspace import Custody, RunState


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

    @classmethod
    def from_wire(cls, untrusted_workspace: object) -> Card:
        """Raises: BadInputError: not a workspace as docs/protocol.md has it."""
        try:
            return cls._read(untrusted_workspace)
        except (KeyError, TypeError, ValueError, AttributeError) as bad:
            raise BadInputError("The agent described a workspace in a way that we can't read.") from bad

    @classmethod
    def _read(cls, wire: Any) -> Card:
        where, base = wire["whereabouts"], wire.get("base") or {"here": 0, "of": 0}
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
            sound_out=wire["policy"].get("sound_out") is True,
            here=int(base["here"]),
            of=int(base["of"]),
            error=from_wire(wire["error"]) if wire.get("error") else None,
        )

    @property
    def runs(self) -> bool:
        return self.run in (RunState.RUNNING, RunState.PAUSED)

    @property
    def has_screen(self) -> bool:
        """There is a machine whose screen can be had; while it is being woken it does not run yet."""
        return self.runs or (self.run is RunState.RESUMING and self.in_memory)


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
    """One of the three facts; `sure` lights its dot."""

    text: str
    sure: bool


def pills(card: Card) -> tuple[Pill, Pill, Pill]:
    """The three facts that a person must never have to guess apart."""
    return (
        Pill("in memory", True) if card.in_memory else Pill("not in memory", False),
        Pill(f"on this disk · {clock(card.on_disk_at)}", True) if card.on_disk_at else Pill("not on this disk", False),
        Pill(f"on the server · {ago(card.on_server_at)}", True)
        if card.on_server_at
        else Pill("not on the server", False),
    )


def lease(card: Card) -> str:
    """Until when the workspace runs without hearing from the company, and whether it could at all."""
    left = card.expires - time.time()
    if card.expires and left <= 0:
        return "lease ended"
    if card.here < card.of:
        return f"online only · {100 * card.here // card.of} % here"
    if not card.expires:
        return ""
    return time.strftime(
        "offline until %H:%M" if left < 72000 else "offline until %a %d %b", time.localtime(card.expires)
    )


@dataclass(frozen=True)
class Notice:
    """A page for a state in which there is nothing to work with: what happened, what is safe, the next step."""

    head: str
    text: str
    safe: str
    button: str = ""
    verb: str = ""
    busy: bool = False


def notice(card: Card) -> Notice | None:
    """The page for this state; None while the machine runs."""
    name = card.title
    if card.run is RunState.BROKEN or (card.error is not None and not card.runs and card.run is RunState.OFF):
        error = card.error or TwofoldError("It cannot be used.")
        return Notice(f"{name} stopped", "\n".join(t for t in (error.happened, error.next) if t),
                      error.safe or "Nothing on the disk was changed.", "Try again", "start")  # fmt: skip
    if card.custody is Custody.CHECKING_OUT:
        return Notice(
            f"Getting {name}", "It is being copied to this device.", "You can go on working elsewhere.", busy=True
        )
    if card.custody is not Custody.CHECKED_OUT:
        return Notice(f"{name} is not on this device", "It is on the server.", "", "Get it", "checkout")
    if card.run is RunState.PAUSED and card.error is not None:
        error = card.error
        return Notice(
            f"{name} waits", "\n".join(t for t in (error.happened, error.next) if t), error.safe, "Go on", "resume"
        )
    pages = {
        RunState.OFF: Notice(f"{name} is off", "It starts in a moment.", "Everything on its disks is safe.", "Start", "start"),
        RunState.SUSPENDED: Notice(f"{name} is asleep", "Your windows are as you left them.",
                                   "Its memory lies sealed on this disk.", "Wake up", "start"),
        RunState.STARTING: Notice(f"Starting {name}", "", "", busy=True),
        RunState.RESUMING: Notice(f"Waking {name}", "", "", busy=True),
        RunState.SUSPENDING: Notice(f"Putting {name} to sleep", "", "", busy=True),
        RunState.STOPPING: Notice(f"Shutting {name} down", "", "", busy=True),
        RunState.PAUSED: Notice(f"{name} is paused", "", "Nothing is lost.", "Go on", "resume"),
    }  # fmt: skip
    return pages.get(card.run)
