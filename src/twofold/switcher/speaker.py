"""What the window says of the workspace in front: the page of its state, a banner, the note at its foot; what buttons do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QTimer

from twofold.model.errors import TwofoldError
from twofold.model.workspace import RunState
from twofold.switcher import look, notices
from twofold.switcher.card import Card, Face, clock
from twofold.switcher.link import Link
from twofold.switcher.notices import Notice, Told
from twofold.switcher.session import Keys, Session
from twofold.switcher.window import Window

_READ = 6000  # ms in which a banner that has nothing more to tell can still be read


class Speaker:
    """`personal` brings the person's own side; `refresh` has everything shown again."""

    def __init__(
        self, window: Window, link: Link, keys: Keys, personal: Callable[[], None], refresh: Callable[[], None]
    ) -> None:
        self._window, self._link, self._keys = window, link, keys
        self._personal, self._refresh = personal, refresh
        self.launching = False  # the note tells of an application that is being started
        self._session: Session | None = None
        self._gone: tuple[Card, Notice] | None = None
        self._gone_seen = False
        self._empty: tuple[Face, Notice] | None = None  # there is no workspace, and so much is known of why
        self._erased: dict[str, Notice] = {}
        self._asked = ""  # whose back up the person wants to know about
        self._ours = ""  # the back up that was begun here
        self._read: set[tuple[str, str, bool]] = set()
        window.page.pressed.connect(self._on_page)
        window.banner.pressed.connect(self._on_banner)

    # -- what is said ---------------------------------------------------------------------------------------------------

    def show(
        self, session: Session | None, *, shown: bool, live: bool, settling: bool, covered: bool, away: bool
    ) -> None:
        """`shown`: the workspaces are in front; `settling`: the picture may still be about to be live; `covered`: a sheet lies
        over all of it; `away`: the agent does not answer."""
        self._session, page = session, self._window.page
        if session is None:
            self._window.banner.tell(None)
            self._mark(None, holds=False)
            self._say_farewell(shown=shown, away=away)
            return
        self._gone = self._empty = None
        card = session.card
        notice = self._notice(session)
        if notice is not None:
            retained = session.image is not None and card.run not in (RunState.STARTING, RunState.RUNNING)
            page.tell(card, notice, session.progress, covers=not retained)
            self._mark(
                session if retained and not covered else None,
                holds=notice.verb not in (notices.PERSONAL, notices.CANCEL) and not card.shut,
            )
        else:
            page.hide()
            self._mark(session if shown and not live and not settling else None, holds=True)
        clear = shown and notice is None and not covered and not self._window.launcher.isVisible()
        told = self._told(session) if clear else None
        self._window.banner.tell(told, card.colour)

    def _say_farewell(self, *, shown: bool, away: bool) -> None:
        """Until the person has seen it; then that nothing is here."""
        said: tuple[Card | Face, Notice] | None = self._gone or self._empty or (notices.WAITING if away else None)
        if said is not None and shown:
            self._window.page.tell(said[0], said[1], None, covers=True)
            self._gone_seen = said is self._gone
        else:
            self._window.page.hide()
            if self._gone_seen:
                self._gone, self._gone_seen = None, False

    def _notice(self, session: Session) -> Notice | None:
        card = session.card
        notice = notices.notice(card)
        if notice is None and session.booting:
            return Notice(f"Starting {card.title}", "The desktop is coming up.", "", busy=True)
        if notice is None and session.image is None and card.runs:
            return Notice(f"Opening {card.title}", "", "", busy=True)
        return notice

    def _told(self, session: Session) -> Told | None:
        card, transfer = session.card, session.transfer
        if self._asked == card.name:
            return notices.back_up(card, transfer, ours=transfer is not None and transfer.operation == self._ours)
        told = notices.leaving(card, session.leave) if session.leave is not None else notices.warned(card)
        return None if told is None or (card.name, told.head, told.bad) in self._read else told

    def _mark(self, session: Session | None, *, holds: bool) -> None:
        """Say of a picture that is not live since when it stands, and that keys wait (`holds`: there is something that they can
        wait for)."""
        note = self._window.note
        if session is not None and session.retained_at:
            waiting = self._keys.waiting
            held = f" · {waiting} {'key' if waiting == 1 else 'keys'} held" if waiting else " · input is held"
            note.say(
                f"Picture of {time.strftime('%H:%M', time.localtime(session.retained_at))}{held if holds else ''}",
                look.BUSY,
            )
        elif note.isVisible() and not self.launching:
            note.say("", look.BUSY)

    # -- what happens -----------------------------------------------------------------------------------------------------

    def about_back_up(self) -> None:
        """Say, or no longer say, how the back up of the workspace in front is."""
        name = self._session.card.name if self._session is not None else ""
        self._asked = "" if self._asked == name else name
        self._refresh()

    def nothing(self, answer: dict[str, Any]) -> None:
        """There is no workspace on this device; `answer` has the receipts of what has left it."""
        self._empty = notices.nothing(answer.get("receipts") or ())
        self._refresh()

    def again(self) -> None:
        """Say once more what was read already."""
        self._read.clear()
        self._refresh()

    def ended(self, session: Session, verb: str, error: TwofoldError | None) -> None:
        """A back up, a check-in or a discard has ended."""
        done = {"backup": "backed up", "checkin": "checked in", "discard": "discarded"}[verb]
        if error is not None and error.code != "cancelled":
            self._window.note.say(f"{session.card.title} was not {done}: {error.happened}", look.BAD, 8)
        self._read = {each for each in self._read if each[0] != session.card.name}
        if verb == "backup" and self._asked == session.card.name:
            QTimer.singleShot(_READ, lambda: self._forget(session.card.name))

    def _forget(self, name: str) -> None:
        if self._asked == name and (self._session is None or self._session.transfer is None):
            self._asked = ""
            self._refresh()

    def left(self, session: Session, *, in_front: bool) -> None:
        """A workspace has left this device."""
        notice = self._erased.pop(session.card.name, None) or notices.farewell(session.card, session.leaving)
        if in_front:
            self._gone, self._gone_seen = (session.card, notice), False
        elif session.leaving == "wipe":
            self._window.note.say(notice.head, look.BAD, 10)

    def erased(self, card: Card, error: TwofoldError) -> None:
        """It goes, or has just gone, for too many wrong codes."""
        self._erased[card.name] = notices.erased(card, error)
        if self._gone is not None and self._gone[0].name == card.name:
            self._gone, self._gone_seen = (card, self._erased.pop(card.name)), False

    # -- the person's answers ---------------------------------------------------------------------------------------------

    def _on_page(self, verb: str) -> None:
        if verb == notices.PERSONAL:
            self._personal()
        elif verb == notices.CANCEL:
            self._cancel()
        elif self._session is not None:
            self._link.ask(verb, failed=self.failed, workspace=self._session.card.name)

    def _on_banner(self, verb: str) -> None:
        session, told = self._session, self._window.banner.told
        if session is None or told is None:
            return
        name = session.card.name
        if verb == notices.CLOSE:
            if self._asked == name:
                self._asked = ""
            else:
                self._read.add((name, told.head, told.bad))
            self._refresh()
        elif verb == notices.CANCEL:
            self._cancel()
        elif verb == "backup":
            self._asked = name
            self._link.ask("backup", self._begun, self.failed, workspace=name)
        elif verb == "defer":
            self._asked = ""
            self._link.ask("defer", self._deferred, self.failed, workspace=name)

    def _cancel(self) -> None:
        session = self._session
        if session is not None and (job := session.transfer or session.leave) is not None:
            self._link.ask("cancel", failed=self.failed, operation=job.operation)

    def _begun(self, answer: dict[str, Any]) -> None:
        self._ours = str(answer.get("operation"))
        self._refresh()

    def _deferred(self, answer: dict[str, Any]) -> None:
        self._window.note.say(
            f"It is not backed up by itself before {clock(int(answer.get('until', 0)))}.", look.BUSY, 6
        )
        self._refresh()

    def failed(self, error: TwofoldError) -> None:
        """What was asked for was not done."""
        self._window.note.say(error.happened, look.BAD, 8)
