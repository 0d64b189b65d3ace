"""A network between a device and its server that can be cut: a relay on the loopback."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from types import TracebackType
from typing import Self

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset
_STEP = 1 << 16


class Relay:
    """What connects to `port` talks to `to`, while it is whole."""

    def __init__(self, to: int) -> None:
        self._to, self._whole = to, True
        self._lock, self._open = threading.Lock(), set[socket.socket]()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
                    self._carry(pair)
                finally:
                    with self._lock:
                        self._open.difference_update(pair)

    def _carry(self, pair: dict[socket.socket, socket.socket]) -> None:
        while True:
            for one in select.select(list(pair), [], [])[0]:
                data = one.recv(_STEP)
                if not data or not self._whole:
                    return
                pair[one].sendall(data)
