"""A company's network: machines as network namespaces on one bridge, whose cables can be pulled. Needs root and iproute2."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_NEWNET = 0x40000000  # setns(2)
_SUBNET = "10.213.77"


class Network:
    """`names` get the addresses .1, .2 and so on."""

    def __init__(self, names: Sequence[str]) -> None:
        self._tag = f"tf{os.getpid() % 100_000:x}"
        self.address = {name: f"{_SUBNET}.{number}" for number, name in enumerate(names, 1)}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            for name in ("bridge", *self.address):
                _ip("netns", "add", self._space(name))
                undo.callback(_ip, "netns", "del", self._space(name))
                self._in(name, "link", "set", "lo", "up")
            self._in("bridge", "link", "add", "br0", "type", "bridge")
            self._in("bridge", "link", "set", "br0", "up")
            for name, address in self.address.items():
                port = ("link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", self._space(name))
                self._in("bridge", *port)
                self._in("bridge", "link", "set", f"to-{name}", "master", "br0", "up")
                self._in(name, "address", "add", f"{address}/24", "dev", "eth0")
                self._in(name, "link", "set", "eth0", "up")
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def _space(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def _in(self, name: str, *words: str) -> None:
        _ip("-n", self._space(name), *words)

    @contextlib.contextmanager
    def at(self, name: str) -> Iterator[None]:
        """This thread is at that machine: what it connects to and starts is there."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(Path("/run/netns") / self._space(name))
            yield
        finally:
            _set(before)
            os.close(before)

    def pull(self, name: str) -> None:
        """Its cable is out."""
        self._in("bridge", "link", "set", f"to-{name}", "down")

    def plug(self, name: str) -> None:
        self._in("bridge", "link", "set", f"to-{name}", "up")

    @contextlib.contextmanager
    def unanswered(self, name: str, by: str) -> Iterator[None]:
        """What it sends arrives at the other one; nothing comes back."""
        route = ("route", "add", "blackhole", f"{self.address[name]}/32")
        self._in(by, *route)
        try:
            yield
        finally:
            self._in(by, "route", "del", *route[2:])

    @contextlib.contextmanager
    def flapping(self, name: str, up: float, down: float) -> Iterator[list[int]]:
        """Its cable has a bad contact; the list has one entry for each time that it was out."""
        over, times = threading.Event(), list[int]()

        def flap() -> None:
            while not over.wait(up):
                self.pull(name)
                over.wait(down)
                self.plug(name)
                times.append(1)

        thread = threading.Thread(target=flap)
        thread.start()
        try:
            yield times
        finally:
            over.set()
            thread.join()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _enter(path: Path) -> None:
    space = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set(space)
    finally:
        os.close(space)


def _set(space: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(space, _NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
