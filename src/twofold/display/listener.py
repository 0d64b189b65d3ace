"""The end at which QEMU tells us of its screen (org.qemu.Display1.Listener and .Unix.Map, QEMU's ui/dbus-display1.xml)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Final

from jeepney import HeaderFields, Message

from twofold.display.frame import Cursor, Frame, Rect, copied, mapped, patched
from twofold.display.wire import Wire, body, member
from twofold.model.errors import BadInputError

_MAP: Final = "org.qemu.Display1.Listener.Unix.Map"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_CURSOR_SIDE: Final = 256


class Picture:
    """What the guest's screen shows now. The I/O thread writes; a reader takes `frame` and, with `take`, what changed.

    `changed` is called when something has changed that was not yet told: damage between two `take`s is told once.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.frame: Frame | None = None
        self.cursor: Cursor | None = None
        self.serial = 0
        self._damage: Rect | None = None
        self._lock = threading.Lock()
        self._changed = changed

    def show(self, frame: Frame | None) -> None:
        with self._lock:
            self.frame, self._damage = frame, frame.whole if frame else None
            self.serial += 1
        self._changed()

    def define(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self._changed()

    def damage(self, rect: Rect) -> None:
        with self._lock:
            told = self._damage is not None
            self._damage = self._damage.united(rect) if self._damage else rect
        if not told:
            self._changed()

    def take(self) -> Rect | None:
        """What has changed since the last call, in guest pixels; None for nothing."""
        with self._lock:
            damage, self._damage = self._damage, None
        return damage


class Listener:
    """Serves one wire. `handle` raises BadInputError for what must not be; the wire is then to be closed."""

    def __init__(self, wire: Wire, picture: Picture) -> None:
        self.wire, self._picture = wire, picture
        self._verbs: dict[str, Callable[[Message], None]] = {
            "ScanoutMap": self._scanout_map,
            "UpdateMap": self._update_map,
            "Scanout": self._scanout,
            "Update": self._update,
            "Disable": self._disable,
            "MouseSet": lambda message: None,  # we show the person's own pointer, which is always ahead
            "CursorDefine": self._cursor,
        }

    def handle(self, message: Message) -> None:
        name = member(message)
        if not name:
            return
        if message.header.fields.get(HeaderFields.interface) == _PROPERTIES:
            self._property(name, message)
        elif (verb := self._verbs.get(name)) is not None:
            verb(message)
            self.wire.answer(message)
        else:
            self.wire.refuse(message)

    def _property(self, name: str, message: Message) -> None:
        if name == "Get":
            self.wire.answer(message, "v", ("as", [_MAP]))
        elif name == "GetAll":
            mine = message.body[0] == "org.qemu.Display1.Listener" if message.body else False
            self.wire.answer(message, "a{sv}", {"Interfaces": ("as", [_MAP])} if mine else {})
        else:
            self.wire.refuse(message)

    def _scanout_map(self, message: Message) -> None:
        untrusted: tuple[Any, ...] = body(message, "huuuuu")
        try:
            frame = mapped(*untrusted)
        finally:
            os.close(untrusted[0])
        self._picture.show(frame)

    def _update_map(self, message: Message) -> None:
        rect, frame = Rect(*body(message, "iiii")), self._picture.frame
        if frame is not None and (inside := rect.clipped(frame.width, frame.height)):
            self._picture.damage(inside)

    def _scanout(self, message: Message) -> None:
        self._picture.show(copied(*body(message, "uuuuay")))

    def _update(self, message: Message) -> None:
        x, y, width, height, stride, form, untrusted_pixels = body(message, "iiiiuuay")
        frame = self._picture.frame
        if frame is None or form != frame.format:
            raise BadInputError("The machine's display sent a part without a picture.")
        self._picture.damage(patched(frame, x, y, width, height, stride, untrusted_pixels))

    def _disable(self, message: Message) -> None:
        self._picture.show(None)

    def _cursor(self, message: Message) -> None:
        width, height, hot_x, hot_y, untrusted_pixels = body(message, "iiiiay")
        if (
            not (1 <= width <= _CURSOR_SIDE and 1 <= height <= _CURSOR_SIDE)
            or len(untrusted_pixels) < width * height * 4
        ):
            raise BadInputError("The machine's display sent a pointer of an impossible size.")
        hot = min(max(hot_x, 0), width - 1), min(max(hot_y, 0), height - 1)
        self._picture.define(Cursor(width, height, *hot, bytes(untrusted_pixels[: width * height * 4])))
