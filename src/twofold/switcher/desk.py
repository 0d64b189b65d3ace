"""The switcher's middle: brings gate, window, sessions and agent together. Everything here runs on the GUI's thread."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from PySide6.QtCore import QObject, QRect, Qt, QTimer, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QApplication

from twofold.model.errors import BadInputError, TwofoldError, from_wire
from twofold.switcher.banner import Banner
from twofold.switcher.bell import Bell, Service, address
from twofold.switcher.card import SENDS, Card, Transfer
from twofold.switcher.chrome import Bar
from twofold.switcher.clerk import Clerk
from twofold.switcher.link import Link
from twofold.switcher.osk import opener
from twofold.switcher.session import Keys, Session
from twofold.switcher.sheet import Sheet
from twofold.switcher.side import Layout, Moved, Side
from twofold.switcher.speaker import Speaker
from twofold.switcher.starter import Starter
from twofold.switcher.window import Window

_AWAY: Final = 1500  # ms after which an agent that does not answer is spoken of
_LEAVES: Final = ("wipe", "checkin", "discard", "remove")
_SETTLE: Final = 120  # ms that a size must stand before the guest is asked to follow


class Desk(QObject):
    """`wish` asks the gate for a side; `first` names the workspace to begin with. Signals carry what the gate's thread says to
    this one."""

    moved = Signal(object)
    chord = Signal(str)
    layout = Signal(object)
    held = Signal()

    def __init__(self, window: Window, link: Link, keys: Keys, status_fd: int | None) -> None:
        super().__init__()
        self._window, self._link, self._keys, self._status_fd = window, link, keys, status_fd
        self.wish: Callable[[Side], None] = lambda side: None
        self.forget: Callable[[], None] = lambda: None  # whoever keeps the window's picture shall not
        self._pictured = False  # somebody may keep one
        self.first = ""
        keys.on_held = self.held.emit
        self._speaker = Speaker(window, link, keys, lambda: self.wish(Side.PERSONAL), self._refresh)
        self._clerk = Clerk(window.sheet, link, self._speaker, self._refresh)
        self._asked: Side | None = None  # what the sheet's coming or going asked of the gate
        self._sessions: dict[str, Session] = {}
        self._current = ""
        self._side = Side.PERSONAL
        self._layout: Layout | None = None
        self._starter = Starter(window, link, self.say)
        self._bell = Bell(window.note, Service(address(os.environ)))
        self._opener = opener(address(os.environ), phone=window.metrics.phone)
        window.canvas.installEventFilter(self._opener)
        self._said: dict[str, Any] = {}
        self._size = QTimer(self, singleShot=True, interval=_SETTLE)
        self._size.timeout.connect(self._resize)
        self._tick = QTimer(self, interval=15_000)
        self._tick.timeout.connect(self._refresh)
        self._away = QTimer(self, singleShot=True, interval=_AWAY)
        self._away.timeout.connect(self._refresh)
        self._here = True
        self._late = QTimer(self, singleShot=True, interval=300)
        self._late.timeout.connect(self._refresh)
        for signal, slot in (
            (self.moved, self._on_moved), (self.chord, self._on_chord), (self.layout, self._on_layout),
            (self.held, self._refresh),
            (link.heard, self._on_event), (link.here, self._on_here), (window.canvas.resized, self._size.start),
            (window.bar.pressed, self._on_bar), (window.rail.pressed, self._on_rail), (window.typed, self._on_typed),
            (window.launcher.launch, self._launch),
            (window.launcher.left, self.leave_launcher), (window.launcher.other, self._on_other),
            (window.launcher.personal, lambda: self.wish(Side.PERSONAL)), (window.launcher.details, self._details),
            (window.sheet.chord, self._on_chord), (self._bell.marked, self._refresh),
            (self._bell.tapped, self._on_tapped), (self._bell.dismissed, partial(self._told, "dismissed")),
        ):  # fmt: skip
            signal.connect(
                slot, Qt.ConnectionType.QueuedConnection if signal is self.moved else Qt.ConnectionType.AutoConnection
            )

    # -- what others are told -----------------------------------------------------------------------------------------

    def say(self, **facts: Any) -> None:
        """Tell a harness, one JSON object a line; only what has changed."""
        new = {name: value for name, value in facts.items() if self._said.get(name) != value}
        self._said |= new
        if new and self._status_fd is not None:
            try:
                os.write(self._status_fd, json.dumps(new).encode() + b"\n")
            except OSError:
                self._status_fd = None  # nobody listens any more

    @property
    def session(self) -> Session | None:
        return self._sessions.get(self._current)

    # -- the gate -------------------------------------------------------------------------------------------------------

    def _on_moved(self, moved: Moved) -> None:
        before, self._side = self._side, moved.side
        self._tell_front()
        window, session = self._window, self.session
        window.canvas.left_at = moved.pressed if moved.side is Side.PERSONAL else 0
        if moved.side is Side.PERSONAL:
            window.launcher.hide()
            if session:
                session.watch(False)
            self._tick.stop()
        elif before is Side.PERSONAL:
            if session:
                session.watch(True)
            self._tick.start()
            self._late.start()
        if moved.side is Side.TYPING and session:
            # It may be the sheet that asked for the keyboard, and have gone meanwhile.
            if self._asked is not Side.TYPING and not self._clerk.wants(session):
                self._open_launcher(session)
        elif moved.side is Side.WORK and window.launcher.isVisible():
            window.launcher.hide()
        self._asked = None
        self.say(shown=moved.side is not Side.PERSONAL, side=str(moved.side))
        self._refresh()

    def _tell_front(self) -> None:
        self._link.look("" if self._side is Side.PERSONAL else self._current)

    def _on_chord(self, digit: str) -> None:
        if digit == "0":
            self.wish(Side.PERSONAL)
        for session in self._sessions.values():
            if session.card.key and str(session.card.key) == digit:
                self.bring(session.card.name)

    def bring(self, name: str) -> None:
        """Make a workspace the one in front, or the one that the switch key brings."""
        if name not in self._sessions or name == self._current:
            return
        before, self._current = self.session, name
        self._tell_front()
        if before:
            before.watch(False)
        session = self._sessions[name]
        self._window.canvas.session = session
        self._window.launcher.hide()
        self._window.canvas.update()
        if self._side is not Side.PERSONAL:
            session.watch(True)
        self._connect(session)
        self._size.start()
        self._refresh()

    # -- the agent ------------------------------------------------------------------------------------------------------

    def _on_here(self, here: bool) -> None:
        self.say(agent=here)
        if here:
            self._bell.forget()
            self._opener.forget()
            self._link.ask("list", self._on_list)
        elif self._here:
            self._away.start()
        self._here = here
        self._tell_front()
        self._refresh()

    def _on_list(self, answer: dict[str, Any]) -> None:
        for each in answer.get("workspaces", []):
            self._on_card(each)
        self._none_left()

    def _none_left(self) -> None:
        if not self._sessions:
            # An older agent keeps no receipts; that nothing is here can be said all the same.
            self._link.ask("receipts", self._speaker.nothing, lambda _: self._speaker.nothing({}))

    def _on_event(self, event: dict[str, Any]) -> None:
        kind = event.get("event")
        if kind == "workspace":
            self._on_card(event)
        elif kind == "operation":
            self._on_operation(event)
        elif kind in ("window", "gone"):
            self._starter.heard(str(event.get("launch")), str(kind))
        elif kind in ("notice", "notice-gone") and (of := self._sessions.get(str(event.get("workspace")))):
            self._bell.heard(event, of.card, front="" if self._side is Side.PERSONAL else self._current)
        elif kind == "focus":
            self._opener.heard(str(event.get("workspace")), str(event.get("kind")))
        elif kind == "switch":
            self._on_switch(str(event.get("workspace") or ""))
        elif kind == "removed":
            self._on_removed(str(event.get("workspace")))

    def _on_operation(self, event: dict[str, Any]) -> None:
        session, verb, state = self._sessions.get(str(event.get("workspace"))), event.get("verb"), event.get("state")
        if session is None:
            return
        running = state in ("queued", "running", "paused")
        if verb in SENDS:
            try:
                moving = Transfer.from_wire(event)
            except BadInputError:
                return
            session.transfer, session.leave = (
                (moving, session.leave) if verb == "backup" else (session.transfer, moving)
            )
        told = self._clerk.heard(session, event)
        if verb in SENDS and not running and not told:
            self._speaker.ended(session, str(verb), from_wire(event["error"]) if event.get("error") else None)
        if verb not in ("backup", "loss"):
            step = str(event.get("step", "")), int(event.get("done", 0)), int(event.get("total", 0))
            session.progress = step if running else None
            if verb in _LEAVES:
                session.leaving = str(verb) if running or state == "done" else ""
        self._refresh()

    def _on_switch(self, name: str) -> None:
        if name == "personal" or (not name and self._side is not Side.PERSONAL):
            self.wish(Side.PERSONAL)
            return
        self.bring(name)
        self.wish(Side.WORK)

    def _on_tapped(self, name: str, number: int) -> None:
        """A notification, on the personal side: the person wants to be where it came from."""
        if name in self._sessions:
            self._on_switch(name)
            self._told("tapped", name, number)

    def _told(self, verb: str, name: str, number: int) -> None:
        self._link.ask(verb, workspace=name, notice=number)

    def _on_removed(self, name: str) -> None:
        self._bell.leave(name)
        session = self._sessions.pop(name, None)
        if session is None:
            return
        session.detach()
        others = next(iter(self._sessions), "")
        self._speaker.left(session, in_front=name == self._current and not others)
        if name == self._current:
            self._current, self._window.canvas.session = "", None
            self._tell_front()
            self.bring(others)
            self._window.launcher.hide()
        self._none_left()
        self._refresh()

    def _on_card(self, untrusted_card: object) -> None:
        try:
            card = Card.from_wire(untrusted_card)
        except BadInputError:
            return
        session = self._sessions.get(card.name)
        if session is None:
            session = self._sessions[card.name] = Session(card)
            session.painted.connect(partial(self._on_painted, session))
            session.moved.connect(partial(self._on_session, session))
            if not self._current or card.name == self.first:
                self.bring(card.name)
        else:
            up = card.session_up and not session.card.session_up
            session.update_card(card)
            if up and session is self.session:
                self._size.start()
                self._tell_layout()
        self._connect(session)
        self._refresh()

    def _connect(self, session: Session) -> None:
        """Have the display of a machine that runs, or is about to; keep it while it does."""
        if session.card.has_screen and session.display is None and not session.asked:
            session.asked = True

            def failed(_: TwofoldError) -> None:
                session.asked = False
                QTimer.singleShot(1000, lambda: self._connect(session))

            self._link.ask("display", lambda sock: self._attach(session, sock), failed, workspace=session.card.name)
        elif not session.card.has_screen and session.display is not None:
            session.detach()

    def _attach(self, session: Session, sock: Any) -> None:
        session.attach(sock)
        if session is self.session:
            if self._side is not Side.PERSONAL:
                session.watch(True)
            self._resize()
            self._tell_layout()

    def _on_painted(self, session: Session, rect: QRect) -> None:
        if session is self.session:
            self._window.canvas.damage(rect)

    def _on_session(self, session: Session) -> None:
        if session is not self.session:
            return
        self._connect(session)
        self._window.canvas.update()
        self._refresh()

    def _resize(self) -> None:
        session, area = self.session, self._window.canvas.area()
        if search := self._spots(self._window.bar).get("search"):
            self.say(search=search)
        self.say(guest=[self._window.x() + area.x(), self._window.y() + area.y(), area.width(), area.height()])
        if session is None or session.display is None or area.isEmpty():
            return
        session.display.resize(area.width(), area.height())
        if session.card.session_up:
            scale = round(self._window.devicePixelRatioF() * 100)
            self._link.ask("resize", workspace=session.card.name, width=area.width(), height=area.height(), scale=scale)

    def _on_layout(self, layout: Layout) -> None:
        self._layout = layout
        self._tell_layout()

    def _tell_layout(self) -> None:
        if self._layout is None:
            return
        for session in self._sessions.values():
            if session.card.session_up:
                self._link.ask(
                    "layout", workspace=session.card.name, model=self._layout.model, layout=self._layout.layout,
                    variant=self._layout.variant, options=self._layout.options,
                )  # fmt: skip

    # -- the person -----------------------------------------------------------------------------------------------------

    def _on_bar(self, name: str) -> None:
        if name in ("server", "lease"):
            (self._speaker.about_back_up if name == "server" else self._speaker.again)()
        elif name == "details":
            self._details()
        elif self._window.launcher.isVisible():
            self.leave_launcher()
        elif self._side is Side.TYPING and self.session is not None:  # a sheet has the keyboard already
            self._open_launcher(self.session)
            self._refresh()
        else:
            self.wish(Side.TYPING)

    def _details(self) -> None:
        self._window.launcher.hide()
        self._clerk.open()

    def _on_rail(self, name: str) -> None:
        if name == "personal":
            self.wish(Side.PERSONAL)
        else:
            self.bring(name)

    def _on_other(self, name: str) -> None:
        self.bring(name)
        self.wish(Side.WORK)

    def _on_typed(self, event: QKeyEvent) -> None:
        """A key that came after the gate gave us the keyboard and before the search line stood."""
        if self._side is Side.PERSONAL or not event.text().isprintable():
            return
        if self._window.sheet.isVisible() and not self._window.launcher.isVisible():
            self._window.sheet.type_key(event)
            return
        line = self._window.launcher.search
        line.setFocus()
        QApplication.sendEvent(line, QKeyEvent(event.type(), event.key(), event.modifiers(), event.text()))

    def _open_launcher(self, session: Session) -> None:
        self._starter.open(session, [each.card for each in self._sessions.values()])

    def leave_launcher(self) -> None:
        self._window.launcher.hide()
        if not self._clerk.wants(self.session):
            self.wish(Side.WORK)
        self._refresh()

    def _launch(self, app: str) -> None:
        if self.session is not None:
            self._starter.launch(self.session, app)
            self.leave_launcher()

    # -- the picture ----------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        window, session = self._window, self.session
        card = session.card if session else None
        away = not self._here and not self._away.isActive()
        window.wear(card, session.transfer or session.leave if session else None, away=away)
        shown = self._side is not Side.PERSONAL
        if shown:
            self._bell.seen(self._current)
        if session is not None and session.card.runs:
            self._pictured |= shown
        elif self._pictured:
            self._pictured = False
            if not (shown and window.windowHandle().isExposed()):
                self.forget()
        window.rail.show_cards([each.card for each in self._sessions.values()], self._current, self._bell.marks)
        live = bool(session and session.live and not session.booting and shown)
        self._keys.aim(
            session.display if session else None, live=bool(session and session.live and not session.booting)
        )
        self.say(
            live=live, launcher=window.launcher.isVisible(), workspace=self._current, run=str(card.run) if card else ""
        )
        self._speaker.launching = self._starter.busy
        sheet = self._clerk.wants(session)
        covered = sheet or window.launcher.isVisible()
        self._opener.stands(self._current if self._side is Side.WORK and not covered else "", live=live)
        self._keys.hold(not sheet)
        self._speaker.show(session, shown=shown, live=live, settling=self._late.isActive(), covered=sheet, away=away)
        self._clerk.show(session, hidden=not shown or window.launcher.isVisible())
        self._seat(sheet)
        banner, form = window.banner, window.sheet.form
        spots = self._spots(window.bar) | self._spots(banner) | self._spots(window.sheet)
        if self._window.launcher.isVisible() and (more := window.launcher.more()):
            at = window.launcher.mapTo(window, more.center())
            spots["more"] = [window.x() + at.x(), window.y() + at.y()]
        self.say(marks=sorted(self._bell.marks))
        self.say(banner=banner.told.head if banner.told else "", sheet=form.name if form else "", spots=spots)

    def _seat(self, sheet: bool) -> None:
        """Our own window has the keyboard while a sheet is up, and only then or for the launcher."""
        if self._window.launcher.isVisible():
            return
        wanted = Side.TYPING if sheet else Side.WORK
        if self._side not in (Side.PERSONAL, wanted) and self._asked is not wanted:
            self._asked = wanted
            self.wish(wanted)

    def _spots(self, plate: Bar | Banner | Sheet) -> dict[str, list[int]]:
        """Where what can be pressed was drawn last, in device pixels of the screen."""
        window, ratio = self._window, self._window.devicePixelRatioF()
        at = {name: plate.mapTo(window, spot.center()) for name, spot in plate.spots.items() if plate.isVisible()}
        return {name: [round(window.x() + p.x() * ratio), round(window.y() + p.y() * ratio)] for name, p in at.items()}

    def close(self) -> None:
        self._bell.close()
        self._opener.close()
        self._keys.aim(None, live=False)
        for session in self._sessions.values():
            session.detach()
        self._link.close()
