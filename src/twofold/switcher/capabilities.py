"""What this graphical session lets the switcher do, said honestly (docs/decisions/0002-wayland.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Session:
    """`kind` is "x11", "xwayland", "wayland" or "none"; `works` and `lacks` are whole sentences."""

    kind: str
    works: tuple[str, ...]
    lacks: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return self.kind == "x11"


def session(environment: Mapping[str, str]) -> Session:
    """Judge by the variables that every login sets (XDG_SESSION_TYPE, WAYLAND_DISPLAY, DISPLAY)."""
    x, wayland = bool(environment.get("DISPLAY")), bool(environment.get("WAYLAND_DISPLAY"))
    if x and not wayland and environment.get("XDG_SESSION_TYPE") != "wayland":
        return Session(
            "x11",
            ("The switch key works everywhere; keys typed while switching go to exactly one side.",
             "Alt+Tab, Super and Alt+F4 go to Work while it is in front.",),
            ("While a menu or another program holds the keyboard, the switch key waits until it lets go.",),
        )  # fmt: skip
    if x:
        return Session(
            "xwayland",
            ("Work runs and is shown; its window, its sound and the launcher work.",),
            ("The switch key is heard only while an X program has the focus.",
             "Wayland keeps Alt+Tab and Super for itself, and does not let us hold keys back while switching."),
        )  # fmt: skip
    if wayland:
        return Session("wayland", (), ("There is no XWayland, which this version needs.",))
    return Session("none", (), ("There is no graphical session.",))
