"""Whether anything happens in here, and when the next thing is due: only while the host wants to know (docs/protocol.md, 1)."""

from __future__ import annotations

import ctypes as c
import json
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.guest import bus, programs, wire
from twofold.guest.service import Service
from twofold.guest.wire import Refusal
from twofold.guest.xlib import Display, library

STEP = 5.0  # seconds between two looks, at most
STILL, BUSY = 0.10, 0.50  # of one processor: less is nothing; of what was idle, more is something
NETWORK, DISK = 8192, 1 << 20  # bytes in a step that are nothing yet
MAX_INHIBITS, MAX_DUE = 64, 7 * 86400
_HERTZ = 100  # of /proc/stat (proc_stat(5): USER_HZ)
_SECTOR = 512
_NAMES = ("org.freedesktop.ScreenSaver", "org.freedesktop.PowerManagement")
_GONE = "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='{}'"

_p, _u, _i = c.c_void_p, c.c_ulong, c.c_int


class Inhibits:
    """Programs that want the machine to stay awake say so by org.freedesktop.ScreenSaver or org.freedesktop.PowerManagement; who
    has left the bus wants nothing any more."""

    def __init__(self, address: str) -> None:
        does: Any = {
            "Inhibit": self._inhibit, "UnInhibit": self._uninhibit, "HasInhibit": lambda _: ("b", (self.any(),)),
            "GetActive": lambda _: ("b", (False,)), "SimulateUserActivity": lambda _: ("", ()),
        }  # fmt: skip
        self.service = Service(address, _NAMES, does, self._signalled, self._lost)
        self.service.wanted = True
        self._held: dict[int, str] = {}  # cookie, and who
        self._last = 0

    def any(self) -> bool:
        return bool(self._held)

    def _inhibit(self, untrusted_call: bus.Message) -> tuple[str, tuple[Any, ...]]:
        untrusted_call.args("ss")
        if len(self._held) >= MAX_INHIBITS:
            raise Refusal("LimitsExceeded", "So many keep it awake already.")
        self._last = self._last % 0x7FFFFFFF + 1
        if untrusted_call.sender not in self._held.values():
            self._match("AddMatch", untrusted_call.sender)
        self._held[self._last] = untrusted_call.sender
        return "u", (self._last,)

    def _uninhibit(self, untrusted_call: bus.Message) -> tuple[str, tuple[Any, ...]]:
        (cookie,) = untrusted_call.args("u")
        if self._held.get(cookie) == untrusted_call.sender:
            self._drop(cookie)
        return "", ()

    def _signalled(self, signal: bus.Message) -> None:
        if signal.member == "NameOwnerChanged" and signal.signature == "sss":
            name, _, now = signal.args("sss")
            for cookie in [cookie for cookie, sender in self._held.items() if sender == name and not now]:
                self._drop(cookie)

    def _drop(self, cookie: int) -> None:
        sender = self._held.pop(cookie)
        if sender not in self._held.values():
            self._match("RemoveMatch", sender)

    def _match(self, verb: str, sender: str) -> None:
        if self.service.bus is not None:
            self.service.bus.call(bus.BUS, bus.BUS_PATH, bus.BUS, verb, "s", _GONE.format(sender))

    def _lost(self) -> None:
        self._held.clear()


@dataclass(frozen=True)
class Sample:
    """Counters since the start: seconds of all processors, bytes through the network and to and from disks."""

    busy: float
    network: int
    disk: int

    @classmethod
    def take(cls, proc: Path = Path("/proc")) -> Sample:
        stat = (proc / "stat").read_text().split("\n", 1)[0].split()[1:]
        lines = [line.split() for line in (proc / "net/dev").read_text().replace(":", " ").splitlines()[2:]]
        disks = [line.split() for line in (proc / "diskstats").read_text().splitlines()]
        return cls(
            sum(int(stat[at]) for at in (0, 1, 2, 5, 6)) / _HERTZ,
            sum(int(words[1]) + int(words[9]) for words in lines if words[0] != "lo"),
            sum(int(words[5]) + int(words[9]) for words in disks if words[2].startswith(("vd", "xvd"))) * _SECTOR,
        )

    def quiet_since(self, former: Sample, seconds: float, processor: float) -> bool:
        return (
            self.busy - former.busy <= processor * seconds
            and self.network - former.network <= NETWORK
            and self.disk - former.disk <= DISK
        )


def sounds(proc: Path = Path("/proc")) -> bool:
    """Whether a sound card plays or records."""
    for status in proc.glob("asound/card*/pcm*/sub*/status"):
        try:
            if status.read_text().startswith("state: RUNNING"):
                return True
        except OSError:
            continue  # it is being taken away
    return False


def next_timer(environment: Mapping[str, str]) -> float:
    """When systemd's next timer elapses, in Unix seconds; 0 for never."""
    try:
        said = programs.run(["systemctl", "list-timers", "--all", "--output=json"], environment)
        times = [row.get("next") for row in json.loads(said.stdout or b"[]")]
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError):
        return 0.0
    return min((at / 1e6 for at in times if isinstance(at, int) and at > 0), default=0.0)


class _Counter(c.Structure):
    _fields_ = [("name", c.c_char_p), ("id", _u), ("step_high", _i), ("step_low", c.c_uint)]


class _Value(c.Structure):
    _fields_ = [("high", _i), ("low", c.c_uint)]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "XSyncInitialize": (_i, [_p, _p, _p]), "XSyncListSystemCounters": (c.POINTER(_Counter), [_p, _p]),
    "XSyncFreeSystemCounterList": (None, [_p]), "XSyncQueryCounter": (_i, [_p, _u, _p]),
}  # fmt: skip


class Untouched:
    """How long nobody has touched or typed: the counter IDLETIME (X Synchronization extension)."""

    def __init__(self, display: Display) -> None:
        self._d, self._counter = display, 0
        self._x = library("libXext.so.6", _SIGNATURES)
        if self._x.XSyncInitialize(display.handle, c.byref(_i()), c.byref(_i())):
            count = _i()
            found = self._x.XSyncListSystemCounters(display.handle, c.byref(count))
            for each in found[: count.value] if found else ():
                if each.name == b"IDLETIME":
                    self._counter = each.id
            self._x.XSyncFreeSystemCounterList(found)

    def seconds(self) -> float:
        value = _Value()
        if not self._counter or not self._x.XSyncQueryCounter(self._d.handle, self._counter, c.byref(value)):
            return 0.0  # where that can't be told, somebody may be there
        return float((value.high << 32) + value.low) / 1000


class Idle:
    """Looks now and then while the host wants to know. `untouched` is in seconds, `inhibited` asks for programs' wishes."""

    def __init__(
        self,
        untouched: Callable[[], float],
        inhibited: Callable[[], bool],
        due: Callable[[], float],
        emit: Callable[[bytes], None],
        sample: Callable[[], Sample] = Sample.take,
        sounding: Callable[[], bool] = sounds,
    ) -> None:
        self._untouched, self._inhibited, self._next, self._emit = untouched, inhibited, due, emit
        self._sample, self._sounding = sample, sounding
        self._last: tuple[float, Sample] | None = None  # while the host wants to know
        self._long, self._step = 0, STEP
        self._quiet = 0.0  # since when nothing happens; 0 while something does
        self._said = False  # that it is idle
        self._due = 0.0  # Unix seconds; 0 for never

    def set(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """The host wants to know from now on, or not any more: of a time in which nothing has happened for `quiet` seconds."""
        on, self._long = args.get("on"), wire.integer(args, "quiet", 1, 3600)
        if type(on) is not bool:
            raise Refusal("bad-argument", "on must be true or false.")
        self._step = min(STEP, self._long / 4)
        self._said, self._quiet = False, 0.0
        self._last = (time.monotonic(), self._sample()) if on else None
        return {}

    def wait_ms(self, others: int | None) -> int | None:
        if self._last is None:
            return others
        mine = max(10, round((self._last[0] + self._step - time.monotonic()) * 1000))
        return mine if others is None else min(mine, others)

    def turn(self) -> None:
        now = time.monotonic()
        if self._last is None or now < self._last[0] + self._step:
            return
        (before, former), sample = self._last, self._sample()
        self._last = now, sample
        quiet = (
            sample.quiet_since(former, now - before, BUSY if self._said else STILL)
            and self._untouched() >= self._step
            and not self._inhibited()
            and not self._sounding()
        )
        if not quiet:
            self._quiet = 0.0
            if self._said:
                self._said = False
                self._emit(wire.event("busy"))
            return
        self._quiet = self._quiet or before
        if (self._said and 0 < self._due <= time.time()) or (not self._said and now - self._quiet >= self._long):
            self._said = True
            self._due = self._next()
            left = self._due - time.time()
            self._emit(wire.event("idle", due=0 if self._due <= 0 else min(MAX_DUE, max(1, int(left)))))
