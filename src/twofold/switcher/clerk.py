"""Does what a person asks of a workspace on the sheet: back up, check in, discard, give its unlock code or choose another.

What is shown follows from the agent's own words: an operation's progress, its error, what discarding would lose.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twofold.model.errors import TwofoldError, UsageError, from_wire
from twofold.model.workspace import Custody, RunState
from twofold.switcher import forms
from twofold.switcher.card import Card, Transfer
from twofold.switcher.forms import Form
from twofold.switcher.link import Link
from twofold.switcher.session import Session
from twofold.switcher.sheet import Sheet
from twofold.switcher.speaker import Speaker

_AT_REST = (RunState.OFF, RunState.SUSPENDED)


class Clerk:
    """`refresh` has everything shown again; `speaker` says what belongs on no sheet."""

    def __init__(self, sheet: Sheet, link: Link, speaker: Speaker, refresh: Callable[[], None]) -> None:
        self._sheet, self._link, self._speaker, self._refresh = sheet, link, speaker, refresh
        self._session: Session | None = None
        self._name = ""  # whose sheet is open, because the person opened it
        self._view = ""  # what is open: a form's name, "details", "new", "code", or "going"
        self._verb = ""  # what the person had done last
        self._job = ""  # its operation, once it is known
        self._loss: dict[str, Any] | None = None
        self._error: TwofoldError | None = None
        self._trying = False
        sheet.pressed.connect(self._on_pressed)

    # -- what is shown --------------------------------------------------------------------------------------------------

    def wants(self, session: Session | None) -> bool:
        """Whether the sheet is to have the keyboard."""
        return self._form(session) is not None

    def show(self, session: Session | None, *, hidden: bool) -> None:
        """`hidden`: something else lies over the guest's area."""
        if session is not self._session and self._session is not None:
            self._trying, self._error = False, None
            if session is None or session.card.name != self._name:
                self._close()
        self._session = session
        form = None if hidden else self._form(session)
        seen = session is not None and session.image is not None and session.card.runs
        self._sheet.show_form(form, session.card if session else None, covers=not seen)
        if form is not None and self._sheet.isVisible() and not self._sheet.hasFocus():
            self._sheet.setFocus()

    def _form(self, session: Session | None) -> Form | None:
        if session is None:
            return None
        card = session.card
        if self._name == card.name:
            return self._opened(session, card)
        if card.shut == "code" and card.run in _AT_REST and card.custody is Custody.CHECKED_OUT:
            return self._code(card, "")
        return None

    def _opened(self, session: Session, card: Card) -> Form:
        job = session.transfer if self._verb == "backup" else session.leave
        if self._view == "going" and self._error is not None:
            return forms.failed(card, self._verb, self._error)
        if self._view == "going":
            return forms.going(card, job or Transfer("", self._verb, "asking", 0, 0, 0))
        if self._view == forms.CHECK_IN:
            return forms.check_in(card)
        if self._view == forms.DISCARD:
            return forms.discard(card, self._loss)
        if self._view == forms.CODE:
            return self._code(card, forms.BACK)
        return forms.done(card) if self._view == "done" else forms.details(card)

    def _code(self, card: Card, away: str) -> Form:
        made = forms.code if card.code == "locked" else forms.new_code
        return made(card, self._error, busy=self._trying, away=away)

    # -- what happens ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """The details of the workspace in front, or away with them."""
        if self._session is None:
            return
        name = self._session.card.name
        self._close() if self._name == name else self._show("details", name)
        self._refresh()

    def heard(self, session: Session, event: dict[str, Any]) -> bool:
        """An operation of this workspace has changed; whether its end is on the sheet."""
        verb, ours = event.get("verb"), self._job == event.get("operation") and self._name == session.card.name
        if not ours or event.get("state") not in ("done", "failed", "cancelled"):
            return False
        error = from_wire(event["error"]) if event.get("error") else None
        if verb == "loss" and error is None:
            self._loss = event.get("result") or {}
        elif error is not None:
            self._view, self._error = "going", error
        elif verb == "backup" and self._view == "going":
            self._view = "done"
        self._job = ""
        return True

    def _show(self, view: str, name: str) -> None:
        self._name, self._view, self._error, self._loss, self._trying = name, view, None, None, False

    def _close(self) -> None:
        self._show("", "")
        self._verb = self._job = ""

    # -- the person's answers ---------------------------------------------------------------------------------------------

    def _on_pressed(self, verb: str) -> None:
        session = self._session
        if session is None:
            return
        card = session.card
        if verb == forms.CLOSE:
            self._close()
        elif verb == forms.BACK:
            self._show("details", card.name)
        elif verb in (forms.GIVE, forms.SET):
            self._try(card, new=verb == forms.SET)
        elif verb == forms.STOP:
            self._stop(session)
        elif verb in (forms.CHECK_IN, forms.DISCARD, forms.CODE):
            self._show(verb, card.name)
            if verb == forms.DISCARD:
                self._ask(card, "loss", "discard")
        elif verb == forms.SAVED_DISCARD:
            self._ask(card, "discard", "discard", yes=True, backup=True, **_stop(card))
        elif verb == "discard":
            self._ask(card, "discard", "discard", yes=True)
        elif verb == "checkin":
            self._ask(card, "checkin", "checkin", **_stop(card))
        elif verb == "backup":
            self._ask(card, "backup", "backup")
        self._refresh()

    def _ask(self, card: Card, do: str, verb: str, **args: Any) -> None:
        """Have the agent begin it; `verb` is what the person calls it."""
        self._verb = verb
        if do != "loss":
            self._show("going", card.name)
        self._link.ask(do, self._begun, partial(self._failed, card.name), workspace=card.name, **args)

    def _begun(self, answer: dict[str, Any]) -> None:
        self._job = str(answer.get("operation"))
        # It may have ended before we knew its name; the agent says how.
        self._link.ask("job", self._looked, operation=self._job)

    def _looked(self, event: dict[str, Any]) -> None:
        if self._session is not None and event.get("operation") == self._job:
            self.heard(self._session, event)
        self._refresh()

    def _failed(self, name: str, error: TwofoldError) -> None:
        if self._name == name:
            self._view, self._error = "going", error
        self._refresh()

    def _stop(self, session: Session) -> None:
        job = session.transfer if self._verb == "backup" else session.leave
        if job is not None:
            self._link.ask("cancel", failed=self._speaker.failed, operation=job.operation)

    # -- the unlock code --------------------------------------------------------------------------------------------------

    def _try(self, card: Card, *, new: bool) -> None:
        first, again = self._sheet.secrets
        if self._trying or not len(first):
            return
        if new and not first.same(again):
            self._error = UsageError("These two are not the same.")
            self._sheet.wipe()
            return
        self._trying, self._error = True, None
        then, failed = partial(self._open_now, card.name, new), partial(self._wrong, card)
        self._link.ask("unlock", then, failed, workspace=card.name, code=first.take(), new=new)
        self._sheet.wipe()

    def _open_now(self, name: str, new: bool, _: dict[str, Any]) -> None:
        """Where nothing else was asked it starts: that is what the person came for. The old code comes before a new one."""
        self._trying, self._error = False, None
        if self._name != name:
            self._link.ask("start", failed=self._speaker.failed, workspace=name)
        elif new:
            self._show("details", name)
        self._refresh()

    def _wrong(self, card: Card, error: TwofoldError) -> None:
        self._trying = False
        if error.code == "refused" and not error.next:  # nothing is left to be tried
            self._speaker.erased(card, error)
        elif self._session is not None and self._session.card.name == card.name:
            self._error = error
        else:
            self._speaker.failed(error)
        self._refresh()


def _stop(card: Card) -> dict[str, bool]:
    """It may be shut down for it: that was said to the person before they pressed."""
    return {} if card.run is RunState.OFF else {"stop": True}
