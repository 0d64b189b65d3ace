"""What the person sees: which workspace the switcher has in front of them, and whether the device's screen is lit."""

from __future__ import annotations

import enum
from collections.abc import Callable


class Sight(enum.Enum):
    """How one workspace is seen. Where no switcher says what it shows, everything counts as seen."""

    SEEN = "seen"
    UNSEEN = "unseen"
    DARK = "dark"


class Eyes:
    """`watched` says whether a switcher is open; `changed` is called when something may be seen otherwise than before."""

    def __init__(self, watched: Callable[[], bool], changed: Callable[[], None]) -> None:
        self._watched, self._changed = watched, changed
        self._front: str | None = None  # None: no switcher has said
        self._lit = True

    def look(self, workspace: str) -> None:
        """The switcher has this one in front; empty: the person is on their own side."""
        self._front = workspace
        self._changed()

    def light(self, *, on: bool) -> None:
        self._lit = on
        self._changed()

    def sight(self, workspace: str) -> Sight:
        if not self._watched():
            self._front = None  # the next switcher will say
        if self._front is None:
            return Sight.SEEN
        if not self._lit:
            return Sight.DARK
        return Sight.SEEN if self._front == workspace else Sight.UNSEEN
