"""A vault of which a part lies elsewhere: its process asks for ranges, and this end answers with what it fetches. Nothing of it
is looked at here (docs/protocol.md, chapter 4, *What lies afar*)."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from twofold.model.errors import DamagedError, TimedOutError, TwofoldError, UnreachableError
from twofold.model.generation import SealedFile

RECORD = "afar"
_WORKERS = 3
_PATIENCE, _AGAIN = 8.0, 1.0  # the vault process keeps a request for ten seconds
_LARGEST = 1 << 20

# Reads a range (offset, length) of a sealed file of a workspace. Raises: TwofoldError.
Elsewhere = Callable[[str, SealedFile, int, int], bytes]


def named(where: Path) -> dict[str, SealedFile]:
    """The files of the vault in this folder that need not be there, by name; none once all of it is here.

    Raises:
        DamagedError: what says so cannot be read.
    """
    try:
        rows = json.loads((where / RECORD).read_bytes())["files"]
        return {row["name"]: SealedFile(row["name"], row["length"], row["digest"]) for row in rows}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as off:
        raise DamagedError(
            "What says which of the workspace's files are still to come is damaged.", safe="Nothing was changed."
        ) from off


class Feed:
    """Answers one vault process until that ends, or `close`. `away` is why the last range could not be had, if it could not;
    `came` counts bytes."""

    def __init__(self, workspace: str, files: Mapping[str, SealedFile], elsewhere: Elsewhere) -> None:
        self._workspace, self._files, self._elsewhere = workspace, files, elsewhere
        self._stream, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._sending = threading.Lock()
        self._over = False
        self.away: TwofoldError | None = None
        self.came = 0
        for work in (self._listen, *[self._work] * _WORKERS):
            threading.Thread(target=work, daemon=True, name=f"feed {workspace}").start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def giving(self) -> Any:
        """The other end, for the vault process."""
        try:
            yield self._theirs.fileno()
        finally:
            self._theirs.close()

    def close(self) -> None:
        """Idempotent."""
        self._over = True
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        try:
            with self._stream.makefile("rb") as lines:
                for line in lines:
                    for name, offset, length in json.loads(line)["want"]:
                        self._asked.put((str(name), int(offset), int(length)))
        except (OSError, ValueError, KeyError, TypeError):
            pass  # it has ended in the middle of a line
        finally:
            self._over = True
            self._stream.close()
            for _ in range(_WORKERS):
                self._asked.put(None)

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None and not self._over:
            name, offset, length = asked
            head = {"name": name, "offset": offset, "length": length}
            try:
                data = self._read(name, offset, length)
            except TwofoldError as failed:
                self.away = failed
                self._send(head | {"why": failed.happened.rstrip(".")[:500]}, b"")
            else:
                self.away = None
                self.came += len(data)
                self._send(head, data)

    def _read(self, name: str, offset: int, length: int) -> bytes:
        file = self._files.get(name)
        if file is None or not 0 <= offset < offset + length <= file.length or length > _LARGEST:
            raise DamagedError("The workspace's store asks for what its back up does not have.")
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._elsewhere(self._workspace, file, offset, length)
            except (UnreachableError, TimedOutError) as away:
                self.away = away
                if time.monotonic() > until or self._over:
                    raise
                time.sleep(_AGAIN)

    def _send(self, head: dict[str, Any], data: bytes) -> None:
        with self._sending, contextlib.suppress(OSError):
            self._stream.sendall(json.dumps(head).encode() + b"\n" + data)


def here(where: Path, files: Sequence[SealedFile]) -> int:
    """Bytes of these files that are in the folder, whole."""
    there = set(os.listdir(where))  # noqa: PTH208 - names alone
    return sum(file.length for file in files if file.name in there)
