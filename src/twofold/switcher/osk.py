"""The person's own on-screen keyboard, opened where a text field in Work gets the focus and closed where it loses it.

It is asked over D-Bus as the shells of Linux phones ask theirs (squeekboard, Phosh): `sm.puri.OSK0`, SetVisible(b), Visible.
What it types comes like any other keyboard's.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from PySide6.QtCore import QEvent, QObject, QSocketNotifier, QTimer, Signal

from twofold.guest import bus
from twofold.guest.bus import Bus, Message

NAME, PATH = "sm.puri.OSK0", "/sm/puri/OSK0"
_PROPERTIES: Final = f"{bus.BUS}.Properties"
_MATCH: Final = f"type='signal',sender='{NAME}',path='{PATH}',interface='{_PROPERTIES}',member='PropertiesChanged'"
_OWNER: Final = f"type='signal',sender='{bus.BUS}',member='NameOwnerChanged',arg0='{NAME}'"
_AGAIN: Final = 30_000  # ms after which a bus that went is looked for again
_ANSWERS: Final = 3.0  # seconds in which what was asked for is seen to be so
_LINGERS: Final = 300  # ms that the keyboard stays for the next field
_OPENINGS, _WITHIN = 3, 10.0  # a guest opens it so often in so many seconds


class Board(QObject):
    """`changed` says that it was opened or closed by somebody else, `came` that there is one (again)."""

    changed = Signal(bool)
    came = Signal()

    def __init__(self, address: str) -> None:
        super().__init__()
        self.visible = False
        self._address, self._owner = address, ""
        self._bus: Bus | None = None
        self._notifiers: list[QSocketNotifier] = []
        self._wanted: deque[tuple[bool, float]] = deque(maxlen=8)  # what was asked for and not seen yet, and when
        self._again = QTimer(self, singleShot=True, interval=_AGAIN)
        self._again.timeout.connect(self._connect)
        if address:
            self._connect()

    def show(self, on: bool) -> None:
        if on == self.visible or not self._owner:
            return
        self.visible = on
        self._wanted.append((on, time.monotonic()))
        self._ask(NAME, PATH, NAME, "SetVisible", "b", on)

    def close(self) -> None:
        self._lost()
        self._again.stop()

    def _connect(self) -> None:
        try:
            self._bus = Bus(self._address, self._heard)
        except OSError:
            self._again.start()
            return
        for kind, slot in ((QSocketNotifier.Type.Read, self._read), (QSocketNotifier.Type.Write, self._flush)):
            self._notifiers.append(QSocketNotifier(self._bus.fd, kind, self))
            self._notifiers[-1].activated.connect(slot)
        for match in (_MATCH, _OWNER):
            self._ask(bus.BUS, bus.BUS_PATH, bus.BUS, "AddMatch", "s", match)
        self._look()

    def _look(self) -> None:
        self._ask(NAME, PATH, _PROPERTIES, "Get", "ss", NAME, "Visible", then=self._seen)

    def _seen(self, answer: Message) -> None:
        self._owner, self.visible = "", False
        self._wanted.clear()
        if answer.kind == bus.RETURN:
            try:
                ((kind, value),) = answer.args("v")
            except bus.Malformed:
                return
            self._owner, self.visible = answer.sender, kind == "b" and value is True
            self.came.emit()

    def _heard(self, untrusted_signal: Message) -> None:
        if untrusted_signal.kind != bus.SIGNAL:
            return
        try:
            if untrusted_signal.sender == bus.BUS and untrusted_signal.member == "NameOwnerChanged":
                untrusted_signal.args("sss")
                self._look()
            elif self._owner == untrusted_signal.sender and untrusted_signal.member == "PropertiesChanged":
                _, changed, _ = untrusted_signal.args("sa{sv}as")
                kind, value = changed.get("Visible", ("", None))
                if kind == "b":
                    self._is(value)
        except bus.Malformed:
            return

    def _is(self, visible: bool) -> None:
        late = time.monotonic() - _ANSWERS
        mine = [wanted for wanted, at in self._wanted if at > late]
        if visible in mine:
            while self._wanted.popleft()[0] != visible:
                pass
            if not self._wanted:
                self.visible = visible
        elif visible != self.visible:
            self.visible = visible
            self.changed.emit(visible)

    def _ask(
        self, to: str, path: str, interface: str, member: str, signature: str, *args: object,
        then: Callable[[Message], None] = lambda _: None,
    ) -> None:  # fmt: skip
        if self._bus is not None:
            try:
                self._bus.call(to, path, interface, member, signature, *args, then=then)
            except OSError:
                self._lost()
            self._flush()

    def _read(self) -> None:
        if self._bus is not None:
            try:
                self._bus.read()
            except OSError:
                self._lost()
            self._flush()

    def _flush(self) -> None:
        if self._bus is not None:
            try:
                self._bus.flush()
                self._notifiers[1].setEnabled(self._bus.pending)
            except OSError:
                self._lost()

    def _lost(self) -> None:
        for each in self._notifiers:
            each.setEnabled(False)
            each.deleteLater()
        self._notifiers.clear()
        found, self._bus = self._bus, None
        self.visible, self._owner = False, ""
        if found is not None:
            found.close()
            self._again.start()


class Opener(QObject):
    """When it is opened and closed. `board` is None where the person has keys.

    What the person closed stays closed until they touched something and another field got the focus; what they opened stays
    until a field that had the focus has lost it.
    """

    def __init__(self, board: Board | None) -> None:
        super().__init__()
        self._board = board
        self._kinds: dict[str, str] = {}
        self._closed: dict[str, float] = {}  # by the person's hand, and when
        self._front, self._live = "", False
        self._ours = False  # it goes when the field has
        self._touched = 0.0
        self._opened: deque[float] = deque(maxlen=_OPENINGS)
        self._going = QTimer(self, singleShot=True, interval=_LINGERS)
        self._going.timeout.connect(self._close)
        if board is not None:
            board.changed.connect(self._by_hand)
            board.came.connect(self._follow)

    def heard(self, workspace: str, kind: str) -> None:
        """The agent's event: a field of this kind has got the focus there, or, empty, none has it now."""
        self._kinds[workspace] = kind
        if kind and self._closed.get(workspace, self._touched) <= self._touched:
            self._closed.pop(workspace, None)
        if workspace == self._front:
            self._follow()

    def forget(self) -> None:
        """The agent was away: it tells anew what still holds."""
        self._kinds.clear()
        self._follow()

    def stands(self, workspace: str, *, live: bool) -> None:
        """Which workspace has the person's keys, or none; `live`: its picture is its screen as it is now."""
        if (workspace, live) == (self._front, self._live):
            return
        left, self._front, self._live = workspace != self._front, workspace, live
        if left:
            self._opened.clear()  # no guest changes sides
            if not self._kind:
                self._close()
        self._follow()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """The person touches Work."""
        if event.type() in (QEvent.Type.TouchBegin, QEvent.Type.MouseButtonPress):
            self._touched = time.monotonic()
        return False

    def close(self) -> None:
        if self._board is not None:
            self._close()
            self._board.close()

    @property
    def _kind(self) -> str:
        return self._kinds.get(self._front, "")

    def _follow(self) -> None:
        if self._board is None:
            return
        if not self._kind:
            if self._ours:
                self._going.start()
            return
        self._going.stop()
        if self._front in self._closed:
            return
        if self._board.visible:
            self._ours = True
        elif self._live and self._may_open():
            self._ours = True
            self._board.show(True)

    def _may_open(self) -> bool:
        """What is opened again and again nobody asked for."""
        now = time.monotonic()
        if len(self._opened) == _OPENINGS and now - self._opened[0] < _WITHIN:
            return False
        self._opened.append(now)
        return True

    def _close(self) -> None:
        self._going.stop()
        if self._ours and self._board is not None:
            self._ours = False
            self._board.show(False)

    def _by_hand(self, visible: bool) -> None:
        if visible:
            self._closed.pop(self._front, None)
            self._ours = bool(self._kind)
        else:
            self._ours = False
            if self._kind:
                self._closed[self._front] = time.monotonic()


def opener(address: str, *, phone: bool) -> Opener:
    """For the person whose session's bus is at `address`; where they have keys to type with, one that opens nothing."""
    try:
        touched = phone or keyless(Path("/proc/bus/input/devices").read_text())
    except OSError:
        touched = False
    return Opener(Board(address) if touched else None)


def keyless(devices: str) -> bool:
    """Whether this device is touched and has no keyboard, from /proc/bus/input/devices (linux/input-event-codes.h)."""
    touched = False
    for device in devices.split("\n\n"):
        bits = {name: _bits(value) for name, value in re.findall(r"^B: (\w+)=([0-9a-f ]+)$", device, re.M)}
        keys = bits.get("KEY", 0)
        if all(keys >> code & 1 for code in range(16, 26)):  # Q to P
            return False
        # BTN_TOUCH, and what is touched is the picture itself (INPUT_PROP_DIRECT)
        touched = touched or bool(keys >> 0x14A & 1 and bits.get("PROP", 0) & 2)
    return touched


def _bits(words: str) -> int:
    """Words of 64 bits, the highest first and without its zeros."""
    value = 0
    for word in words.split():
        value = value << 64 | int(word, 16)
    return value
