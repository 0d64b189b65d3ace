"""The probe: time, keys, touches, buttons and text of this guest as pixels (see marks). Started by tests as an application.

`twofold-probe` shows a strip at the top left that takes no focus and counts every key press, touch and button of the X server;
`twofold-probe-calm` is the same for a guest that is translated, and must not be kept busy by its own clock.
`twofold-probe-text` is a window with a text field; what arrives in it, composed as any application would, is shown as marks.
"""

from __future__ import annotations

import ctypes as c
import locale
import os
import select
import signal
import sys
import time
from typing import Any

from twofold.guest import marks
from twofold.guest.xlib import Display, Event, library

_p, _l, _i, _u = c.c_void_p, c.c_long, c.c_int, c.c_ulong
TICK = 0.020  # seconds
_KEY_PRESS, _FOCUS_IN, _EXPOSE, _GENERIC, _CLIENT_MESSAGE = 2, 9, 12, 35, 33
_KEY_MASK, _EXPOSURE_MASK, _FOCUS_MASK = 1, 1 << 15, 1 << 21
_RAW_KEY_PRESS, _RAW_BUTTON_PRESS, _RAW_TOUCH_BEGIN = 13, 15, 22  # XI2
_TOUCH_AXIS = 0x10000  # xf86-input-libinput gives touches on axes of 0 to 0xffff


class _Rectangle(c.Structure):
    _fields_ = [("x", c.c_short), ("y", c.c_short), ("width", c.c_ushort), ("height", c.c_ushort)]


class _Attributes(c.Structure):
    _fields_ = [
        ("background_pixmap", _u), ("background", _u), ("border_pixmap", _u), ("border", _u), ("bit_gravity", _i),
        ("win_gravity", _i), ("backing", _i), ("planes", _u), ("pixel", _u), ("save_under", _i), ("events", _l),
        ("no_propagate", _l), ("redirect", _i), ("colormap", _u), ("cursor", _u),
    ]  # fmt: skip


class _Cookie(c.Structure):
    _fields_ = [("type", _i), ("serial", _u), ("send", _i), ("display", _p), ("extension", _i), ("evtype", _i),
                ("cookie", c.c_uint), ("data", _p)]  # fmt: skip


class _Valuators(c.Structure):
    _fields_ = [("mask_length", _i), ("mask", c.POINTER(c.c_ubyte)), ("values", c.POINTER(c.c_double))]


class _RawEvent(c.Structure):
    _fields_ = [
        ("type", _i), ("serial", _u), ("send", _i), ("display", _p), ("extension", _i), ("evtype", _i), ("time", _u),
        ("device", _i), ("source", _i), ("detail", _i), ("flags", _i), ("valuators", _Valuators), ("raw", _p),
    ]  # fmt: skip


class _EventMask(c.Structure):
    _fields_ = [("device", _i), ("length", _i), ("mask", c.POINTER(c.c_ubyte))]


_MORE: dict[str, tuple[Any, list[Any]]] = {
    "XCreateWindow": (_u, [_p, _u, _i, _i, c.c_uint, c.c_uint, c.c_uint, _i, c.c_uint, _p, _u, _p]),
    "XCreateGC": (_p, [_p, _u, _u, _p]), "XSetForeground": (_i, [_p, _p, _u]), "XMapRaised": (_i, [_p, _u]),
    "XRaiseWindow": (_i, [_p, _u]), "XFillRectangles": (_i, [_p, _u, _p, c.POINTER(_Rectangle), _i]),
    "XFillRectangle": (_i, [_p, _u, _p, _i, _i, c.c_uint, c.c_uint]), "XStoreName": (_i, [_p, _u, c.c_char_p]),
    "XFilterEvent": (_i, [_p, _u]), "XSetLocaleModifiers": (c.c_char_p, [c.c_char_p]),
    "XOpenIM": (_p, [_p, _p, _p, _p]), "Xutf8LookupString": (_i, [_p, _p, c.c_char_p, _i, _p, _p]),
    "XSetICFocus": (None, [_p]), "XQueryExtension": (_i, [_p, c.c_char_p, _p, _p, _p]), "XLookupString": (_i, [_p] * 5),
    "XmbResetIC": (_p, [_p]), "XSetWMProtocols": (_i, [_p, _u, _p, _i]),
    "XDrawString": (_i, [_p, _u, _p, _i, _i, c.c_char_p, _i]),
    "XGetEventData": (_i, [_p, _p]), "XFreeEventData": (None, [_p, _p]),
}  # fmt: skip


class Strip:
    """A window without frame or focus, `rows` rows of marks high, at the left edge of the screen."""

    def __init__(self, display: Display, top: int, rows: int) -> None:
        self._d = display
        self._x = library("libX11.so.6", _MORE)
        cell = marks.CELL
        attributes = _Attributes(events=_EXPOSURE_MASK, redirect=1, background=0)
        self.window: int = self._x.XCreateWindow(
            display.handle, display.root, 0, top, marks.COLUMNS * cell, rows * 2 * cell, 0, 0, 1, None,
            1 << 1 | 1 << 9 | 1 << 11, c.byref(attributes),
        )  # fmt: skip
        pid = c.c_long(os.getpid())
        display.set_property(self.window, "_NET_WM_PID", "CARDINAL", 32, bytes(pid))
        self._white = self._gc(0xFFFFFF)
        self._black = self._gc(0x000000)
        self._drawn: list[int | None] = [None] * rows
        self._buffer = (_Rectangle * (2 * marks.COLUMNS))()
        self._x.XMapRaised(display.handle, self.window)

    def _gc(self, colour: int) -> Any:
        gc = self._x.XCreateGC(self._d.handle, self.window, 0, None)
        self._x.XSetForeground(self._d.handle, gc, colour)
        return gc

    def forget(self) -> None:
        """Everything has to be drawn anew."""
        self._drawn = [None] * len(self._drawn)

    def raise_(self) -> None:
        self._x.XRaiseWindow(self._d.handle, self.window)

    def draw(self, index: int, row: int) -> None:
        """Draw the squares of a row that changed."""
        before = self._drawn[index]
        if before == row:
            return
        full = (1 << marks.COLUMNS) - 1
        changed = full if before is None else before ^ row
        for ones, upper, lower in (
            (changed & row, self._white, self._black),
            (changed & ~row & full, self._black, self._white),
        ):
            if ones:
                self._fill(ones, index * 2, upper)
                self._fill(ones, index * 2 + 1, lower)
        self._drawn[index] = row

    def _fill(self, bits: int, line: int, gc: Any) -> None:
        count, cell, top = 0, marks.CELL, line * marks.CELL
        while bits:
            high = bits.bit_length() - 1
            bits ^= 1 << high
            rectangle = self._buffer[count]
            rectangle.x, rectangle.y, rectangle.width, rectangle.height = (
                (marks.COLUMNS - 1 - high) * cell,
                top,
                cell,
                cell,
            )
            count += 1
        self._x.XFillRectangles(self._d.handle, self.window, gc, self._buffer, count)


class _Counts:
    """What has come in since the probe was started."""

    def __init__(self, display: Display) -> None:
        self._d = display
        self._x = library("libX11.so.6", _MORE)
        self._opcode = _select_raw(display)
        self.presses = self.buttons = self.touches = 0
        self.touched = (0, 0)  # 4096ths of the screen

    def take(self, event: Event) -> None:
        cookie = c.cast(c.byref(event), c.POINTER(_Cookie)).contents
        if cookie.extension != self._opcode:
            return
        if cookie.evtype == _RAW_KEY_PRESS:
            self.presses += 1
        elif cookie.evtype == _RAW_BUTTON_PRESS:
            self.buttons += 1
        elif cookie.evtype == _RAW_TOUCH_BEGIN:
            self.touches += 1
            if self._x.XGetEventData(self._d.handle, c.byref(cookie)):
                self.touched = _place(c.cast(cookie.data, c.POINTER(_RawEvent)).contents.valuators)
                self._x.XFreeEventData(self._d.handle, c.byref(cookie))


def _place(valuators: _Valuators) -> tuple[int, int]:
    """The first two axes, which are a touch's place. Only axes that the mask names have a value."""
    if valuators.mask_length < 1 or valuators.mask[0] & 3 != 3:
        return 0, 0
    x, y = (min(max(int(valuators.values[axis] * 4096 / _TOUCH_AXIS), 0), 4095) for axis in (0, 1))
    return x, y


def watch(tick: float = TICK) -> None:
    """The strip with time, key presses, touches and button presses."""
    display = Display(os.environ.get("DISPLAY", ":0"))
    strip = Strip(display, 0, 2)
    counts, at = _Counts(display), time.monotonic()
    poll = select.poll()
    poll.register(display.fd, select.POLLIN)
    while True:
        for event in display.events():
            if event.type == _EXPOSE:
                strip.forget()
            elif event.type == _GENERIC:
                counts.take(event)
        strip.draw(0, marks.status_row(time.time_ns() // 1_000_000, counts.presses))
        strip.draw(1, marks.pointing_row(counts.touches, counts.buttons, *counts.touched))
        display.x.XFlush(display.handle)
        now = time.monotonic()
        at = max(at + tick, now)
        poll.poll((at - now) * 1000)


def _select_raw(display: Display) -> int:
    """Ask for every key, button and touch, whoever has the focus (XI2 raw events); returns the extension's opcode."""
    opcode, first, error = _i(), _i(), _i()
    x = library("libX11.so.6", _MORE)
    x.XQueryExtension(display.handle, b"XInputExtension", c.byref(opcode), c.byref(first), c.byref(error))
    xi = library("libXi.so.6", {"XISelectEvents": (_i, [_p, _u, _p, _i]), "XIQueryVersion": (_i, [_p, _p, _p])})
    major, minor = _i(2), _i(2)
    xi.XIQueryVersion(display.handle, c.byref(major), c.byref(minor))
    bits = (c.c_ubyte * 4)()
    for kind in (_RAW_KEY_PRESS, _RAW_BUTTON_PRESS, _RAW_TOUCH_BEGIN):
        bits[kind >> 3] |= 1 << (kind & 7)
    mask = _EventMask(1, 4, c.cast(bits, c.POINTER(c.c_ubyte)))  # 1: all master devices
    xi.XISelectEvents(display.handle, display.root, c.byref(mask), 1)
    return opcode.value


def field() -> None:
    """The window with a text field, and the strip with what it holds."""
    locale.setlocale(locale.LC_ALL, "")
    display = Display(os.environ.get("DISPLAY", ":0"))
    x = library("libX11.so.6", _MORE)
    x.XSetLocaleModifiers(b"")
    attributes = _Attributes(events=_KEY_MASK | _EXPOSURE_MASK | _FOCUS_MASK, background=0xFFFFFF)
    window = x.XCreateWindow(display.handle, display.root, 20, 220, 360, 120, 0, 0, 1, None, 1 << 1 | 1 << 11,
                             c.byref(attributes))  # fmt: skip
    x.XStoreName(display.handle, window, b"Twofold text probe")
    display.set_property(window, "WM_CLASS", "STRING", 8, b"twofold-probe-text\0twofold-probe-text\0")
    display.set_property(window, "_NET_WM_PID", "CARDINAL", 32, bytes(c.c_long(os.getpid())))
    delete = _u(display.atom("WM_DELETE_WINDOW"))
    x.XSetWMProtocols(display.handle, window, c.byref(delete), 1)
    context = _input_context(x, display, window)
    x.XMapRaised(display.handle, window)
    strip: Strip | None = None  # there once the field has the focus: who sees it may type
    text = ""
    while True:
        if strip is not None:
            for index, row in enumerate(marks.text_rows(text)):
                strip.draw(index, row)
        display.x.XFlush(display.handle)
        event = Event()
        display.x.XNextEvent(display.handle, c.byref(event))
        if x.XFilterEvent(c.byref(event), 0):
            continue
        if event.type == _FOCUS_IN and strip is None:
            strip = Strip(display, marks.TEXT_TOP, marks.TEXT_ROWS)
        elif event.type == _EXPOSE and strip is not None:
            strip.forget()
            strip.raise_()
        elif event.type == _CLIENT_MESSAGE and event.message.data[0] == delete.value:
            return
        elif event.type == _KEY_PRESS:
            buffer, keysym, status = c.create_string_buffer(64), _u(), _i()
            length = x.Xutf8LookupString(context, c.byref(event), buffer, 63, c.byref(keysym), c.byref(status))
            if keysym.value == 0xFF08:  # BackSpace
                text = text[:-1]
            elif length > 0:
                text += "".join(
                    letter for letter in buffer.raw[:length].decode("utf-8", "replace") if letter.isprintable()
                )
            text = text[-marks.MAX_TEXT :]


def _input_context(x: c.CDLL, display: Display, window: int) -> Any:
    """Xlib's own input method: compose sequences and dead keys by the locale's table."""
    method = x.XOpenIM(display.handle, None, None, None)
    if not method:
        raise SystemExit("no input method")
    create = x.XCreateIC
    create.restype = _p
    # Variadic: name, value, ..., NULL. 0x0408: no preedit, no status window.
    create.argtypes = [_p, c.c_char_p, _l, c.c_char_p, _u, c.c_char_p, _u, _p]
    context = create(method, b"inputStyle", 0x0408, b"clientWindow", window, b"focusWindow", window, None)
    x.XSetICFocus(context)
    return context


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.argv[1:] == ["text"]:
        field()
    else:
        watch(*(int(each) / 1000 for each in sys.argv[1:]))
