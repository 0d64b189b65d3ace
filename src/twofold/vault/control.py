"""A conversation with the vault process: one JSON object a line, descriptors beside (docs/protocol.md, chapter 4)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from twofold.model.errors import DamagedError, TimedOutError, UnreachableError, from_wire
from twofold.model.progress import Progress, silent
from twofold.platform.peers import MAX_FDS, send_fds

_LINE_LIMIT = 1 << 20
_SECONDS = 60.0  # without a word, progress included


class Conversation:
    """One stream to the vault process. Calls are answered in order; any thread may make them."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        stream.settimeout(_SECONDS)
        self._buffer = bytearray()
        self._fds: list[int] = []
        self._number = 0
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def session(self) -> Iterator[Conversation]:
        """This very conversation, for calls that belong together."""
        yield self

    def close(self) -> None:
        self._drop()
        self._stream.close()

    def call(
        self,
        verb: str,
        args: dict[str, Any] | None = None,
        fds: Sequence[int] = (),
        progress: Progress = silent,
        step: str = "",
    ) -> tuple[dict[str, Any], list[int]]:
        """Ask and wait; the answer and its descriptors, which the caller closes.

        Raises:
            TwofoldError: what the process answered. UnreachableError, TimedOutError: it did not.
        """
        with self._turn:
            self._number += 1
            line = json.dumps({"id": self._number, "do": verb, "args": args or {}, "fds": len(fds)}).encode() + b"\n"
            try:
                send_fds(self._stream, line, list(fds))
                return self._answer(progress, step)
            except TimeoutError as late:
                raise TimedOutError("The workspace's store did not answer in time.") from late
            except OSError as gone:
                raise ended() from gone
            finally:
                self._drop()

    def _answer(self, progress: Progress, step: str) -> tuple[dict[str, Any], list[int]]:
        while True:
            message = self._line()
            if message.get("event") == "progress":
                progress(step, int(message["done"]), int(message["total"]))
                continue
            if message.get("id") != self._number:
                continue  # an event, or what is left of a call that timed out
            if "error" in message:
                raise from_wire(message["error"])
            wanted, self._fds, given = message.get("fds", 0), [], self._fds
            if wanted != len(given):
                for fd in given:
                    os.close(fd)
                raise DamagedError("The workspace's store sent another number of descriptors than it said.")
            return message["ok"], given

    def _line(self) -> dict[str, Any]:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _LINE_LIMIT:
                raise DamagedError("The workspace's store sent an endless line.")
            data, fds, _, _ = socket.recv_fds(self._stream, 1 << 16, MAX_FDS)
            self._fds += fds
            if not data:
                raise ended()
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        message = json.loads(line)
        if not isinstance(message, dict):
            raise DamagedError("The workspace's store sent a line that is no object.")
        return message

    def _drop(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


def ended() -> UnreachableError:
    return UnreachableError(
        "The workspace's store has stopped.",
        safe="What the guest had saved is on the disk.",
        next="Stop the workspace and start it again.",
    )
