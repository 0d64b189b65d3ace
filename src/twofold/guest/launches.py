"""Starting applications and knowing when their first window is there."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from twofold.guest import programs, wire
from twofold.guest.entries import Entry, entries
from twofold.guest.wire import Refusal
from twofold.guest.xlib import MAP_NOTIFY, Display, Event

PATIENCE = 120.0  # seconds after which a launch without a window is called gone
HANDED_OVER = 3.0  # an application that runs already may show the window itself; its starter ends at once
_SKIP = ("_NET_WM_WINDOW_TYPE_DOCK", "_NET_WM_WINDOW_TYPE_DESKTOP")


@dataclass
class _Launch:
    token: str
    app: str
    names: frozenset[str]
    process: subprocess.Popen[bytes]
    at: float
    until: float


def names_of(entry: Entry) -> frozenset[str]:
    """What an application's windows may call themselves (WM_CLASS), in small letters."""
    program = Path(entry.argv[0]).name
    words = {entry.id, entry.id.rpartition(".")[2], program, entry.wm_class}
    return frozenset(word.lower() for word in words if word)


def parent_of(pid: int, proc: Path = Path("/proc")) -> int:
    try:
        return int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


class Launches:
    """The launches under way, and the windows that are known."""

    def __init__(self, display: Display, environment: Mapping[str, str], emit: Callable[[bytes], None]) -> None:
        self._d, self._environment, self._emit = display, environment, emit
        self._waiting: list[_Launch] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._small = False
        self._filled: set[int] = set()
        self._known: set[int] = set(display.numbers(display.root, "_NET_CLIENT_LIST"))
        self._entries = entries()
        self._by_name = {name: entry.id for entry in self._entries.values() for name in names_of(entry)}

    def start(self, app: str) -> str:
        """Start an application; returns the token that its `window` or `gone` event will carry.

        Raises:
            Refusal: no such application, or it cannot be started.
        """
        entry = self._entries.get(app)
        if entry is None:
            raise Refusal("not-found", "There is no such application.")
        token, now = secrets.token_hex(8), time.monotonic()
        env = {**self._environment, "DESKTOP_STARTUP_ID": f"twofold-{token}_TIME0"}
        try:
            process = programs.start(entry.argv, env, env.get("HOME", "/"))
        except OSError as why:
            raise Refusal("failed", f"It cannot be started: {why.strerror}.") from why
        self._children.append(process)
        self._waiting.append(_Launch(token, app, names_of(entry), process, now, now + PATIENCE))
        return token

    def known(self, *untrusted_names: str) -> str:
        """The application that goes by the first of these names that is one's (its id, its program, its windows'), or ''."""
        for name in untrusted_names:
            found = name.removesuffix(".desktop")
            if found in self._entries:
                return found
            if found.lower() in self._by_name:
                return self._by_name[found.lower()]
        return ""

    def bring(self, app: str) -> str:
        """Have an application's newest window in front; where it has none, start it and return the launch's token.

        Raises:
            Refusal: as `start`.
        """
        mine = [window for window in self._known if self.app_of(window) == app and self.is_normal(window)]
        if not mine:
            return self.start(app)
        self._d.tell_root("_NET_ACTIVE_WINDOW", 2, 0, 0, window=max(mine))
        return ""

    def wait_ms(self) -> int | None:
        """How long the loop may sleep, in milliseconds; None for as long as nothing happens."""
        if not self._waiting:
            return None
        return max(10, round((min(launch.until for launch in self._waiting) - time.monotonic()) * 1000))

    def windows_changed(self) -> None:
        """_NET_CLIENT_LIST changed: see whose the new windows are."""
        ids = self._d.numbers(self._d.root, "_NET_CLIENT_LIST")
        for window in ids:
            if window not in self._known:
                self._arrived(window)
                if self._small:
                    self._maximise(window, 1)
        self._known = set(ids)
        self._filled &= self._known

    def fill(self, *, small: bool) -> None:
        """On a small screen every window has all of it; on a larger one those that were made so go back."""
        if small != self._small:
            self._small = small
            for window in self._known if small else set(self._filled):
                self._maximise(window, int(small))

    def _maximise(self, window: int, on: int) -> None:
        if self._d.words(window, "WM_CLASS").startswith("twofold-probe") or not self.is_normal(window):
            return
        atoms = [self._d.atom(f"_NET_WM_STATE_MAXIMIZED_{way}") for way in ("HORZ", "VERT")]
        (self._filled.add if on else self._filled.discard)(window)
        self._d.tell_root("_NET_WM_STATE", on, *atoms, 1, window=window)

    def x_event(self, event: Event) -> None:
        # Windows that no manager manages (our own probe) are seen when they are mapped.
        if event.type == MAP_NOTIFY and event.map.redirect and self._waiting:
            self._arrived(event.map.window, certain=True)

    def reap(self, now: float) -> None:
        """Note the ends of applications, and launches that took too long."""
        for process in list(self._children):
            if process.poll() is not None:
                self._children.remove(process)
                for launch in self._waiting:
                    if launch.process is process:
                        launch.until = min(launch.until, now + HANDED_OVER) if process.returncode == 0 else now
        for launch in list(self._waiting):
            if now >= launch.until:
                self._waiting.remove(launch)
                if not self._told_itself(launch):
                    self._emit(wire.event("gone", launch=launch.token))

    def _told_itself(self, launch: _Launch) -> bool:
        """An application that runs already and opened no window (a tab, say): its last window comes to the front instead."""
        if launch.process.poll() != 0:
            return False
        mine = [window for window in self._known if launch.names & self._classes(window) and self.is_normal(window)]
        if not mine:
            return False
        self._d.tell_root("_NET_ACTIVE_WINDOW", 2, 0, 0, window=max(mine))
        self._shown(launch, max(mine))
        return True

    def _arrived(self, window: int, certain: bool = False) -> None:
        if not self._waiting or not self.is_normal(window):
            return
        launch = self._whose(window, certain)
        if launch is not None:
            self._waiting.remove(launch)
            self._shown(launch, window)

    def _shown(self, launch: _Launch, window: int) -> None:
        spent = round((time.monotonic() - launch.at) * 1000)
        self._emit(wire.event("window", launch=launch.token, app=launch.app, title=self.title_of(window), ms=spent))

    def _whose(self, window: int, certain: bool) -> _Launch | None:
        startup = self._d.words(window, "_NET_STARTUP_ID")
        pids: set[int] = set()
        pid = (self._d.numbers(window, "_NET_WM_PID") or [0])[0]
        while pid > 1 and len(pids) < 16:
            pids.add(pid)
            pid = parent_of(pid)
        for launch in self._waiting:
            if launch.token in startup or launch.process.pid in pids:
                return launch
        if certain:
            return None
        classes = self._classes(window)
        return next((launch for launch in self._waiting if launch.names & classes), None)

    def _classes(self, window: int) -> set[str]:
        return {word.lower() for word in self._d.words(window, "WM_CLASS").split("\0") if word}

    def app_of(self, window: int) -> str:
        """The application a window belongs to, or ''."""
        return next((self._by_name[name] for name in sorted(self._classes(window)) if name in self._by_name), "")

    def title_of(self, window: int) -> str:
        found = self._d.words(window, "_NET_WM_NAME") or self._d.words(window, "WM_NAME")
        return "".join(letter for letter in found if letter.isprintable())[:200]

    def is_normal(self, window: int) -> bool:
        kinds = self._d.numbers(window, "_NET_WM_WINDOW_TYPE")
        return not any(self._d.atom(name) in kinds for name in _SKIP)
