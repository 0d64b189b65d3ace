"""A real message bus of our own, and programs on it."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.xserver import end
from twofold.guest import bus
from twofold.guest.bus import Bus, Message
from twofold.platform.run import spawn

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>
"""


@contextmanager
def session_bus(folder: Path) -> Iterator[str]:
    """Run dbus-daemon; gives its address. It knows no service files: nothing of this machine is started on it."""
    path, config = folder / "bus", folder / "bus.conf"
    config.write_text(CONFIG.format(path=path))
    process = spawn(["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--nosyslog"])
    try:
        deadline = time.monotonic() + 10
        while not _listens(path):
            assert time.monotonic() < deadline and process.poll() is None, "dbus-daemon does not listen"
            time.sleep(0.01)
        yield f"unix:path={path}"
    finally:
        end(process)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
        return True


class Peer:
    """A program on a bus: `heard` gets what comes in, on a thread of its own."""

    def __init__(self, address: str, heard: Callable[[Peer, Message], None]) -> None:
        self.bus = Bus(address, lambda message: heard(self, message))
        self._over = threading.Event()
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def _loop(self) -> None:
        while not self._over.is_set():
            ready, _, _ = select.select([self.bus.fd], [], [], 0.02)
            with self._lock:
                try:
                    if ready:
                        self.bus.read()
                    self.bus.flush()
                except OSError:
                    return

    def does(self, do: Callable[[Bus], None]) -> None:
        with self._lock:
            do(self.bus)
            self.bus.flush()

    def close(self) -> None:
        self._over.set()
        self._thread.join(5)
        self.bus.close()


class Shower(Peer):
    """A notification service that keeps what it is asked to show; what it can do is `able`."""

    def __init__(self, address: str, able: list[str]) -> None:
        self.able, self.shown, self.closed = able, dict[int, tuple[str, str]](), list[int]()
        self.replaced: list[int] = []
        self.client = ""  # who asked last, by its name on the bus
        super().__init__(address, Shower._heard)
        name = "org.freedesktop.Notifications"
        owned = threading.Event()
        self.bus.call(bus.BUS, bus.BUS_PATH, bus.BUS, "RequestName", "su", name, 4, then=lambda _: owned.set())
        self.begin()
        assert owned.wait(5)

    @staticmethod
    def _heard(peer: Peer, call: Message) -> None:
        assert isinstance(peer, Shower)
        if call.kind != bus.CALL:
            return
        if call.member == "GetCapabilities":
            peer.bus.answer(call, "as", peer.able)
        elif call.member == "Notify":
            _, replaces, icon, summary, body, actions, hints, _ = call.args("susssasa{sv}i")
            assert not icon and actions == ["default", "Open"] and hints.keys() == {"urgency", "frcolor"}
            peer.client = call.sender
            number = replaces or 100 + len(peer.shown)
            if replaces:
                peer.replaced.append(replaces)
            peer.shown[number] = summary, body
            peer.bus.answer(call, "u", number)
        elif call.member == "CloseNotification":
            peer.closed.append(*call.args("u"))
            peer.bus.answer(call)

    def says(self, to: str, member: str, signature: str, *args: object) -> None:
        name, path = "org.freedesktop.Notifications", "/org/freedesktop/Notifications"
        self.does(lambda on: on.signal(to, path, name, member, signature, *args))


def environment(address: str) -> dict[str, str]:
    return {"DBUS_SESSION_BUS_ADDRESS": address, "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
