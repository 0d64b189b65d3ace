"""The screen's size: any size, exactly, as a mode of the guest's own (X Resize and Rotate extension 1.5)."""

from __future__ import annotations

import ctypes as c
from typing import Any

from twofold.guest.xlib import Display, library

_p, _u, _i, _n = c.c_void_p, c.c_ulong, c.c_int, c.c_uint


class ModeInfo(c.Structure):
    _fields_ = [
        ("id", _u), ("width", _n), ("height", _n), ("dot_clock", _u), ("h_start", _n), ("h_end", _n), ("h_total", _n),
        ("h_skew", _n), ("v_start", _n), ("v_end", _n), ("v_total", _n), ("name", c.c_char_p), ("name_length", _n),
        ("flags", _u),
    ]  # fmt: skip


class Resources(c.Structure):
    _fields_ = [
        ("time", _u), ("config_time", _u), ("crtcs_n", _i), ("crtcs", c.POINTER(_u)), ("outputs_n", _i),
        ("outputs", c.POINTER(_u)), ("modes_n", _i), ("modes", c.POINTER(ModeInfo)),
    ]  # fmt: skip


class OutputInfo(c.Structure):
    _fields_ = [
        ("time", _u), ("crtc", _u), ("name", c.c_char_p), ("name_length", _i), ("mm_width", _u), ("mm_height", _u),
        ("connection", c.c_ushort), ("subpixel", c.c_ushort), ("crtcs_n", _i), ("crtcs", c.POINTER(_u)),
        ("clones_n", _i), ("clones", c.POINTER(_u)), ("modes_n", _i), ("preferred_n", _i), ("modes", c.POINTER(_u)),
    ]  # fmt: skip


class CrtcInfo(c.Structure):
    _fields_ = [("time", _u), ("x", _i), ("y", _i), ("width", _n), ("height", _n), ("mode", _u)]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "XRRGetScreenResourcesCurrent": (c.POINTER(Resources), [_p, _u]), "XRRFreeScreenResources": (None, [_p]),
    "XRRGetOutputInfo": (c.POINTER(OutputInfo), [_p, _p, _u]), "XRRFreeOutputInfo": (None, [_p]),
    "XRRGetCrtcInfo": (c.POINTER(CrtcInfo), [_p, _p, _u]), "XRRFreeCrtcInfo": (None, [_p]),
    "XRRCreateMode": (_u, [_p, _u, _p]), "XRRAddOutputMode": (None, [_p, _u, _u]),
    "XRRDeleteOutputMode": (None, [_p, _u, _u]), "XRRDestroyMode": (None, [_p, _u]),
    "XRRSetCrtcConfig": (_i, [_p, _p, _u, _u, _i, _i, _u, c.c_ushort, c.POINTER(_u), _i]),
    "XRRSetScreenSize": (None, [_p, _u, _i, _i, _i, _i]), "XRRQueryExtension": (_i, [_p, _p, _p]),
    "XRRSelectInput": (None, [_p, _u, _i]), "XRRUpdateConfiguration": (_i, [_p]),
}  # fmt: skip
_ROTATE_0 = 1


class Screen:
    """The one screen of the guest."""

    def __init__(self, display: Display) -> None:
        self._d = display
        self._r = library("libXrandr.so.2", _SIGNATURES)
        self._ours: int = 0

    def size(self) -> tuple[int, int]:
        """What is shown now, from the server, not from what Xlib remembers."""
        resources = self._r.XRRGetScreenResourcesCurrent(self._d.handle, self._d.root)
        try:
            return self._current(resources)[2:]
        finally:
            self._r.XRRFreeScreenResources(resources)

    def resize(self, width: int, height: int, dpi: int) -> tuple[int, int]:
        """Show exactly `width` x `height` pixels where the driver can; returns what is shown then."""
        resources = self._r.XRRGetScreenResourcesCurrent(self._d.handle, self._d.root)
        try:
            output, crtc, *_ = self._current(resources)
            if not output or not crtc:
                return self.size()
            if self.size() != (width, height):
                self._set(resources, output, crtc, width, height, dpi)
        finally:
            self._r.XRRFreeScreenResources(resources)
        self._d.sync()
        return self.size()

    def _set(self, resources: Any, output: int, crtc: int, width: int, height: int, dpi: int) -> None:
        mode, made = self._mode(resources, output, width, height)
        old_width, old_height = self.size()
        outputs = (_u * 1)(output)
        self._d.x.XGrabServer(self._d.handle)
        # The screen holds both sizes while the mode changes, so that the picture is never cut off.
        self._screen(max(old_width, width), max(old_height, height), dpi)
        status = self._r.XRRSetCrtcConfig(self._d.handle, resources, crtc, 0, 0, 0, mode, _ROTATE_0, outputs, 1)
        self._screen(*((width, height) if status == 0 else (old_width, old_height)), dpi)
        self._d.x.XUngrabServer(self._d.handle)
        self._d.sync()
        stale, self._ours = self._ours, made if status == 0 else self._ours
        if status != 0:
            stale = made
        if stale and stale != self._ours:
            self._r.XRRDeleteOutputMode(self._d.handle, output, stale)
            self._r.XRRDestroyMode(self._d.handle, stale)

    def _screen(self, width: int, height: int, dpi: int) -> None:
        millimetres = (round(width * 25.4 / dpi), round(height * 25.4 / dpi))
        self._r.XRRSetScreenSize(self._d.handle, self._d.root, width, height, *millimetres)

    def _mode(self, resources: Any, output: int, width: int, height: int) -> tuple[int, int]:
        """A mode of that size on the output, and the one made for it now (0: it had one)."""
        facts = self._r.XRRGetOutputInfo(self._d.handle, resources, output)
        try:
            has = {facts.contents.modes[index] for index in range(facts.contents.modes_n)}
        finally:
            self._r.XRRFreeOutputInfo(facts)
        for index in range(resources.contents.modes_n):
            mode = resources.contents.modes[index]
            if mode.id in has and (mode.width, mode.height) == (width, height):
                return mode.id, 0
        name = f"twofold-{width}x{height}".encode()
        # Timings mean nothing to a virtual screen; they have to be in order, and 60 Hz.
        h_total, v_total = width + 160, height + 30
        info = ModeInfo(
            0, width, height, h_total * v_total * 60, width + 48, width + 80, h_total, 0, height + 3, height + 8, v_total,
            name, len(name), 0,
        )  # fmt: skip
        made = self._r.XRRCreateMode(self._d.handle, self._d.root, c.byref(info))
        self._r.XRRAddOutputMode(self._d.handle, output, made)
        return made, made

    def _current(self, resources: Any) -> tuple[int, int, int, int]:
        """(output, crtc, width, height) of the first connected output."""
        for index in range(resources.contents.outputs_n):
            output = resources.contents.outputs[index]
            facts = self._r.XRRGetOutputInfo(self._d.handle, resources, output)
            try:
                connected, crtc = facts.contents.connection == 0, facts.contents.crtc
                if connected and not crtc and facts.contents.crtcs_n:
                    crtc = facts.contents.crtcs[0]
            finally:
                self._r.XRRFreeOutputInfo(facts)
            if connected and crtc:
                state = self._r.XRRGetCrtcInfo(self._d.handle, resources, crtc)
                try:
                    return output, crtc, state.contents.width, state.contents.height
                finally:
                    self._r.XRRFreeCrtcInfo(state)
        return 0, 0, self._d.x.XDisplayWidth(self._d.handle, 0), self._d.x.XDisplayHeight(self._d.handle, 0)
