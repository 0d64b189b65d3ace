"""As much of Xlib as the session needs, through ctypes: one connection, no process for each question."""

from __future__ import annotations

import ctypes as c
import struct
from typing import Any

PROPERTY_CHANGE = 1 << 22
STRUCTURE = 1 << 17
SUBSTRUCTURE = 1 << 19
SUBSTRUCTURE_REDIRECT = 1 << 20
MAP_NOTIFY, PROPERTY_NOTIFY, CLIENT_MESSAGE, CONFIGURE_NOTIFY = 19, 28, 33, 22
ANY_TYPE = 0

_p, _l, _i, _u, _s = c.c_void_p, c.c_long, c.c_int, c.c_ulong, c.c_char_p
_ERRORS = c.CFUNCTYPE(_i, _p, _p)


# A window that went away between its event and our question is no error. The object must live as long as Xlib has it.
_ignore = _ERRORS(lambda _display, _error: 0)


class MapEvent(c.Structure):
    _fields_ = [
        ("type", _i),
        ("serial", _u),
        ("send", _i),
        ("display", _p),
        ("event", _u),
        ("window", _u),
        ("redirect", _i),
    ]


class PropertyEvent(c.Structure):
    _fields_ = [("type", _i), ("serial", _u), ("send", _i), ("display", _p), ("window", _u), ("atom", _u), ("time", _u),
                ("state", _i)]  # fmt: skip


class ClientMessage(c.Structure):
    _fields_ = [("type", _i), ("serial", _u), ("send", _i), ("display", _p), ("window", _u), ("kind", _u), ("format", _i),
                ("data", _l * 5)]  # fmt: skip


class Event(c.Union):
    _fields_ = [
        ("type", _i),
        ("map", MapEvent),
        ("property", PropertyEvent),
        ("message", ClientMessage),
        ("pad", _l * 24),
    ]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "XOpenDisplay": (_p, [_s]), "XDefaultRootWindow": (_u, [_p]), "XConnectionNumber": (_i, [_p]),
    "XInternAtom": (_u, [_p, _s, _i]), "XSelectInput": (_i, [_p, _u, _l]), "XPending": (_i, [_p]),
    "XNextEvent": (_i, [_p, _p]), "XFlush": (_i, [_p]), "XSync": (_i, [_p, _i]), "XFree": (_i, [_p]),
    "XGetWindowProperty": (_i, [_p, _u, _u, _l, _l, _i, _u, _p, _p, _p, _p, _p]),
    "XChangeProperty": (_i, [_p, _u, _u, _u, _i, _i, _p, _i]),
    "XCreateSimpleWindow": (_u, [_p, _u, _i, _i, c.c_uint, c.c_uint, c.c_uint, _u, _u]),
    "XSetSelectionOwner": (_i, [_p, _u, _u, _u]), "XGetSelectionOwner": (_u, [_p, _u]),
    "XSendEvent": (_i, [_p, _u, _i, _l, _p]), "XSetErrorHandler": (_p, [_ERRORS]),
    "XDisplayWidth": (_i, [_p, _i]), "XDisplayHeight": (_i, [_p, _i]),
    "XGrabServer": (_i, [_p]), "XUngrabServer": (_i, [_p]),
}  # fmt: skip


def library(name: str, signatures: dict[str, tuple[Any, list[Any]]]) -> c.CDLL:
    """Load a shared library and declare the functions used of it."""
    loaded = c.CDLL(name)
    for function, (result, arguments) in signatures.items():
        found = getattr(loaded, function)
        found.restype, found.argtypes = result, arguments
    return loaded


class Display:
    """A connection to the X server. When the server goes, Xlib ends this process; whoever started it starts another.

    Raises:
        OSError: no X server answers at `name`.
    """

    def __init__(self, name: str = ":0") -> None:
        self.x = library("libX11.so.6", _SIGNATURES)
        self.x.XSetErrorHandler(_ignore)
        self.handle = self.x.XOpenDisplay(name.encode())
        if not self.handle:
            raise OSError(f"no X server at {name}")
        self.root: int = self.x.XDefaultRootWindow(self.handle)
        self.fd: int = self.x.XConnectionNumber(self.handle)
        self._atoms: dict[str, int] = {}

    def atom(self, name: str) -> int:
        if name not in self._atoms:
            self._atoms[name] = self.x.XInternAtom(self.handle, name.encode(), 0)
        return self._atoms[name]

    def property(self, window: int, name: str, limit: int = 16_384) -> tuple[int, bytes] | None:
        """The (format, bytes) of a property, or None. Format 32 comes as C longs, as Xlib gives it."""
        kind, form, count, left = _u(), _i(), _u(), _u()
        data = _p()
        status = self.x.XGetWindowProperty(
            self.handle, window, self.atom(name), 0, limit // 4, 0, ANY_TYPE,
            c.byref(kind), c.byref(form), c.byref(count), c.byref(left), c.byref(data),
        )  # fmt: skip
        if status != 0 or not data.value:
            return None
        try:
            width = {8: 1, 16: 2, 32: c.sizeof(_l)}.get(form.value, 0)
            return (form.value, c.string_at(data.value, count.value * width)) if width and kind.value else None
        finally:
            self.x.XFree(data)

    def numbers(self, window: int, name: str) -> list[int]:
        found = self.property(window, name)
        if found is None or found[0] != 32:
            return []
        return list(struct.unpack(f"{len(found[1]) // c.sizeof(_l)}L", found[1]))

    def words(self, window: int, name: str) -> str:
        found = self.property(window, name)
        return found[1].decode("utf-8", "replace") if found is not None and found[0] == 8 else ""

    def set_property(self, window: int, name: str, kind: str, form: int, data: bytes) -> None:
        """Replace a property; `data` in bytes for format 8, in C longs for format 32."""
        count = len(data) if form == 8 else len(data) // c.sizeof(_l)
        self.x.XChangeProperty(self.handle, window, self.atom(name), self.atom(kind), form, 0, data, count)

    def select(self, window: int, mask: int) -> None:
        self.x.XSelectInput(self.handle, window, mask)

    def events(self) -> list[Event]:
        """What has come in; never waits."""
        out: list[Event] = []
        while self.x.XPending(self.handle):
            event = Event()
            self.x.XNextEvent(self.handle, c.byref(event))
            out.append(event)
        return out

    def tell_root(self, kind: str, *data: int, window: int = 0) -> None:
        """A client message to the root window (about `window`), the way window managers are spoken to."""
        event = Event()
        event.message.type, event.message.window, event.message.format = CLIENT_MESSAGE, window or self.root, 32
        event.message.kind = self.atom(kind)
        for index, value in enumerate(data):
            event.message.data[index] = value
        mask = SUBSTRUCTURE | SUBSTRUCTURE_REDIRECT
        self.x.XSendEvent(self.handle, self.root, 0, mask, c.byref(event))
        self.x.XFlush(self.handle)

    def sync(self) -> None:
        self.x.XSync(self.handle, 0)
