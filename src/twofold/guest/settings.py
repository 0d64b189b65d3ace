"""Text and icon size for running programs: the XSETTINGS protocol (freedesktop.org, version 0.5) and X resources."""

from __future__ import annotations

import ctypes as c
import struct

from twofold.guest.xlib import CLIENT_MESSAGE, STRUCTURE, Display, Event

FONT = "Inter Variable 10"
BASE_DPI = 96


def settings(scale: int) -> dict[str, int | str]:
    """What toolkits are told at `scale` percent. Pictures scale by whole steps, text by every one."""
    factor = max(1, scale // 100)
    dpi = BASE_DPI * scale // 100
    return {
        "Gdk/UnscaledDPI": dpi * 1024 // factor,
        "Gdk/WindowScalingFactor": factor,
        "Gtk/CursorThemeName": "Adwaita",
        "Gtk/CursorThemeSize": 24 * factor,
        "Gtk/EnableAnimations": 0,
        "Gtk/FontName": FONT,
        "Net/IconThemeName": "Adwaita",
        "Net/ThemeName": "Adwaita",
        "Xft/Antialias": 1,
        "Xft/DPI": dpi * 1024,
        "Xft/HintStyle": "hintslight",
        "Xft/Hinting": 1,
        "Xft/RGBA": "none",
    }


def encode(serial: int, values: dict[str, int | str]) -> bytes:
    """The bytes of the property _XSETTINGS_SETTINGS, little-endian."""
    out = bytearray(struct.pack("<BxxxII", 0, serial, len(values)))
    for name, value in sorted(values.items()):
        raw = name.encode()
        out += struct.pack("<BxH", 0 if isinstance(value, int) else 1, len(raw)) + raw + b"\0" * (-len(raw) % 4)
        out += struct.pack("<I", serial)
        if isinstance(value, int):
            out += struct.pack("<i", value)
        else:
            body = value.encode()
            out += struct.pack("<I", len(body)) + body + b"\0" * (-len(body) % 4)
    return bytes(out)


class Manager:
    """Owns the settings of screen 0 as long as this process lives."""

    def __init__(self, display: Display, scale: int = 100) -> None:
        self._d = display
        self._serial = 0
        self._window = display.x.XCreateSimpleWindow(display.handle, display.root, -1, -1, 1, 1, 0, 0, 0)
        self.scale = 0
        self.set(scale)
        selection = display.atom("_XSETTINGS_S0")
        display.x.XSetSelectionOwner(display.handle, selection, self._window, 0)
        event = Event()
        event.message.type, event.message.window, event.message.format = CLIENT_MESSAGE, display.root, 32
        event.message.kind = display.atom("MANAGER")
        for index, value in enumerate((0, selection, self._window)):
            event.message.data[index] = value
        display.x.XSendEvent(display.handle, display.root, 0, STRUCTURE, c.byref(event))
        display.sync()

    def set(self, scale: int) -> bool:
        """Tell everyone the new scale in percent; False where it is the old one."""
        if scale == self.scale:
            return False
        self.scale = scale
        self._serial += 1
        values = settings(scale)
        self._d.set_property(
            self._window, "_XSETTINGS_SETTINGS", "_XSETTINGS_SETTINGS", 8, encode(self._serial, values)
        )
        resources = (
            f"Xft.dpi:\t{BASE_DPI * scale // 100}\nXft.antialias:\t1\nXft.hinting:\t1\nXft.hintstyle:\thintslight\n"
            f"Xft.rgba:\tnone\nXcursor.theme:\tAdwaita\nXcursor.size:\t{values['Gtk/CursorThemeSize']}\n"
        )
        self._d.set_property(self._d.root, "RESOURCE_MANAGER", "STRING", 8, resources.encode())
        self._d.sync()
        return True
