"""A network between a device and its server that can be slow, cut and mended, and counts what comes over it: a relay on the
loopback."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Self

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset
_STEP = 16 << 10


class Relay:
    """What connects to `port` talks to `to`, while it is whole. `rate` in bytes a second towards the device, 0 for as fast as it
    goes; `came` counts them."""

    def __init__(self, to: int, rate: int = 0) -> None:
        self._to, self._whole, self.rate, self.came = to, True, rate, 0
        self._lock, self._open = threading.Lock(), set[socket.socket]()
        self._turn = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def cut(self) -> None:
        """Every connection breaks, and no new one comes about."""
        with self._lock:
            self._whole = False
            for stream in self._open:
                with contextlib.suppress(OSError):
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    stream.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._whole = True

    def through(self, url: str) -> str:
        """An invitation to the same server, over this relay."""
        return url.replace(f":{self._to}/", f":{self.port}/")

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.closing(stream):
            if not self._whole:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                return
            with socket.create_connection(("127.0.0.1", self._to), 5) as there:
                there.settimeout(None)
                pair = {stream: there, there: stream}
                with self._lock:
                    self._open.update(pair)
                try:
                    self._carry(pair, there)
                finally:
                    with self._lock:
                        self._open.difference_update(pair)

    def _carry(self, pair: dict[socket.socket, socket.socket], there: socket.socket) -> None:
        while True:
            for one in select.select(list(pair), [], [])[0]:
                data = one.recv(_STEP)
                if not data or not self._whole:
                    return
                if one is there:
                    self._count(len(data))
                pair[one].sendall(data)

    def _count(self, length: int) -> None:
        with self._turn:  # one line for all connections
            self.came += length
            if self.rate:
                time.sleep(length / self.rate)
