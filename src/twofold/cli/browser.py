"""A page in the system's browser."""

from __future__ import annotations

from twofold.cli import out
from twofold.model.errors import MissingError
from twofold.platform.run import find, spawn


def show(url: str, *, only_print: bool) -> None:
    """Print the address, and open it where this desktop has a way to do that. Signing in is the page's."""
    out.say(url)
    if only_print:
        return
    try:
        spawn([find("xdg-open"), url], env=_desktop())
    except MissingError:
        out.note("Open this address in a browser; this system has no xdg-open (Debian: xdg-utils).")


def _desktop() -> dict[str, str]:
    """What a browser needs to find its display and its own windows."""
    import os

    names = (
        "DISPLAY",
        "WAYLAND_DISPLAY",
        "XAUTHORITY",
        "XDG_RUNTIME_DIR",
        "XDG_CURRENT_DESKTOP",
        "DBUS_SESSION_BUS_ADDRESS",
        "BROWSER",
    )
    return {name: os.environ[name] for name in names if name in os.environ}
