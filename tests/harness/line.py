"""A line between a device and its server, which can be slow, cut and mended, and counts what comes over it."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

_STEP = 16 << 10


class Line:
    """Listens on a port of its own. `rate` in bytes a second towards the device, 0 for as fast as it goes; `came` counts them."""

    def __init__(self, to: int, rate: int = 0) -> None:
        self._to, self.rate, self.came = to, rate, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._ends: list[socket.socket] = []
        self._cut = False
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def cut(self) -> None:
        """Who is connected is hung up on, and so is whoever comes."""
        self._cut = True
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def mend(self) -> None:
        self._cut = False

    def through(self, url: str) -> str:
        """An invitation to the same server, over this line."""
        return url.replace(f":{self._to}/", f":{self.port}/")

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                device, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(device,), daemon=True).start()

    def _serve(self, device: socket.socket) -> None:
        with device, suppress(OSError):
            if self._cut:
                return
            with socket.create_connection(("127.0.0.1", self._to)) as server:
                self._ends += [device, server]
                up = threading.Thread(target=self._carry, args=(device, server, False), daemon=True)
                up.start()
                self._carry(server, device, down=True)
                up.join()

    def _carry(self, source: socket.socket, sink: socket.socket, down: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_STEP):
                if down:
                    with self._turn:  # one line for all connections
                        self.came += len(data)
                        if self.rate:
                            time.sleep(len(data) / self.rate)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
