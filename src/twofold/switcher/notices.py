"""What the switcher says: a page for each state in which there is nothing to work with, and banners over one in which there is.

Each says what happened, what is safe and what to do next. Where a button does that, no command line is named.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from twofold.model.errors import TwofoldError
from twofold.model.names import PALETTE
from twofold.model.workspace import Custody, RunState
from twofold.switcher.card import Card, Face, Transfer, ago, clock, late

PERSONAL, CLOSE, CANCEL = (
    "personal",
    "close",
    "cancel",
)  # verbs that are not the agent's: to the other side, away, stop it
_NOBODY: Final = Face("Twofold", "#5b6675")  # no company's colour


@dataclass(frozen=True)
class Notice:
    """A page for a state in which there is nothing to work with: what happened, what is safe, the next step."""

    head: str
    text: str
    safe: str
    button: str = ""
    verb: str = ""
    busy: bool = False


@dataclass(frozen=True)
class Told:
    """A banner. `buttons` are (text, verb); `share` is how much is done, of what is under way. It `warns`
    in time, or something is `bad` already; else it answers a question."""

    head: str
    text: str
    buttons: tuple[tuple[str, str], ...] = ()
    share: float | None = None
    bad: bool = False
    warns: bool = False


def notice(card: Card) -> Notice | None:
    """The page for this state; None while the machine runs."""
    name = card.title
    if card.run is RunState.BROKEN:
        return _stopped(card, f"{name} cannot be used", "Try again")
    if card.custody is Custody.CHECKING_OUT:
        return Notice(
            f"Getting {name}", "It is being copied to this device.", "You can go on working elsewhere.", busy=True
        )
    if card.custody is Custody.CHECKING_IN:
        return Notice(
            f"Giving {name} back", "What is new goes to the server; then it leaves this device.",
            "Nothing is given up before all of it is there.", "Stop", CANCEL, busy=True,
        )  # fmt: skip
    if card.custody is not Custody.CHECKED_OUT:
        return Notice(f"{name} is not on this device", "It is on the server.", "", "Get it", "checkout")
    if not card.runs and card.run not in (RunState.STARTING, RunState.RESUMING):
        shut = _shut(card)
        if shut is not None and card.run not in (RunState.SUSPENDING, RunState.STOPPING):
            return shut
    if card.error is not None and card.run is RunState.OFF:
        return _stopped(card, f"{name} stopped", "Try again")
    if card.run is RunState.PAUSED and card.error is not None:
        error = card.error
        return Notice(f"{name} waits", _words(error), error.safe, "Go on", "resume")
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


def _shut(card: Card) -> Notice | None:
    name, kept = card.title, card.memory_stored
    windows = (
        "Your windows are as you left them, sealed on this disk." if kept else "Your work is on this disk, sealed."
    )
    said = f"{card.error.happened}\n" if card.error is not None else ""
    match card.shut:
        case "locked":
            return Notice(f"{name} is locked", f"{said}It opens again as soon as your administrator unlocks it.", windows,
                          "To Personal", PERSONAL)  # fmt: skip
        case "away":
            return Notice(f"{name} is locked", f"{said}Connect to your company's network; it unlocks by itself.", windows,
                          "Try again", "start")  # fmt: skip
        case "ended":
            return Notice(
                f"{name} has ended", f"{said}Ask your administrator to extend it.", windows, "To Personal", PERSONAL
            )
        case "assurance":
            return Notice(f"{name} may not run here", f"{said}Your administrator can say what it takes.", windows,
                          "To Personal", PERSONAL)  # fmt: skip
        case "code":
            return Notice(f"{name} wants your code", "", windows)  # the sheet asks for it
        case "taken" if card.error is not None and card.error.code == "conflict":  # what was here has been sent
            return Notice(f"{name} was taken back", said.strip(), card.error.safe, "To Personal", PERSONAL)
        case "taken":
            return Notice(f"{name} was taken back", f"{said}What only this device has can be sent; it is kept beside the rest.",
                          "Nothing was removed.", "Send it", "backup")  # fmt: skip
    return None


def _stopped(card: Card, head: str, button: str) -> Notice:
    error = card.error or TwofoldError("It cannot be used.")
    return Notice(head, _words(error), error.safe or "Nothing on the disk was changed.", button, "start")


def _words(error: TwofoldError) -> str:
    return "\n".join(text for text in (error.happened, error.next) if text)


def farewell(card: Card | Face, verb: str) -> Notice:
    """A workspace has just left this device, by the agent's verb `verb`."""
    name = card.title
    heads = {
        "wipe": (f"Your company has wiped {name}", "Its key was destroyed first, then all that was sealed with it."),
        "checkin": (f"{name} is back with your company", "All of it is on the server; here its key was destroyed."),
        "discard": (f"{name} was discarded", "The last back up is what goes on; here its key was destroyed."),
    }
    head, text = heads.get(
        verb, (f"{name} is gone from this device", "Its key was destroyed, then all that was sealed with it.")
    )
    return Notice(head, text, "Nothing of yours on this device was touched.", "To Personal", PERSONAL)


def nothing(receipts: Sequence[Mapping[str, Any]]) -> tuple[Face, Notice]:
    """No workspace is on this device; `receipts`, as the agent gives them, say what has left it."""
    try:
        last = receipts[-1]
        face = Face(str(last["title"])[:60], PALETTE.get(str(last["colour"]), PALETTE["blue"]))
        said = farewell(face, str(last["verb"]))
        when = time.strftime("%d %B, %H:%M", time.localtime(int(last["removed_at"]))).lstrip("0")
        return face, replace(said, text=f"{when}\n{said.text}")
    except (IndexError, KeyError, TypeError, ValueError, OverflowError):
        return _NOBODY, Notice(
            "No Work on this device",
            "A company invites it:  twofold enrol URL\nThen bring it here:  twofold checkout",
            "Nothing of anybody's is here but your own.", "To Personal", PERSONAL,
        )  # fmt: skip


WAITING = _NOBODY, Notice("Twofold is starting", "Its agent does not answer yet.", "", busy=True)


def erased(card: Card, error: TwofoldError) -> Notice:
    """It went for too many wrong codes."""
    return Notice(f"{card.title} was erased here", error.happened, error.safe, "To Personal", PERSONAL)


def leaving(card: Card, job: Transfer) -> Told:
    """On its way back, while it still runs."""
    head = f"{'Checking' if job.verb == 'checkin' else 'Giving'} {card.title} {'in' if job.verb == 'checkin' else 'up'}"
    buttons = ("Stop", CANCEL), ("OK", CLOSE)
    return Told(
        head, f"{job.words}. You can go on working until it is shut down.", buttons, share=job.share or 0.0, warns=True
    )


def warned(card: Card) -> Told | None:
    """What a person must know of a workspace that runs; None where there is nothing."""
    if card.warning is not None and not card.shut:
        soon = card.expires - time.time() < 3600
        return Told(card.warning.happened, card.warning.next, (("OK", CLOSE),), bad=soon, warns=True)
    if card.shut == "taken" and card.runs:
        return Told(
            f"{card.title} was taken back", "It is put to sleep; nothing of it is removed.", (("OK", CLOSE),), bad=True
        )
    if late(card):
        buttons = ((("Back up now", "backup"),) if card.may_back_up else ()) + (("OK", CLOSE),)
        return Told(f"{card.title} was not backed up since {clock(card.on_server_at)}",
                    "What you wrote since then is on this disk alone.", buttons, bad=True)  # fmt: skip
    return None


def back_up(card: Card, transfer: Transfer | None, *, ours: bool) -> Told:
    """About the back up, as a person asks for it. `ours`: the one under way was begun from here."""
    buttons: tuple[tuple[str, str], ...]
    if transfer is not None:
        buttons = (("Stop", CANCEL),) if ours else (("Later", "defer"),) if card.may_defer else ()
        return Told(f"Backing up {card.title}", transfer.words, (*buttons, ("OK", CLOSE)), share=transfer.share or 0.0)
    every = card.backed_up_every
    text = f"By itself every {span(every)}." if every else "It is not backed up by itself."
    if card.on_server_at:
        text += " What you wrote since then is on this disk alone."
    head = f"Backed up {ago(card.on_server_at)}" if card.on_server_at else f"{card.title} was never backed up"
    buttons = ((("Back up now", "backup"),) if card.may_back_up else ()) + (("OK", CLOSE),)
    return Told(head, text, buttons)


def span(seconds: int) -> str:
    """A length of time, as people say it."""
    if seconds < 7200:
        return f"{max(1, seconds // 60)} minutes"
    return f"{seconds // 3600} hours" if seconds < 172_800 else f"{seconds // 86400} days"
