"""What the gate needs from an X server beyond python-xlib: XKB's names and group, lock modifiers, auto-repeat."""

from __future__ import annotations

from typing import Any

from Xlib import XK, X, display

from twofold.switcher.side import Layout

_GROUP_SHIFT = 13  # core events carry the XKB group in bits 13 and 14 of their state (XKB protocol, 2.2.2)


def group(state: int) -> int:
    return (state >> _GROUP_SHIFT) & 3


def layout(untrusted_names: bytes, now: int) -> Layout | None:
    """Read the root window's `_XKB_RULES_NAMES`: rules, model, layout, variant, options, each ended by a NUL.

    Any client may write that property, so it is cut to what XKB names can be. None where it says nothing usable.
    """
    parts = untrusted_names[:4096].split(b"\0")
    if len(parts) < 5:
        return None
    fine = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+:,()."
    if any(byte not in fine for part in parts[1:5] for byte in part):
        return None
    model, layouts, variants, options = (part.decode() for part in parts[1:5])
    if not layouts:
        return None
    names = layouts.split(",")
    kinds = (variants.split(",") + [""] * len(names))[: len(names)]
    first = now if now < len(names) else 0
    order = [first, *(index for index in range(len(names)) if index != first)]
    variant = ",".join(kinds[index] for index in order)
    return Layout(model, ",".join(names[index] for index in order), variant if variant.strip(",") else "", options)


def rules_names(connection: display.Display) -> bytes:
    got = connection.screen().root.get_full_property(connection.intern_atom("_XKB_RULES_NAMES"), X.AnyPropertyType)
    if got is None:
        return b""
    value: Any = got.value
    return value if isinstance(value, bytes) else str(value).encode("latin-1", "replace")


def keycode(connection: display.Display, name: str) -> int:
    """The X keycode that gives the keysym called `name`; 0 where none does."""
    sym = XK.string_to_keysym(name)
    return int(connection.keysym_to_keycode(sym)) if sym else 0


def modifier_mask(connection: display.Display, name: str) -> int:
    """The modifier bit (Mod1 .. Mod5) that the key called `name` sets; 0 where it sets none."""
    wanted = keycode(connection, name)
    for index, codes in enumerate(connection.get_modifier_mapping()):
        if wanted and wanted in codes:
            return 1 << index
    return 0


def repeats(connection: display.Display, code: int) -> bool:
    state: Any = connection.get_keyboard_control().auto_repeats
    return bool(state[code >> 3] >> (code & 7) & 1)


def set_repeat(connection: display.Display, code: int, on: bool) -> None:
    mode = X.AutoRepeatModeOn if on else X.AutoRepeatModeOff
    connection.change_keyboard_control(key=code, auto_repeat_mode=mode)


def held(connection: display.Display) -> frozenset[int]:
    """The keycodes that are down now."""
    bits: Any = connection.query_keymap()
    return frozenset(code for code in range(8, 256) if bits[code >> 3] >> (code & 7) & 1)
