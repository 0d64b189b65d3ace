"""The guest agent's root half: the channel, time, freezing, power. What belongs to the session goes to its other half."""

from __future__ import annotations

import base64
import json
import os
import re
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twofold.guest import port, programs, wire
from twofold.guest.disks import Freezer
from twofold.guest.entries import entries
from twofold.guest.growth import Home, grow
from twofold.guest.wire import Refusal, Request

AGENT = "0.1.0"
SHARE = Path("/usr/share/twofold")
MAX_APPS = 512
GRACE = 0.8  # seconds after a host's last words in which it is not thought to be gone
_SESSION_VERBS = frozenset(
    {"launch", "windows", "display", "layout", "notices", "tapped", "dismissed", "focus", "doze"}
)
_ICON = re.compile(r"[0-9a-f]{64}")


class Agent:
    """One loop over the port and the session's half. `send` takes a whole line for the host."""

    def __init__(self, send: Callable[[bytes], None], share: Path = SHARE) -> None:
        self.send = send
        self.freezer = Freezer()
        self.session: socket.socket | None = None
        self.session_up = False
        self.closing = False
        self.home: Home | None = None
        self._share = share
        self._asked: set[int] = set()
        self._verbs: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "hello": self._hello, "ping": lambda _: {}, "apps": self._apps, "icon": self._icon, "time": self._time,
            "freeze": self._freeze, "thaw": lambda _: {"thawed": self.freezer.thaw()}, "shutdown": self._shutdown,
        }  # fmt: skip

    def handle(self, request: Request) -> None:
        """Answer a request, now or when the session's half has."""
        try:
            if request.verb in _SESSION_VERBS:
                self._pass_on(request)
                return
            verb = self._verbs.get(request.verb)
            if verb is None:
                raise Refusal("unknown-verb", "This guest does not know that.")
            self.send(wire.answer(request.id, verb(request.args)))
        except Refusal as why:
            self.send(wire.refusal(request.id, why.code, why.text))
        except OSError as why:
            self.send(wire.refusal(request.id, "failed", why.strerror or "failed"))

    def from_session(self, line: bytes) -> None:
        """A line of the session's half: an answer, or an event to pass on."""
        message = json.loads(line)
        if message.get("event") == "session":
            self.session_up = bool(message["up"])
        if "id" in message:
            self._asked.discard(message["id"])
        self.send(line)

    def session_ended(self) -> None:
        self.session = None
        for number in self._asked:
            self.send(wire.refusal(number, "no-session", "The desktop ended."))
        self._asked.clear()
        if self.session_up:
            self.session_up = False
            self.send(wire.event("session", up=False))

    def _pass_on(self, request: Request) -> None:
        if self.session is None or not self.session_up:
            raise Refusal("no-session", "The desktop is not there yet.")
        self._asked.add(request.id)
        line = json.dumps({"v": wire.VERSION, "id": request.id, "do": request.verb, **request.args}).encode() + b"\n"
        try:
            self.session.sendall(line)
        except OSError as why:
            self._asked.discard(request.id)
            raise Refusal("no-session", "The desktop is going down.") from why

    def _hello(self, _: Mapping[str, Any]) -> dict[str, Any]:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        features = sorted(_SESSION_VERBS | self._verbs.keys())
        hello = {"agent": AGENT, "features": features, "boot": boot, "session": self.session_up}
        return hello if self.home is None else hello | {"home": vars(self.home)}

    def _apps(self, _: Mapping[str, Any]) -> dict[str, Any]:
        try:
            index = json.loads((self._share / "apps.json").read_text())
        except (OSError, ValueError):
            index = {}
        shown = [entry for entry in entries().values() if not entry.hidden][:MAX_APPS]
        return {
            "apps": [
                {"id": entry.id, "name": entry.name, "comment": entry.comment, "keywords": entry.keywords,
                 "icon": index.get(entry.id, {}).get("icon", "")}
                for entry in shown
            ]
        }  # fmt: skip

    def _icon(self, args: Mapping[str, Any]) -> dict[str, Any]:
        name = wire.text(args, "icon", 64)
        if not _ICON.fullmatch(name):
            raise Refusal("bad-argument", "icon must be a hex SHA-256.")
        try:
            return {"png": base64.b64encode((self._share / "icons" / f"{name}.png").read_bytes()).decode()}
        except OSError as why:
            raise Refusal("not-found", "There is no such icon.") from why

    def _time(self, args: Mapping[str, Any]) -> dict[str, Any]:
        wanted = wire.integer(args, "unix_ms", 0, 1 << 45)
        if wanted:
            time.clock_settime_ns(time.CLOCK_REALTIME, wanted * 1_000_000)
        return {"unix_ms": time.time_ns() // 1_000_000}

    def _freeze(self, args: Mapping[str, Any]) -> dict[str, Any]:
        return {"frozen": self.freezer.freeze(time.monotonic(), wire.integer(args, "seconds", 1, 600))}

    def _shutdown(self, _: Mapping[str, Any]) -> dict[str, Any]:
        self.freezer.thaw()
        self.closing = True
        return {}


def main() -> None:
    """Run until the machine ends."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    fd = port.wait()
    wired = port.Port(fd)
    agent = Agent(wired.send)
    agent.home = grow()
    loop = _Loop(agent, wired)
    while True:
        loop.turn()


class _Loop:
    """Waits for whatever comes next: bytes from the host, words from the session, a thaw that is due."""

    def __init__(self, agent: Agent, wired: port.Port) -> None:
        self._agent, self._port = agent, wired
        self._lines, self._session_lines = wire.Lines(), wire.Lines()
        self._epoll = select.epoll()
        # Edge-triggered: with nobody at the other end the port reports HUP without pause.
        self._epoll.register(wired.fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        self._child = 0
        self._start_at = 0.0
        self._heard = 0.0

    def turn(self) -> None:
        now = time.monotonic()
        if self._agent.session is None and now >= self._start_at:
            self._start_session()
        wait = 1.0 if self._agent.freezer.until is None else max(0.0, min(1.0, self._agent.freezer.until - now))
        ready = {fd for fd, _ in self._epoll.poll(wait)}
        if self._agent.freezer.due(time.monotonic()):
            self._agent.freezer.thaw()
        if self._agent.session is not None and self._agent.session.fileno() in ready:
            self._read_session(self._agent.session)
        self._read_port()
        self._port.flush()
        if self._agent.closing:
            self._agent.closing = False
            programs.start(["/usr/bin/systemctl", "poweroff", "--no-block"])

    def _read_port(self) -> None:
        while True:
            data = self._port.read()
            if data is None:
                # The kernel hears of a new host on another queue than of its words, so the words may come first.
                if self._port.connected and time.monotonic() - self._heard > GRACE:
                    self._port.connected = False
                    self._port.forget()
                    self._lines.reset()
                return
            if not data:
                return
            self._port.connected, self._heard = True, time.monotonic()
            for line in self._lines.feed(data):
                request = wire.parse(line)
                if request is None:
                    self._lines.dropped += 1
                else:
                    self._agent.handle(request)

    def _read_session(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(65_536)
        except OSError:
            data = b""
        if data:
            for line in self._session_lines.feed(data):
                self._agent.from_session(line)
            return
        self._epoll.unregister(sock.fileno())
        sock.close()
        os.waitpid(self._child, 0)
        self._session_lines.reset()
        self._agent.session_ended()
        self._start_at = time.monotonic() + 0.5

    def _start_session(self) -> None:
        ours, theirs = socket.socketpair()
        self._child = os.fork()  # a fork shares the loaded interpreter; a second start would cost a second
        if self._child == 0:
            status = 1
            try:
                ours.close()
                os.close(self._port.fd)
                self._epoll.close()
                from twofold.guest import session

                session.run(theirs)
                status = 0
            except BaseException:  # noqa: BLE001 - nothing may get back into the parent's loop
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        theirs.close()
        self._agent.session = ours
        self._epoll.register(ours.fileno(), select.EPOLLIN)
