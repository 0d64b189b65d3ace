"""Generations over a conversation with the vault process (docs/protocol.md, chapter 4), and what they are made of."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from twofold.model.errors import DamagedError
from twofold.model.generation import SealedFile
from twofold.model.progress import Progress, silent
from twofold.platform import memfd
from twofold.vault.control import Conversation
from twofold.vault.process import Process
from twofold.vault.seam import Contents, Generation, Reading


class Generations:
    """`twofold.vault.seam.Generations`."""

    _talk: Conversation | Process

    def sweep(self) -> None:
        self._talk.call("sweep")

    def commit(self, note: str) -> Generation:
        made, _ = self._talk.call("commit", {"note": note})
        return Generation(made["generation"], made["time"], note)

    def generations(self) -> tuple[Generation, ...]:
        rows = self._talk.call("generations")[0]["generations"]
        return tuple(Generation(row["generation"], row["time"], row["note"]) for row in rows)

    def forget(self, generation: int) -> None:
        self._talk.call("forget", {"generation": generation})

    def revert(self, generation: int) -> None:
        self._talk.call("revert", {"generation": generation})

    def changed(self, device: str, since: int) -> Iterator[tuple[int, int]]:
        at: int | None = 0
        while at is not None:
            answer, _ = self._talk.call("changed", {"device": device, "since": since, "offset": at})
            yield from ((offset, length) for offset, length in answer["ranges"])
            at = answer["next"]

    @contextlib.contextmanager
    def reading(
        self,
        generation: int | None,
        *,
        note: str = "",
        known: Sequence[SealedFile] = (),
        progress: Progress = silent,
    ) -> Iterator[Reading]:
        with self._talk.session() as talk, contextlib.ExitStack() as stack:
            fds = [stack.enter_context(_holding(known))] if known else []
            body, given = talk.call(
                "begin_export", {"generation": generation, "note": note}, fds, progress, "reading what is new"
            )
            number = body.pop("export")
            try:
                yield _Reading(talk, number, _contents(body, _whole(given)))
            finally:
                # One that has ended has let the files go by itself.
                with contextlib.suppress(Exception):
                    talk.call("end_export", {"export": number})

    def upgrade(self) -> dict[str, Any]:
        return self._talk.call("upgrade")[0]


class _Reading:
    """`twofold.vault.seam.Reading`."""

    def __init__(self, talk: Conversation, number: int, contents: Contents) -> None:
        self._talk, self._number, self.contents = talk, number, contents

    def open(self, name: str) -> int:
        return one(self._talk.call("export_file", {"export": self._number, "name": name})[1])

    def digest(self, fd: int, length: int) -> str:
        return digest(self._talk, fd, length)


def digest(talk: Conversation, fd: int, length: int) -> str:
    """BLAKE3 of the first `length` bytes behind the descriptor, 64 hex digits. Raises: DamagedError: it is shorter."""
    os.lseek(fd, 0, os.SEEK_SET)
    return str(talk.call("digest", {"length": length}, [fd])[0]["digest"])


def one(fds: list[int]) -> int:
    """The one descriptor that an answer must bring."""
    if len(fds) != 1:
        for fd in fds:
            os.close(fd)
        raise DamagedError("The workspace's store did not send what was asked for.")
    return fds[0]


def files_to_wire(files: Sequence[SealedFile]) -> list[dict[str, Any]]:
    return [{"name": file.name, "length": file.length, "digest": file.digest} for file in files]


@contextlib.contextmanager
def holding(document: Any) -> Iterator[int]:
    """A descriptor from which the vault process reads a document that may be long."""
    fd = memfd.holding("twofold-manifest", json.dumps(document).encode())
    try:
        yield fd
    finally:
        os.close(fd)


def _holding(files: Sequence[SealedFile]) -> contextlib.AbstractContextManager[int]:
    return holding(files_to_wire(files))


def _whole(given: list[int]) -> list[dict[str, Any]]:
    fd = one(given)
    with os.fdopen(fd, "rb") as file:
        found: list[dict[str, Any]] = json.loads(file.read())
    return found


def _contents(body: dict[str, Any], rows: list[dict[str, Any]]) -> Contents:
    return Contents(
        vault=body["vault"],
        made=body["made"],
        generation=body["generation"],
        time=body["time"],
        note=body["note"],
        epoch=body["epoch"],
        root=body["root"],
        pieces=body["pieces"],
        files=tuple(SealedFile(row["name"], row["length"], row["digest"]) for row in rows),
    )
