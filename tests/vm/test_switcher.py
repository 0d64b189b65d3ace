"""The switcher as a person has it: its own process over a real desktop, a real machine behind, checked on root pixels.

The agent's place is taken by a few lines that speak its protocol on a real socket; the demo runs the same window with the agent.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from Xlib import Xatom
from Xlib.display import Display

from tests.harness.injector import Injector
from tests.harness.screen import Screen
from tests.harness.xserver import end, window_manager, xserver
from tests.unit.test_switcher import WIRE
from tests.unit.test_switcher_notices import LOCKED, MOVING, POLICY, WARNING
from tests.vm.test_display import Machine
from twofold.platform.run import spawn

pytestmark = pytest.mark.vm

BLUE = 0x0B6BB0
ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "switcher"


class Agent:
    """Answers what the switcher asks; `asked` holds it, `watchers` get events."""

    def __init__(self, path: Path, machine: Machine) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._machine, self._watchers = machine, list[socket.socket]()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                self._open.append(peer)
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def tell(self, event: dict[str, Any]) -> None:
        for each in self._watchers:
            each.sendall(json.dumps(event).encode() + b"\n")

    def _serve(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer.makefile("rb") as lines:
            for line in lines:
                ask = json.loads(line)
                verb, args = ask["do"], ask["args"]
                self.asked.append((verb, args))
                answer: dict[str, Any] = {}
                if verb == "watch":
                    self._watchers.append(peer)
                elif verb == "list":
                    answer = {"workspaces": [WIRE]}
                elif verb == "apps":
                    answer = {"apps": [{"id": "calc", "name": "Calculator"}, {"id": "pad", "name": "Notes"}]}
                elif verb == "launch":
                    answer = {"launch": "t1"}
                elif verb in ("backup", "checkin", "discard", "loss"):
                    answer = {"operation": "ab"}
                data = json.dumps({"id": ask["id"], "ok": answer}).encode() + b"\n"
                if verb == "display":
                    with self._machine.display() as end_:
                        rights = array.array("i", [end_.fileno()])
                        peer.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                else:
                    peer.sendall(data)
                if verb == "launch":
                    self.tell({"event": "window", "launch": "t1", "app": args["app"], "title": "", "ms": 1})

    def close(self) -> None:
        for each in (self._listener, *self._open):
            each.close()


class Person:
    def __init__(self, folder: Path, machine: Machine, width: int, height: int, scale: str = "1") -> None:
        self.undo = contextlib.ExitStack()
        self.server = server = self.undo.enter_context(xserver(width, height))
        self.undo.enter_context(window_manager(server))
        self.hands, self.screen = Injector(server), Screen(server)
        self.undo.callback(self.hands.close)
        self.agent = Agent(folder / f"a{width}-{scale}", machine)
        self.undo.callback(self.agent.close)
        self.said: dict[str, Any] = {}
        reader, writer = os.pipe()
        began = time.monotonic()
        self.process = spawn(
            [sys.executable, "-m", "twofold.switcher", "--socket", folder / f"a{width}-{scale}", "--status-fd", str(writer)],
            env=server.environment(PYTHONPATH=str(ROOT / "src"), QT_SCALE_FACTOR=scale), pass_fds=[writer],
        )  # fmt: skip
        self.undo.callback(end, self.process)
        os.close(writer)
        self._listener = threading.Thread(target=self._listen, args=(reader,), daemon=True)
        self._listener.start()
        self.until("ready", True)
        self.started = time.monotonic() - began
        self.until("run", "running")

    def _listen(self, reader: int) -> None:
        with os.fdopen(reader) as lines:
            for line in lines:
                self.said |= json.loads(line)

    def until(self, what: str, value: object, seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while self.said.get(what) != value:
            assert time.monotonic() < deadline, f"never {what} = {value!r}: {self.said}"
            assert self.process.poll() is None, f"the switcher ended with {self.process.returncode}"
            time.sleep(0.002)

    def memory(self) -> int:
        """Proportional set size in KiB."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("machine"))
    yield made
    made.close()


@pytest.fixture
def person(tmp_path: Path, machine: Machine) -> Iterator[Person]:
    made = Person(tmp_path, machine, 1280, 800)
    yield made
    made.undo.close()


def test_the_window_comes_and_goes_and_the_frame_is_never_hidden(person: Person) -> None:
    print(f"\nready after {person.started:.2f} s, {person.memory() / 1024:.0f} MiB PSS")
    assert person.memory() < 120 * 1024
    personal = person.screen.copy()
    inside: list[float] = []
    outside: list[float] = []
    for _ in range(20):
        pressed = person.hands.key("Pause")
        inside.append(
            person.screen.wait(lambda now: all(int(now[y, x]) & 0xFFFFFF == BLUE for y, x in EDGES)) - pressed
        )
        person.until("live", True)
        time.sleep(0.1)
        pressed = person.hands.key("Pause")
        outside.append(
            person.screen.wait(lambda now: bool((now[::16, ::16] == personal[::16, ::16]).mean() > 0.999)) - pressed
        )
        person.until("shown", False)
        time.sleep(0.1)
    for name, times in (("in", inside), ("back", outside)):
        print(f"{name}: median {statistics.median(times) * 1000:.1f} ms, p95 {sorted(times)[18] * 1000:.1f} ms, n=20")
    assert statistics.median(inside) < 0.11


EDGES = ((1, 640), (798, 640), (400, 1), (400, 1278), (2, 2), (797, 1277))


def test_keys_reach_the_guests_screen_and_the_launcher_takes_them_when_it_is_open(person: Person) -> None:
    person.hands.key("Pause")
    person.until("live", True)
    time.sleep(2)
    x, y, width, height = person.said["guest"]
    assert (x, y, width, height) == (60, 36, 1216, 760)
    before = person.screen.copy()[y : y + height, x : x + width]
    person.hands.type("abc")
    person.screen.wait(lambda now: bool((now[y : y + height, x : x + width] != before).any()))
    time.sleep(0.5)
    person.hands.key("space", "Control_L")
    person.hands.type("cal", 0)
    person.until("launcher", True)
    time.sleep(0.3)
    person.hands.key("Return")
    person.until("launched", "calc")
    person.until("launcher", False)
    assert ("launch", {"workspace": "work", "app": "calc"}) in person.agent.asked
    asked = [args for verb, args in person.agent.asked if verb == "resize"]
    assert asked[-1] == {"workspace": "work", "width": 1216, "height": 760, "scale": 100}
    assert any(verb == "layout" and args["layout"] == "us" for verb, args in person.agent.asked)


@pytest.mark.parametrize("scale", ["1", "1.5", "2", "3"])
def test_a_guest_pixel_is_a_screen_pixel_at_every_ratio(tmp_path: Path, machine: Machine, scale: str) -> None:
    ratio = float(scale)
    person = Person(tmp_path, machine, int(800 * ratio), int(600 * ratio), scale)
    try:
        person.hands.key("Pause")
        person.until("live", True)
        time.sleep(0.4)
        x, y, width, height = person.said["guest"]
        assert (x, y) == (round(60 * ratio), round(36 * ratio))
        assert (width, height) == (int(736 * ratio), int(560 * ratio))
        edge = person.screen.array[int(300 * ratio), : round(4 * ratio)]
        assert np.all((edge & 0xFFFFFF) == BLUE)
        assert int(person.screen.array[int(300 * ratio), round(4 * ratio)]) & 0xFFFFFF != BLUE
        sizes = [
            (args["width"], args["height"], args["scale"]) for verb, args in person.agent.asked if verb == "resize"
        ]
        assert sizes[-1] == (width, height, round(ratio * 100))
    finally:
        person.undo.close()


def test_a_narrow_screen_gets_the_phone(tmp_path: Path, machine: Machine) -> None:
    person = Person(tmp_path, machine, 412, 915)
    try:
        person.hands.key("Pause")
        person.until("live", True)
        time.sleep(0.3)
        assert person.said["guest"] == [6, 50, 400, 859]
        person.hands.click(*person.said["search"])
        person.until("launcher", True)
        deadline = time.monotonic() + 5
        while not person.said.get("apps"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)
        person.hands.click(*person.said["apps"]["pad"])
        person.until("launched", "pad")
        # A phone's shell has bars of its own, and a keyboard that opens: Work makes room (EWMH, _NET_WORKAREA).
        display = Display(person.server.name)
        area = display.intern_atom("_NET_WORKAREA")
        for top, height in ((44, 787), (44, 487), (0, 915)):
            display.screen().root.change_property(area, Xatom.CARDINAL, 32, [0, top, 412, height])
            display.sync()
            person.until("guest", [6, top + 50, 400, height - 56])
        display.close()
        # Its button is no X key.
        for shown in (False, True):
            person.process.send_signal(signal.SIGUSR1)
            person.until("shown", shown)
    finally:
        person.undo.close()


@pytest.mark.parametrize(("scale", "width", "height"), [("1", 1280, 800), ("2", 2560, 1600), ("1", 412, 915)])
def test_what_is_about_to_end_is_said_and_read_and_a_back_up_is_watched(
    tmp_path: Path, machine: Machine, scale: str, width: int, height: int
) -> None:
    person = Person(tmp_path, machine, width, height, scale)
    name = f"{width}x{height}"
    try:
        person.hands.key("Pause")
        person.until("live", True)
        time.sleep(0.3)
        now = {"in_memory": True, "on_disk_verified_at": int(time.time()), "on_server_at": int(time.time()) - 200}
        ours = WIRE | {
            "event": "workspace",
            "whereabouts": now,
            "policy": POLICY,
            "expires": int(time.time()) + 5 * 3600 + 90,
        }
        calm = person.screen.copy()
        person.agent.tell(ours | {"warning": WARNING})
        person.until("banner", WARNING["happened"])
        person.screen.wait(lambda seen: float(np.mean(seen != calm)) > 0.02)
        person.screen.save(OUT / f"{name}-warning.png")
        person.hands.click(*person.said["spots"]["close"])
        person.until("banner", "")
        time.sleep(0.2)
        person.screen.save(OUT / f"{name}-warning-read.png")
        person.hands.click(*person.said["spots"]["server"])
        person.until("banner", "Backed up 3 min ago")
        time.sleep(0.2)
        person.screen.save(OUT / f"{name}-back-up.png")
        person.hands.click(*person.said["spots"]["backup"])
        deadline = time.monotonic() + 10
        while ("backup", {"workspace": "work"}) not in person.agent.asked:
            assert time.monotonic() < deadline, person.agent.asked
            time.sleep(0.01)
        person.agent.tell(MOVING)
        person.until("banner", "Backing up Acme")
        time.sleep(0.2)
        person.screen.save(OUT / f"{name}-backing-up.png")
        locked = {"run": "suspended", "shut": "locked", "error": LOCKED, "memory_stored": True}
        person.agent.tell(ours | locked | {"whereabouts": now | {"in_memory": False}})
        person.until("run", "suspended")
        person.until("live", False)
        time.sleep(0.3)
        person.screen.save(OUT / f"{name}-locked.png")
    finally:
        person.undo.close()
