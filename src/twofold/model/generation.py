"""What a generation of a vault is made of: the record that exports carry and servers store (docs/protocol.md, chapter 5)."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError
from twofold.model.image import Arch
from twofold.model.names import slug

# The second also says for which architecture the system was; a system for amd64 is described by the first, as ever.
SCHEMA, WITH_ARCH = "twofold-generation-1", "twofold-generation-2"
# A segment of 16384 slots behind its header; a pack of as many slots, with the records of 1024 segments.
LARGEST_FILE = 64 + 2112 * 1024 + 32 + 4128 * 16384
MOST_FILES = 1 << 20
_NAME = re.compile(r"[sp]-[0-9a-f]{16}")
_COUNT_LIMIT = 1 << 53  # beyond it JSON's readers disagree


@dataclass(frozen=True)
class SealedFile:
    """A file of the vault: its first `length` bytes never change again. `digest` is their BLAKE3, 64 hex digits."""

    name: str
    length: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """Signed by the device that wrote the generation, whose Ed25519 key is `signer` (64 hex digits). `vault` is 32 hex digits,
    `root` 16 (an address, opaque without keys), `pieces` the root's slots, `epoch` the newest key epoch in it, times in seconds.
    `parent` is the `id` of the manifest that this one follows, "" for none. `image`, `image_version` and `arch` are what the
    system disk stands on. `files` ascend by name."""

    workspace: str
    signer: str
    vault: str
    made: int
    generation: int
    parent: str
    time: int
    note: str
    epoch: int
    root: str
    pieces: int
    image: str
    image_version: int
    files: tuple[SealedFile, ...]
    arch: str = Arch.AMD64

    @property
    def id(self) -> str:
        """Hex SHA-256 of its canonical form: what a successor names as its parent."""
        return hashlib.sha256(canonical(self.to_wire())).hexdigest()

    @property
    def device(self) -> str:
        """The signer's id, as servers know it."""
        return hashlib.sha256(bytes.fromhex(self.signer)).hexdigest()

    @property
    def length(self) -> int:
        """Bytes of all files."""
        return sum(file.length for file in self.files)

    def lacking(self, there: Mapping[str, SealedFile]) -> tuple[SealedFile, ...]:
        """The files that somebody who has those `there`, by name, still needs."""
        return tuple(file for file in self.files if there.get(file.name) != file)

    def by_name(self) -> dict[str, SealedFile]:
        return {file.name: file for file in self.files}

    def to_wire(self) -> dict[str, Any]:
        body = dataclasses.asdict(self) | {"files": [dataclasses.asdict(file) for file in self.files]}
        if self.arch == Arch.AMD64:
            del body["arch"]
        return {"schema": WITH_ARCH if "arch" in body else SCHEMA} | body

    @classmethod
    def from_wire(cls, untrusted_manifest: object) -> Manifest:
        """Validate a manifest's shape. Whose it is, is checked before, over its bytes, by `trust`.

        Raises:
            BadInputError: a field is missing, unknown, or not what it must be; it is named.
        """
        schema = untrusted_manifest.get("schema") if isinstance(untrusted_manifest, dict) else None
        if not isinstance(untrusted_manifest, dict) or schema not in (SCHEMA, WITH_ARCH):
            raise BadInputError("This is not a generation that this version can read.", next="Update Twofold.")
        body = {key: value for key, value in untrusted_manifest.items() if key != "schema"}
        names = {field.name for field in dataclasses.fields(cls)} - ({"arch"} if schema == SCHEMA else set())
        if body.keys() != names:
            raise _off(f"its fields ({', '.join(sorted(str(name)[:40] for name in body.keys() ^ names))[:200]})")
        for name, least in (
            ("made", 0),
            ("generation", 1),
            ("time", 0),
            ("epoch", 1),
            ("pieces", 1),
            ("image_version", 0),
        ):
            _count(body[name], name, least)
        for name, digits in (("signer", 64), ("vault", 32), ("root", 16)):
            _hex(body[name], name, digits)
        if body["parent"] != "":
            _hex(body["parent"], "parent", 64)
        for name in ("workspace", "image", "arch"):
            if type(body.get(name, "")) is not str:
                raise _off(name)
        if body.get("arch") == Arch.AMD64:
            raise _off("arch (the first form says this one)")
        if type(body["note"]) is not str or len(body["note"]) > 200 or not body["note"].isprintable():
            raise _off("note")
        if int(body["root"], 16) >> 62 or body["pieces"] > 16384 or body["epoch"] >> 32:
            raise _off("root")
        files = _files(body.pop("files"))
        own = f"s-{int(body['root'], 16) >> 14:016x}"
        if not any(file.name == own for file in files):
            raise _off("files (the one that its root lies in is not among them)")
        slug(body["workspace"], "a workspace")
        slug(body["image"], "an image")
        slug(body.get("arch", Arch.AMD64), "an architecture")
        return cls(files=files, **body)


def _files(untrusted_rows: object) -> tuple[SealedFile, ...]:
    if not isinstance(untrusted_rows, list) or not 1 <= len(untrusted_rows) <= MOST_FILES:
        raise _off("files")
    found: list[SealedFile] = []
    for row in untrusted_rows:
        if not isinstance(row, dict) or row.keys() != {"name", "length", "digest"}:
            raise _off("files")
        name = row["name"]
        if type(name) is not str or not _NAME.fullmatch(name):
            raise _off(f"files (a name: {str(name)[:60]!r})")
        if found and name <= found[-1].name:
            raise _off(f"files (out of order, or twice: {name})")
        _count(row["length"], f"files (the length of {name})", 1)
        if row["length"] > LARGEST_FILE:
            raise _off(f"files (the length of {name})")
        _hex(row["digest"], f"files (the digest of {name})", 64)
        found.append(SealedFile(name, row["length"], row["digest"]))
    return tuple(found)


def _count(value: object, name: str, least: int) -> None:
    if type(value) is not int or not least <= value < _COUNT_LIMIT:
        raise _off(name)


def _hex(value: object, name: str, digits: int) -> None:
    if type(value) is not str or len(value) != digits or value.strip("0123456789abcdef"):
        raise _off(name)


def _off(what: str) -> BadInputError:
    return BadInputError(f"The record of the generation is not valid: {what}.", safe="Nothing of it was used.")
