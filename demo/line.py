"""A device's way to the server, and its cut.

Two kinds. As an ordinary user each device has a **relay**: it reaches the server only through a socket of ours, which from the
cut on passes nothing in either direction and closes nothing; that is what a pulled cable looks like from both ends. Where
`tools/demo-roam` runs as root each device lives in a **network namespace** of its own, on a cable to a bridge, and the cut takes
the cable's link down.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

_BUFFER = 1 << 16


class Line(Protocol):
    """`address` turns the server's into the one by which this device reaches it."""

    def address(self, url: str) -> str: ...
    def cut(self) -> None: ...
    def mend(self) -> None: ...


class Relay:
    """A `Line` through a port of this process."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._whole = threading.Event()
        self._whole.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def address(self, url: str) -> str:
        return re.sub(r"^(https://[^/:]+):\d+", rf"\g<1>:{self._port}", url)

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def close(self) -> None:
        self._listener.close()
        self._whole.set()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        self._whole.wait()
        with suppress(OSError), near, socket.create_connection(("127.0.0.1", self._to)) as far:
            other = threading.Thread(target=self._pass, args=(far, near), daemon=True)
            other.start()
            self._pass(near, far)
            other.join()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_BUFFER):
                self._whole.wait()
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Cable:
    """A `Line` that is a link between namespaces; `orders` is the pipe to `tools/demo-roam`, root with few words."""

    def __init__(self, orders: Path, end: str) -> None:
        self._orders, self._end = orders, end

    def address(self, url: str) -> str:
        return url

    def order(self, *words: str) -> None:
        fd = os.open(self._orders, os.O_WRONLY)
        try:
            os.write(fd, " ".join([words[0], self._end, *words[1:]]).encode() + b"\n")
        finally:
            os.close(fd)

    def cut(self) -> None:
        self.order("down")

    def mend(self) -> None:
        self.order("up")


@contextmanager
def relay(port: int) -> Iterator[Relay]:
    made = Relay(port)
    try:
        yield made
    finally:
        made.close()
