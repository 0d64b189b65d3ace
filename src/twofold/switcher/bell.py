"""A workspace's notifications on the personal side: by the person's own notification service (Desktop Notifications
Specification 1.2), or as a mark on the rail where there is none. While Work is in front they are a line at its foot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, QSocketNotifier, Qt, Signal

from twofold.guest import bus
from twofold.guest.bus import Bus, Message
from twofold.switcher import look
from twofold.switcher.card import Card
from twofold.switcher.page import Note

NAME, PATH = "org.freedesktop.Notifications", "/org/freedesktop/Notifications"
_OURS = "Twofold"
_MATCH = f"type='signal',sender='{NAME}',path='{PATH}',interface='{NAME}'"
_NOTE = 6  # seconds that a line at Work's foot stands
_MAX = 128  # notifications shown at once

Key = tuple[str, int]  # a workspace, and the notification's number there


@dataclass
class _Posted:
    """`id` is the service's, 0 until it gave one; `owner` the unique name of the service that did."""

    words: tuple[str, str, str]  # summary, body, colour
    id: int = 0
    owner: str = ""
    busy: bool = False
    gone: bool = field(default=False)


class Service(QObject):
    """The person's notification service. `failed`: there is none that would show it."""

    tapped = Signal(str, int)
    dismissed = Signal(str, int)
    failed = Signal(str)

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self._bus: Bus | None = None
        self._reader: QSocketNotifier | None = None
        self._writer: QSocketNotifier | None = None
        self._posted: dict[Key, _Posted] = {}

    def post(self, key: Key, summary: str, body: str, colour: str) -> None:
        """Show it, in the place of what `key` was before. `colour` is "#rrggbb"."""
        posted = self._posted.setdefault(key, _Posted(("", "", "")))
        posted.words, posted.gone = (summary, body, colour), False
        while len(self._posted) > _MAX:
            self.withdraw(next(iter(self._posted)))
        if not posted.busy:
            self._send(key, posted)

    def withdraw(self, key: Key) -> None:
        posted = self._posted.pop(key, None)
        if posted is not None:
            posted.gone = True
            self._close(posted)

    def withdraw_all(self, workspace: str = "") -> None:
        """Those of a workspace, or all."""
        for key in [key for key in self._posted if workspace in ("", key[0])]:
            self.withdraw(key)

    def close(self) -> None:
        self.withdraw_all()
        self._lost()

    # -- there ----------------------------------------------------------------------------------------------------------

    def _send(self, key: Key, posted: _Posted) -> None:
        # Each time: the service may be another program by now. A body is text to one and markup to the other.
        posted.busy = True
        self._ask("GetCapabilities", then=partial(self._able, key, posted))

    def _able(self, key: Key, posted: _Posted, answer: Message | None) -> None:
        if answer is None or answer.kind != bus.RETURN:
            self._fail(key, posted)
            return
        (able,) = answer.args("as")
        summary, body, colour = words = posted.words
        if "body-markup" in able:
            body = body.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        # The frame's colour is a hint of dunst's; others pass over what they do not know.
        hints = {"urgency": ("y", 1), "frcolor": ("s", colour)}
        self._ask("Notify", "susssasa{sv}i", _OURS, posted.id, "", summary, body, ["default", "Open"], hints, -1,
                  then=partial(self._shown, key, posted, words))  # fmt: skip

    def _shown(self, key: Key, posted: _Posted, words: tuple[str, str, str], answer: Message | None) -> None:
        if answer is None or answer.kind != bus.RETURN:
            self._fail(key, posted)
            return
        posted.busy = False
        (posted.id,) = answer.args("u")
        posted.owner = answer.sender
        if posted.gone:
            self._close(posted)
        elif posted.words is not words:
            self._send(key, posted)

    def _fail(self, key: Key, posted: _Posted) -> None:
        posted.busy = False
        if self._posted.get(key) is posted:
            del self._posted[key]
            self.failed.emit(key[0])

    def _close(self, posted: _Posted) -> None:
        if posted.id and not posted.busy:
            self._ask("CloseNotification", "u", posted.id)

    # -- back -----------------------------------------------------------------------------------------------------------

    def _heard(self, untrusted_signal: Message) -> None:
        if untrusted_signal.kind != bus.SIGNAL or untrusted_signal.interface != NAME:
            return
        try:
            if untrusted_signal.member == "ActionInvoked":
                number, action = untrusted_signal.args("us")
            elif untrusted_signal.member == "NotificationClosed":
                (number, _), action = untrusted_signal.args("uu"), ""
            else:
                return
        except bus.Malformed:
            return
        # Any program may send us a signal; only whoever shows it can say what became of it.
        of = [key for key, each in self._posted.items() if (each.id, each.owner) == (number, untrusted_signal.sender)]
        for key in of:
            if action == "default":
                self.withdraw(key)
                self.tapped.emit(*key)
            elif not action:
                del self._posted[key]
                self.dismissed.emit(*key)

    # -- the bus --------------------------------------------------------------------------------------------------------

    def _ask(
        self, member: str, signature: str = "", *args: Any, then: Callable[[Message | None], None] | None = None
    ) -> None:
        try:
            self._connect().call(NAME, PATH, NAME, member, signature, *args, then=then)
            self._flush()
        except OSError:
            self._lost()
            if then is not None:
                then(None)

    def _connect(self) -> Bus:
        if self._bus is None:
            self._bus = Bus(self._address, self._heard)
            self._bus.call(bus.BUS, bus.BUS_PATH, bus.BUS, "AddMatch", "s", _MATCH)
            self._reader = QSocketNotifier(self._bus.fd, QSocketNotifier.Type.Read, self)
            self._reader.activated.connect(self._read)
            self._writer = QSocketNotifier(self._bus.fd, QSocketNotifier.Type.Write, self)
            self._writer.activated.connect(self._flush)
        return self._bus

    def _read(self) -> None:
        try:
            if self._bus is not None:
                self._bus.read()
            self._flush()
        except OSError:
            self._lost()

    def _flush(self) -> None:
        if self._bus is not None and self._writer is not None:
            try:
                self._bus.flush()
            except OSError:
                self._lost()
                return
            self._writer.setEnabled(self._bus.pending)

    def _lost(self) -> None:
        """The bus has gone, and with it whoever showed something."""
        for each in (self._reader, self._writer):
            if each is not None:
                each.setEnabled(False)
                each.deleteLater()
        self._reader = self._writer = None
        found, self._bus = self._bus, None
        if found is not None:
            found.close()
        for key, posted in list(self._posted.items()):
            posted.id = 0
            self._fail(key, posted)


def address(environment: Mapping[str, str]) -> str:
    """The person's session bus; empty where there is none."""
    named = environment.get("DBUS_SESSION_BUS_ADDRESS", "")
    usual = Path(environment.get("XDG_RUNTIME_DIR", "/nowhere"), "bus")  # where other programs look too
    return named or (f"unix:path={usual}" if usual.exists() else "")


class Bell(QObject):
    """`tapped` carries a workspace and a notification that its person wants; `dismissed` one that they put away."""

    marked = Signal()

    def __init__(self, note: Note, service: Service) -> None:
        super().__init__()
        self._note, self._service = note, service
        self.tapped, self.dismissed = service.tapped, service.dismissed
        self.marks: set[str] = set()
        service.failed.connect(self._mark, Qt.ConnectionType.QueuedConnection)

    def heard(self, event: dict[str, Any], card: Card, *, front: str) -> None:
        """The agent's event `notice` or `notice-gone`; `front` is the workspace in front of the person, or empty."""
        number = event.get("notice")
        if type(number) is not int:
            return
        key = card.name, number
        if event.get("event") == "notice-gone":
            self._service.withdraw(key)
            return
        name, summary, body = (str(event.get(part) or "") for part in ("name", "summary", "body"))
        head = f"{card.title}: {summary or name or 'a notification'}"
        if not front:
            self._service.post(key, head, body, card.colour)
            return
        self._note.say(f"{head} · {body}" if body else head, look.BUSY, _NOTE)
        if front != card.name:
            self._mark(card.name)

    def forget(self) -> None:
        """The agent was away: it tells anew what still holds."""
        self._service.withdraw_all()

    def seen(self, workspace: str) -> None:
        """It is in front."""
        self.marks.discard(workspace)

    def leave(self, workspace: str) -> None:
        """It has gone from this device."""
        self.marks.discard(workspace)
        self._service.withdraw_all(workspace)

    def close(self) -> None:
        self._service.close()

    def _mark(self, workspace: str) -> None:
        self.marks.add(workspace)
        self.marked.emit()
