"""Ways to a server: one that counts what goes through it, TLS and all, and one as slow and as long as a line to a real one.

The second is a pair of network namespaces, and packets that this process carries between them: each waits until those before
it have had their time at the link's rate, and then for its way. (The kernel's netem is missing from some, and wants root.)
"""

from __future__ import annotations

import array
import os
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from bench.checkout_inside import MTU

SERVER, DEVICE = 0, 1
ADDRESSES = ("10.77.0.1", "10.77.0.2")
_QUEUE = 0.25  # seconds of packets that wait at most; what comes then is lost, as in a router


class Link:
    """`rate` in bits a second, 0 for as fast as it goes; `delay` in seconds for one way. `received` are the bytes of packets that
    came out at each end."""

    def __init__(self) -> None:
        self.rate, self.delay = 0, 0.0
        self.received = [0, 0]
        self._ends: list[int | None] = [None, None]
        self._queues: list[deque[tuple[float, bytes]]] = [deque(), deque()]
        self._ways = [threading.Condition(), threading.Condition()]
        self._over = threading.Event()
        for side in (SERVER, DEVICE):
            threading.Thread(target=self._deliver, args=(side,), daemon=True).start()

    def shape(self, megabits: int, milliseconds: int) -> None:
        """From now on; a round trip takes so long."""
        self.rate, self.delay = megabits * 1_000_000, milliseconds / 2000

    def words(self, side: int, words: Sequence[str]) -> tuple[list[str], socket.socket, socket.socket]:
        """The command that runs `words` at one end; the socket that it inherits, and the one to give to `attach`."""
        theirs, ours = socket.socketpair()
        enter = ["unshare", "--user", "--map-current-user", "--net", "--keep-caps", sys.executable]
        inside = ["-m", "bench.checkout_inside", str(theirs.fileno()), ADDRESSES[side]]
        return [*enter, *inside, *words], theirs, ours

    def attach(self, side: int, ours: socket.socket) -> None:
        """Take the end that the program has made."""
        fds = array.array("i")
        ours.settimeout(20)
        with ours:
            _, rights, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(fds.itemsize))
        fds.frombytes(rights[0][2])
        self._ends[side] = fds[0]
        threading.Thread(target=self._collect, args=(side, fds[0]), daemon=True).start()

    def close(self) -> None:
        self._over.set()

    def _collect(self, side: int, end: int) -> None:
        """What leaves at one end waits in the queue of the other."""
        to, free = 1 - side, 0.0
        with suppress(OSError):
            while not self._over.is_set() and self._ends[side] == end:
                if not select.select([end], [], [], 0.5)[0]:
                    continue
                packet, now = os.read(end, MTU + 64), time.monotonic()
                free = max(free, now)
                if self.rate:
                    if free - now > _QUEUE:
                        continue
                    free += len(packet) * 8 / self.rate
                with self._ways[to]:
                    self._queues[to].append((free + self.delay, packet))
                    self._ways[to].notify()
        os.close(end)

    def _deliver(self, side: int) -> None:
        queue, way = self._queues[side], self._ways[side]
        while not self._over.is_set():
            with way:
                while not queue:
                    if not way.wait(0.5) and self._over.is_set():
                        return
                due, packet = queue.popleft()
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            end = self._ends[side]
            with suppress(OSError):  # nobody is there any more
                if end is not None:
                    os.write(end, packet)
                    self.received[side] += len(packet)


class Relay:
    """Listens on a port of this machine and hands everything on to another one."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._counts = [0, 0]
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def bytes(self) -> int:
        return sum(self._counts)

    def close(self) -> None:
        for end in (self._listening, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._ends += (near, far)
                for way, pair in enumerate(((near, far), (far, near))):
                    threading.Thread(target=self._pump, args=(way, *pair), daemon=True).start()

    def _pump(self, way: int, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 18):
                self._counts[way] += len(data)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextmanager
def counted(port: int) -> Iterator[Relay]:
    relay = Relay(port)
    try:
        yield relay
    finally:
        relay.close()
