"""A workspace's past on the server, as this device asks for it: what is missing there, sealed files, commits, leaving."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.agent.remote import Remote
from twofold.agent.store import write_durably
from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, ConflictError, DamagedError, TwofoldError
from twofold.model.generation import Manifest, SealedFile

FILE = "backup.json"
SCHEMA = "twofold-backup-1"
LINE, BRANCH = "line", "branch"
_ASKED, _STEP = 4096, 256 << 10


@dataclass(frozen=True)
class Kept:
    """What of this workspace lies on the server, as this device last knew it: `head` is the newest generation's id, `content` the
    manifest that it is. `sent` is the newest that this device sent, which may be a branch's."""

    head: str
    content: Manifest
    kind: str = LINE

    def save(self, folder: Path) -> None:
        body = {"schema": SCHEMA, "head": self.head, "kind": self.kind, "content": self.content.to_wire()}
        write_durably(folder / FILE, canonical(body))

    @classmethod
    def load(cls, folder: Path) -> Kept | None:
        """None where nothing is there, or nothing that can be read: all of it is then read anew."""
        with suppress(OSError, ValueError, KeyError, TypeError, BadInputError):
            body = json.loads((folder / FILE).read_bytes())
            if body["schema"] == SCHEMA and body["kind"] in (LINE, BRANCH) and type(body["head"]) is str:
                return cls(body["head"], Manifest.from_wire(body["content"]), body["kind"])
        return None


@dataclass(frozen=True)
class Holding:
    """A lease as the server is shown it; one that was lost still says who may send a branch."""

    workspace: str
    token: int
    document: dict[str, Any]

    def to_wire(self) -> dict[str, Any]:
        return {"workspace": self.workspace, "token": self.token, "lease": self.document}


class GoneError(TwofoldError):
    """A sealed file of a generation has been rewritten: a newer generation has what was in it."""


class Past:
    """Blocking calls; they raise as `Remote`'s."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        if not remote.speaks():
            raise ConflictError(
                "Your company's server is too old to take back ups.",
                safe="Everything stays on this device.",
                next="Ask your administrator to update it.",
            )

    def missing(self, holding: Holding, files: Sequence[SealedFile]) -> dict[str, int]:
        """Digests of the files that the server lacks, with the bytes that it has of each."""
        found: dict[str, int] = {}
        for at in range(0, len(files), _ASKED):
            some = {file.digest: file.length for file in files[at : at + _ASKED]}
            body = holding.to_wire() | {"objects": [{"digest": name, "size": size} for name, size in some.items()]}
            rows = self._remote.call("POST", "device/objects/missing", body).get("missing")
            try:
                told = {str(row["digest"]): int(row["have"]) for row in rows or ()}
            except (KeyError, TypeError, ValueError) as off:
                raise BadInputError("The server's list of what it lacks cannot be read.") from off
            if any(name not in some or not 0 <= have <= some[name] for name, have in told.items()):
                raise BadInputError("The server asks for something else than it was offered.", safe="It was not sent.")
            found |= told
        return found

    def put(self, holding: Holding, file: SealedFile, path: Path, offset: int, told: Callable[[int], None]) -> None:
        """Send a file from `offset` on; `told` hears of each part, in bytes sent so far.

        Raises:
            GoneError: it is there no more. ConflictError: the server has another part of it.
        """

        def parts() -> Iterator[bytes]:
            with _opened(path) as fd:
                at = offset
                while at < file.length:
                    data = os.pread(fd, min(_STEP, file.length - at), at)
                    if not data:
                        raise GoneError(f"{file.name} is shorter than it was.")
                    yield data
                    at += len(data)
                    told(at - offset)

        what = f"device/objects/{holding.workspace}/{holding.token}/{file.digest}?size={file.length}&offset={offset}"
        self._remote.stream(what, parts, file.length - offset)

    def read(self, workspace: str, file: SealedFile, offset: int, length: int) -> bytes:
        """A range of a sealed file, as the server sends it; not verified."""
        headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
        untrusted = self._remote.send("GET", f"device/objects/{workspace}/{file.digest}", b"", length, headers)
        if len(untrusted) != length:
            raise DamagedError(
                f"The server has another length of {file.name} than its back up says.",
                safe="Nothing of it was used.",
                next="Tell your administrator:  twofold server verify",
            )
        return untrusted

    def devices(self) -> dict[str, str]:
        """The user's devices: public keys (Ed25519, hex) with their names, as the server says."""
        rows = self._remote.call("GET", "device/devices").get("devices")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BadInputError("The server's list of devices cannot be read.")
        return {str(row.get("public")): str(row.get("name"))[:60] for row in rows}

    def commit(self, holding: Holding, head: str, signed: dict[str, Any], keys: bytes) -> str:
        """Make a generation part of the past, and answer of which: the line, or a branch. Twice is once.

        Raises:
            ConflictError: files of it are missing, or the newest generation is not `head`.
        """
        body = holding.to_wire() | {"head": head, "generation": signed, "keys": json.loads(keys)}
        kind = self._remote.call("POST", "device/generations", body).get("kind")
        if kind not in (LINE, BRANCH):
            raise BadInputError("The server's answer to the back up cannot be read.")
        return str(kind)

    def document(self, workspace: str, generation: str) -> object:
        """The signed document of a generation; not verified."""
        return self._remote.call("GET", f"device/generations/{workspace}/{generation}", limit=64 << 20).get(
            "generation"
        )

    def listed(self, workspace: str) -> list[dict[str, Any]]:
        """Line and branches, newest first, as the server says."""
        rows = self._remote.call("GET", f"device/generations/{workspace}").get("generations")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BadInputError("The server's list of back ups cannot be read.")
        return rows

    def wraps(self, workspace: str, keys: bytes) -> None:
        """Add these keys' wraps to the server's."""
        rows = json.loads(keys)["wraps"]
        self._remote.call("POST", "device/wraps", {"workspace": workspace, "wraps": rows})

    def checkin(self, holding: Holding, generation: str) -> None:
        """Give the lease back. Raises: ConflictError: `generation` is not the newest."""
        body = {"workspace": holding.workspace, "token": holding.token, "generation": generation}
        self._remote.call("POST", "device/checkin", body)

    def discard(self, holding: Holding) -> None:
        """Give the lease back without what was not sent."""
        self._remote.call("POST", "device/discard", {"workspace": holding.workspace, "token": holding.token})


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError as gone:
        raise GoneError(f"{path.name} is gone.") from gone
    try:
        yield fd
    finally:
        os.close(fd)
