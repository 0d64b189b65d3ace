"""The agent's other half: in the graphical session, as its user. Windows, launches, the screen, the keyboard's layout,
notifications, which text field has the focus."""

from __future__ import annotations

import os
import pwd
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twofold.guest import decor, programs, wire
from twofold.guest.focus import Focus
from twofold.guest.idle import Idle, Inhibits, Untouched, next_timer
from twofold.guest.launches import Launches
from twofold.guest.notices import Notices
from twofold.guest.randr import Screen
from twofold.guest.settings import BASE_DPI, Manager
from twofold.guest.wire import Refusal
from twofold.guest.xlib import PROPERTY_CHANGE, PROPERTY_NOTIFY, STRUCTURE, SUBSTRUCTURE, Display

USER = "user"
ENVIRONMENT = Path("/usr/lib/twofold/session.env")
MAX_WINDOWS = 256
SMALL = 640  # pixels of width below which a window gets the whole screen, as on a phone
_XKB = re.compile(r"[A-Za-z0-9_,:()+.-]*")
_XSOCKET = Path("/tmp/.X11-unix/X0")
_READ_ANEW = 1  # Openbox's word on its root window; 2 would start it again and lose the focus
_WALLPAPER = ["/usr/lib/twofold/wallpaper"]


def run(parent: socket.socket) -> None:
    """Serve requests until the parent or the X server goes."""
    environment = _become(USER)
    while not _XSOCKET.exists():
        time.sleep(0.05)
    display = Display()
    Session(parent, display, environment).loop()


def _become(name: str) -> dict[str, str]:
    """Turn into the session's user for good; returns the session's environment."""
    facts = pwd.getpwnam(name)
    os.setsid()
    os.initgroups(name, facts.pw_gid)
    os.setgid(facts.pw_gid)
    os.setuid(facts.pw_uid)
    lines = ENVIRONMENT.read_text().splitlines()
    environment = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    os.environ.clear()
    os.environ.update(environment)
    return environment


class Session:
    def __init__(self, parent: socket.socket, display: Display, environment: Mapping[str, str]) -> None:
        self._parent, self._d, self._environment = parent, display, environment
        self._screen = Screen(display)
        self._settings = Manager(display)
        self._launches = Launches(display, environment, self._emit)
        bus = environment.get("DBUS_SESSION_BUS_ADDRESS", "")
        self._notices = Notices(bus, self._launches.known, self._launches.bring, self._emit)
        self._focus = Focus(Path(environment["XDG_RUNTIME_DIR"]) / "ibus", self._emit)
        inhibits = Inhibits(bus)
        self._services = (self._notices.service, inhibits.service)
        self._idle = Idle(Untouched(display).seconds, inhibits.any, lambda: next_timer(environment), self._emit)
        self._lines = wire.Lines()
        self._up = False
        self._verbs: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "launch": self._launch, "windows": self._windows, "display": self._display, "layout": self._layout,
            "notices": self._notices.set_level, "tapped": self._notices.tapped, "dismissed": self._notices.dismissed,
            "focus": self._focus.want,
            "doze": self._idle.set,
        }  # fmt: skip
        display.select(display.root, PROPERTY_CHANGE | STRUCTURE | SUBSTRUCTURE)

    def loop(self) -> None:
        # A child's end wakes the loop through this pipe; Python's handlers only run between its own instructions.
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        for fd in (self._parent.fileno(), self._d.fd, wake_read):
            poll.register(fd, select.POLLIN)
        self._look_for_desktop()
        while True:
            self._x_events()
            self._d.x.XFlush(self._d.handle)
            wait = self._focus.wait_ms(self._idle.wait_ms(self._launches.wait_ms()))
            self._focus.watch(poll)
            for service in self._services:
                service.watch(poll)
                wait = service.wait_ms(wait)
            ready = {fd for fd, _ in poll.poll(wait)}
            for service in self._services:
                service.turn(ready)
            self._focus.turn(ready)
            self._idle.turn()
            if wake_read in ready:
                os.read(wake_read, 4096)
            self._launches.reap(time.monotonic())
            if self._parent.fileno() in ready:
                data = self._parent.recv(65_536)
                if not data:
                    return
                for line in self._lines.feed(data):
                    self._handle(line)

    def _x_events(self) -> None:
        for event in self._d.events():
            if event.type == PROPERTY_NOTIFY and event.property.window == self._d.root:
                if event.property.atom == self._d.atom("_NET_CLIENT_LIST"):
                    self._launches.windows_changed()
                elif event.property.atom == self._d.atom("_NET_SUPPORTING_WM_CHECK"):
                    self._look_for_desktop()
                elif event.property.atom == self._d.atom("_NET_ACTIVE_WINDOW"):
                    self._focus.window_changed()
            else:
                self._launches.x_event(event)

    def _look_for_desktop(self) -> None:
        if not self._up and self._d.numbers(self._d.root, "_NET_SUPPORTING_WM_CHECK"):
            self._up = True
            self._emit(wire.event("session", up=True))

    def _handle(self, line: bytes) -> None:
        request = wire.parse(line)
        if request is None:
            return
        try:
            self._emit(wire.answer(request.id, self._verbs[request.verb](request.args)))
        except Refusal as why:
            self._emit(wire.refusal(request.id, why.code, why.text))
        except (OSError, subprocess.SubprocessError) as why:
            self._emit(wire.refusal(request.id, "failed", str(why)))

    def _emit(self, line: bytes) -> None:
        self._parent.sendall(line)

    def _launch(self, args: Mapping[str, Any]) -> dict[str, Any]:
        return {"launch": self._launches.start(wire.text(args, "app", 128))}

    def _windows(self, _: Mapping[str, Any]) -> dict[str, Any]:
        active = (self._d.numbers(self._d.root, "_NET_ACTIVE_WINDOW") or [0])[0]
        ids = self._d.numbers(self._d.root, "_NET_CLIENT_LIST")
        return {
            "windows": [
                {"id": window, "app": self._launches.app_of(window), "title": self._launches.title_of(window),
                 "active": window == active}
                for window in ids[:MAX_WINDOWS] if self._launches.is_normal(window)
            ]
        }  # fmt: skip

    def _display(self, args: Mapping[str, Any]) -> dict[str, Any]:
        width, height = wire.integer(args, "width", 200, 7680), wire.integer(args, "height", 200, 7680)
        scale = wire.integer(args, "scale", 50, 400)
        before = self._screen.size()
        decor.write(Path(self._environment["XDG_RUNTIME_DIR"]), height, scale)
        now = self._screen.resize(width, height, BASE_DPI * scale // 100)
        if self._settings.set(scale):
            _signal("tint2", signal.SIGTERM)  # it starts again in a moment
            self._d.tell_root("_OB_CONTROL", _READ_ANEW)
        if now != before:
            programs.start(_WALLPAPER, self._environment)
            self._launches.fill(small=now[0] < SMALL)
            self._focus.resized(before[1], now[1])
        return {"width": now[0], "height": now[1]}

    def _layout(self, args: Mapping[str, Any]) -> dict[str, Any]:
        words = ["setxkbmap", "-option", ""]
        for name, limit in (("model", 32), ("layout", 64), ("variant", 64), ("options", 200)):
            value = wire.text(args, name, limit)
            if not _XKB.fullmatch(value):
                raise Refusal("bad-argument", f"{name} is not an XKB name.")
            if name == "options":
                words += [word for option in value.split(",") if option for word in ("-option", option)]
            elif value or name == "variant":
                words += [f"-{name}", value]
        done = programs.run(words, self._environment)
        if done.returncode != 0:
            raise Refusal("bad-layout", (done.stderr or done.stdout).decode("utf-8", "replace").strip()[:200])
        return {}


def _signal(name: str, number: signal.Signals) -> None:
    """Signal this user's processes of that name."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == name:
                os.kill(int(entry.name), number)
        except OSError:
            continue  # ended meanwhile, or not ours
