"""What a person can have done with a workspace, in words: its details, checking in, discarding, its unlock code, work under way.

An action that the company's policy forbids is there, and says so. Where a button does it, no command line is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from twofold.model.errors import TwofoldError
from twofold.model.workspace import RunState
from twofold.switcher.card import Card, Pill, Transfer, ago, clock, lease, pills
from twofold.switcher.notices import span

BACK, CLOSE, GIVE, SET, STOP = "back", "close", "give", "set", "stop"  # verbs that are ours and not the agent's
CHECK_IN, DISCARD, SAVED_DISCARD, CODE = "checkin?", "discard?", "discard+", "code?"
MAIN, GRAVE = "main", "grave"
LOST, SAFE, BAD = "lost", "safe", "bad"
_LEAST: Final = 4  # characters of a code


@dataclass(frozen=True)
class Choice:
    """A button; `kind` is empty, MAIN or GRAVE."""

    label: str
    verb: str
    kind: str = ""


@dataclass(frozen=True)
class Row:
    """Something that can be done, in a few words beside its button; without one it may not be done."""

    head: str
    text: str
    choice: Choice | None


@dataclass(frozen=True)
class Form:
    """`text` is of (kind, words), kind being empty, LOST, SAFE or BAD. `fields` are what is typed into, hidden, by what each
    asks for. `share` is how much is done, of what is under way. `away`: the verb that Escape is."""

    name: str
    head: str
    text: tuple[tuple[str, str], ...] = ()
    facts: tuple[Pill, ...] = ()
    rows: tuple[Row, ...] = ()
    fields: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()
    share: float | None = None
    away: str = ""


def details(card: Card) -> Form:
    """Where it is, and what can be done with it."""
    rows = [_back_up(card), _check_in(card), _discard(card)]
    if card.wants_code or card.code:
        rows.append(Row("Unlock code", "It opens with a code that you chose." if card.code else "None was chosen yet.",
                        Choice("Change …" if card.code else "Choose …", CODE)))  # fmt: skip
    kept = lease(card)
    says = [("", f"{card.image}, version {card.version}" + (f" · {kept}" if kept else ""))] if card.image else []
    return Form(
        "details", card.title, tuple(says), pills(card), tuple(rows), choices=(Choice("Close", CLOSE),), away=CLOSE
    )


def _back_up(card: Card) -> Row:
    every = card.backed_up_every
    by_itself = f"By itself every {span(every)}." if every else "It is not backed up by itself."
    if not card.may_back_up:
        return Row("Back up", f"Your company does not let it be backed up on demand. {by_itself}", None)
    last = f"Backed up {ago(card.on_server_at)}." if card.on_server_at else "It was never backed up."
    return Row("Back up", f"{last} {by_itself}", Choice("Back up", "backup"))


def _check_in(card: Card) -> Row:
    if not card.may_check_in:
        return Row("Check in", "Your company does not let it be checked in from here.", None)
    return Row("Check in", "All of it goes to the server, and leaves this device.", Choice("Check in …", CHECK_IN))


def _discard(card: Card) -> Row:
    if not card.may_discard:
        return Row("Discard", "Your company does not let it be discarded.", None)
    return Row("Discard", "It leaves this device; what is not on the server is given up.", Choice("Discard …", DISCARD))


def check_in(card: Card) -> Form:
    says = [("", "What is new is backed up, and then it leaves this device.")]
    if card.runs or card.run is RunState.SUSPENDED:
        says = [
            ("", "What is new is backed up first; you can go on working meanwhile. Then it is shut down, and leaves this device."
             if card.runs else "It is woken, backed up and shut down, and leaves this device."),
            (LOST, "Lost: what is open in it and was not saved."),
        ]  # fmt: skip
    says.append((SAFE, "Safe: nothing is given up before all of it is on the server." + (
        " If it does not shut down, nothing changes." if len(says) > 1 else "")))  # fmt: skip
    choices = Choice("Check in", "checkin", MAIN), Choice("Cancel", BACK)
    return Form(CHECK_IN, f"Check {card.title} in?", tuple(says), choices=choices, away=BACK)


def discard(card: Card, loss: dict[str, Any] | None) -> Form:
    """`loss` as the agent's verb answers it; None while it is looked at."""
    head, cancel = f"Discard {card.title}?", Choice("Cancel", BACK)
    if loss is None:
        return Form(DISCARD, head, (("", "Looking at what is new …"),), choices=(cancel,), away=BACK)
    at, changed, opened = int(loss["backed_up"]), loss["changed"], bool(loss["open"])
    yours = "everything that is yours on this device"
    if not at:
        lost, safe = "everything in it: it was never backed up.", f"{yours}."
    else:
        lost = "what was written" if changed is None else f"{size(int(changed))} written"
        lost += f" since it was backed up ({clock(at)})" + (", and what is open in it now." if opened else ".")
        if changed == 0:
            lost = "what is open in it now." if opened else "nothing: all of it is on the server."
        safe = f"what was on the server at {clock(at)}, and {yours}."
    choices = Choice("Back up, then discard", SAVED_DISCARD, MAIN), Choice("Discard", "discard", GRAVE), cancel
    return Form(DISCARD, head, ((LOST, f"Lost: {lost}"), (SAFE, f"Safe: {safe}")), choices=choices, away=BACK)


_GOING = {"backup": "Backing up {}", "checkin": "Checking {} in", "discard": "Discarding {}"}
_NOT = {"backup": "{} was not backed up", "checkin": "{} was not checked in", "discard": "{} was not discarded",
        "unlock": "{} was not unlocked"}  # fmt: skip


def going(card: Card, job: Transfer) -> Form:
    """Work under way, as honestly as the agent tells it."""
    says = [("", job.words)]
    if job.whole > job.total > 0:
        says.append(("", f"Of {size(job.whole)} in all the rest is there already."))
    if job.verb == "checkin" and card.runs:
        says.append(("", "You can go on working until it is shut down."))
    choices = Choice("Stop", STOP), Choice("Hide", CLOSE, MAIN)
    return Form(
        "going", _GOING[job.verb].format(card.title), tuple(says), choices=choices, share=job.share or 0.0, away=CLOSE
    )


def failed(card: Card, verb: str, error: TwofoldError) -> Form:
    """What happened, what is safe, and what to do next where that is no command line."""
    stopped = error.code == "cancelled"
    says = [] if stopped else [(BAD, error.happened)]
    says += [(SAFE, error.safe)] if error.safe else []
    says += [("", error.next)] if error.next and "twofold " not in error.next else []
    return Form("failed", _NOT[verb].format(card.title), tuple(says), choices=(Choice("OK", BACK, MAIN),), away=BACK)


def done(card: Card) -> Form:
    return Form("done", f"{card.title} is backed up", ((SAFE, "All that was on its disks is on the server."),),
                choices=(Choice("OK", CLOSE, MAIN),), away=CLOSE)  # fmt: skip


def code(card: Card, error: TwofoldError | None, *, busy: bool, away: str = "") -> Form:
    """The code is asked for. `away`: there is somewhere to go back to."""
    says = _wrong(error) or [("", "Wrong codes are counted.")]
    if busy:
        says = [("", "Trying …")]
    choices = (Choice("Open", GIVE, MAIN), *((Choice("Cancel", away),) if away else ()))
    return Form("code", f"{card.title} wants your code", tuple(says), fields=("Your code",), choices=choices, away=away)


def new_code(card: Card, error: TwofoldError | None, *, busy: bool, away: str = "") -> Form:
    """A code is chosen."""
    says = _wrong(error) or [
        ("", f"{card.title} opens with it from now on. {_LEAST} characters or more; a sentence is best.")
    ]
    if busy:
        says = [("", "Setting it …")]
    choices = (Choice("Set", SET, MAIN), *((Choice("Cancel", away),) if away else ()))
    fields = "A new code", "The same again"
    return Form("new", f"Choose a code for {card.title}", tuple(says), fields=fields, choices=choices, away=away)


def _wrong(error: TwofoldError | None) -> list[tuple[str, str]]:
    if error is None:
        return []
    then = error.next if "twofold " not in error.next else ""
    return [(BAD, " ".join(text for text in (error.happened, then) if text))]


def size(count: int) -> str:
    return (
        f"{count / 1e9:.1f} GB"
        if count >= 1e9
        else f"{count / 1e6:.1f} MB"
        if count >= 1e5
        else f"{count / 1e3:.0f} kB"
    )
