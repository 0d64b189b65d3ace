"""The guest's word that nothing happens in it: real programs that want it awake, real counters, every reason against."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.sessionbus import environment, session_bus
from tests.harness.xserver import xserver
from twofold.guest import idle
from twofold.guest.idle import MAX_INHIBITS, Idle, Inhibits, Sample
from twofold.guest.wire import Refusal
from twofold.guest.xlib import Display

SCREENSAVER, POWER = "org.freedesktop.ScreenSaver", "org.freedesktop.PowerManagement"


class Bus:
    """The inhibitors on a bus of their own; `do` runs them while a program asks."""

    def __init__(self, address: str) -> None:
        self.address, self.inhibits, self._poll = address, Inhibits(address), select.poll()

    def turn(self, seconds: float = 0.05) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.inhibits.service.watch(self._poll)
            self.inhibits.service.turn({fd for fd, _ in self._poll.poll(5)})

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(words, env=environment(self.address), stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, name: str, path: str, member: str, *args: str) -> str:
        asked = self.start(
            "gdbus", "call", "--session", "--dest", name, "--object-path", path, "--method", member, *args
        )
        while asked.poll() is None:
            self.turn(0.01)
        return asked.communicate()[0].decode()


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    with session_bus(tmp_path) as address:
        found = Bus(address)
        found.turn()
        yield found
        found.inhibits.service.drop()


HOLDER = """
import select, sys
sys.path.insert(0, sys.argv[2])
from twofold.guest.bus import Bus
asked = []
bus = Bus(sys.argv[1], lambda message: None)
for _ in range(int(sys.argv[3])):
    bus.call("org.freedesktop.ScreenSaver", "/org/freedesktop/ScreenSaver", "org.freedesktop.ScreenSaver", "Inhibit", "ss",
             "Player", "a film", then=asked.append)
while len(asked) < int(sys.argv[3]):
    bus.flush()
    select.select([bus.fd], [], [], 1)
    bus.read()
print("held", flush=True)
sys.stdin.read()
"""


def hold(bus: Bus, times: int = 1) -> subprocess.Popen[bytes]:
    program = bus.start(sys.executable, "-c", HOLDER, bus.address, str(Path(idle.__file__).parents[2]), str(times))
    assert program.stdout is not None
    while not select.select([program.stdout], [], [], 0)[0]:
        bus.turn(0.01)
    return program


def end(bus: Bus, program: subprocess.Popen[bytes]) -> None:
    program.kill()
    program.communicate()
    bus.turn()


def test_a_program_that_wants_it_awake_is_heard_until_it_has_gone(bus: Bus) -> None:
    program = hold(bus)
    assert bus.inhibits.any()
    assert "true" in bus.ask(POWER, "/org/freedesktop/PowerManagement/Inhibit", f"{POWER}.Inhibit.HasInhibit")
    bus.ask(SCREENSAVER, "/ScreenSaver", f"{SCREENSAVER}.UnInhibit", "uint32 1")
    assert bus.inhibits.any(), "another program took its wish away"
    end(bus, program)
    assert not bus.inhibits.any()
    assert "uint32" in bus.ask(SCREENSAVER, "/ScreenSaver", f"{SCREENSAVER}.Inhibit", "'Player'", "'a film'")
    bus.turn()
    assert not bus.inhibits.any(), "gdbus has left the bus"


def test_wishes_are_bounded(bus: Bus) -> None:
    program = hold(bus, 3 * MAX_INHIBITS)
    assert len(bus.inhibits._held) == MAX_INHIBITS
    end(bus, program)
    assert not bus.inhibits.any()


class Guest:
    """A guest in which nothing happens; each name that is set makes something happen. Its time goes by `step`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.said = 1000.0, list[dict[str, Any]]()
        self.busy, self.network, self.disk, self.untouched, self.inhibited, self.sound = 0.0, 0, 0, 100.0, False, False
        self.due = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "time", lambda: self.now)
        self.idle = Idle(
            lambda: self.untouched, lambda: self.inhibited, lambda: self.due, lambda line: self.said.append(json.loads(line)),
            lambda: Sample(self.busy, self.network, self.disk), lambda: self.sound,
        )  # fmt: skip

    def step(self, times: int = 1, **more: float) -> list[str]:
        """Let so many looks go by, `more` of each counter in every one of them; returns what was said."""
        self.said.clear()
        for _ in range(times):
            self.now += idle.STEP
            for name, value in more.items():
                setattr(self, name, getattr(self, name) + value)
            self.idle.turn()
        return [each["event"] for each in self.said]


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Guest:
    return Guest(monkeypatch)


def test_it_is_idle_after_a_while_of_nothing_and_busy_at_once(guest: Guest) -> None:
    assert guest.idle.wait_ms(None) is None and guest.step(10) == [], "nobody has asked"
    guest.idle.set({"on": True, "quiet": 20})
    assert guest.idle.wait_ms(None) == 5000 and guest.idle.wait_ms(100) == 100
    assert guest.step(3, busy=0.3) == []
    assert guest.step(1) == ["idle"] and guest.said[0]["due"] == 0
    assert guest.step(20, busy=1.0) == [], "what was idle may stir a little"
    assert guest.step(1, busy=4.0) == ["busy"]
    assert guest.step(4) == ["idle"]
    guest.idle.set({"on": False, "quiet": 20})
    assert guest.step(1, busy=5.0) == [] and guest.idle.wait_ms(None) is None
    with pytest.raises(Refusal):
        guest.idle.set({"on": 1, "quiet": 20})


@pytest.mark.parametrize(
    ("name", "value"),
    [("busy", 0.6), ("network", 10_000), ("disk", 2 << 20)],
)
def test_what_goes_on_keeps_it_awake(guest: Guest, name: str, value: float) -> None:
    guest.idle.set({"on": True, "quiet": 20})
    assert guest.step(20, **{name: value}) == []
    assert guest.step(4) == ["idle"]


@pytest.mark.parametrize(("name", "value"), [("untouched", 1.0), ("inhibited", True), ("sound", True)])
def test_a_person_a_program_or_a_sound_keeps_it_awake(guest: Guest, name: str, value: object) -> None:
    guest.idle.set({"on": True, "quiet": 20})
    before = getattr(guest, name)
    setattr(guest, name, value)
    assert guest.step(20) == []
    setattr(guest, name, before)
    assert guest.step(4) == ["idle"]
    setattr(guest, name, value)
    assert guest.step(1) == ["busy"]


def test_the_next_thing_is_named_and_the_one_after_it(guest: Guest) -> None:
    guest.idle.set({"on": True, "quiet": 20})
    guest.due = guest.now + 120
    assert guest.step(4) == ["idle"] and guest.said[0]["due"] == 100
    assert guest.step(19) == []
    guest.due = guest.now + 900
    assert guest.step(1) == ["idle"] and guest.said[0]["due"] == 895
    guest.due = guest.now + 1e9
    guest.idle.set({"on": True, "quiet": 20})
    assert guest.step(4) == ["idle"] and guest.said[0]["due"] == idle.MAX_DUE


def test_the_counters_are_this_systems() -> None:
    before = Sample.take()
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass
    after = Sample.take()
    assert 0.2 <= after.busy - before.busy < 60 and before.disk >= 0 and before.network >= 0
    assert not after.quiet_since(before, 0.3, 0.1)
    assert idle.sounds() in (False, True)
    assert idle.next_timer({"PATH": "/nowhere"}) == 0.0


def test_a_key_is_noticed() -> None:
    with xserver(320, 240) as server:
        display = Display(server.name)
        untouched = idle.Untouched(display).seconds
        time.sleep(0.3)
        before = untouched()
        assert 0.2 < before < 30
        subprocess.run(["xdotool", "key", "shift"], env={"DISPLAY": server.name, "PATH": "/usr/bin:/bin"}, check=True)
        assert untouched() < 0.3
