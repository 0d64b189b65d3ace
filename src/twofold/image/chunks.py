"""The image index: the manifest, and for each part the chunks it is made of. The publisher's targets name it, sealed.

A row says where a chunk's plaintext lies in its part and how to get it; what no row covers is zeroes. A chunk's id is the BLAKE3
hash of its *sealed* bytes, so that whoever carries it can verify it; its key opens it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from twofold.model.errors import BadInputError
from twofold.model.image import ImageVersion
from twofold.model.release import MAX_INDEX

__all__ = ["BLOCK", "MAX_CHUNK", "MAX_INDEX", "MAX_STORED", "Chunk", "ImageIndex", "Patch", "Range"]

SCHEMA, WITH_PATCHES = "twofold-index-1", "twofold-index-2"
BLOCK = 4096
MAX_CHUNK = 256 << 10
MAX_STORED = MAX_CHUNK + 64
MAX_CHUNKS = 4 << 20
MAX_RANGES = 1 << 18
MAX_PATCHES = 1 << 16

Range: TypeAlias = tuple[str, int, int]
"""A part's name; offset and length in bytes."""


class Chunk(NamedTuple):
    """`offset` and `size` in bytes of plaintext, `stored` in sealed bytes; `id` and `key` are 32 bytes each."""

    offset: int
    size: int
    stored: int
    id: bytes
    key: bytes


class Patch(NamedTuple):
    """Turns chunks of the former version, `old` (their `offset` and `stored` are 0), into the `rows` chunks of `part` from row
    `first` on. `id` and `stored` are those of its own sealed bytes, which are carried like a chunk's."""

    part: str
    first: int
    rows: int
    old: tuple[Chunk, ...]
    id: bytes
    stored: int


@dataclass(frozen=True)
class ImageIndex:
    """`chunks` by part name, ascending by offset and without overlap. `first_boot`: what a start was seen to read, in that order,
    as (part, offset, length) in bytes; it says what to fetch first, and outlives another cut of the same image. `patches`: what
    may be fetched instead of some chunks (`image.patches`)."""

    manifest: ImageVersion
    chunks: Mapping[str, tuple[Chunk, ...]]
    first_boot: tuple[Range, ...] = ()
    patches: tuple[Patch, ...] = ()

    @property
    def ids(self) -> dict[bytes, int]:
        """Every chunk once, with its stored bytes, in the order of the parts."""
        return {chunk.id: chunk.stored for rows in self.chunks.values() for chunk in rows}

    @property
    def objects(self) -> dict[bytes, int]:
        """What the server keeps of this version: chunks and patches, with their stored bytes."""
        return self.ids | {patch.id: patch.stored for patch in self.patches}

    def to_wire(self) -> dict[str, Any]:
        parts = {
            name: [[row.offset, row.size, row.stored, row.id.hex(), row.key.hex()] for row in rows]
            for name, rows in self.chunks.items()
        }
        first = {"first_boot": [list(each) for each in self.first_boot]} if self.first_boot else {}
        patches = {"patches": [_patch_to_wire(each) for each in self.patches]} if self.patches else {}
        schema = WITH_PATCHES if self.patches else SCHEMA
        return {"schema": schema, "manifest": self.manifest.to_wire(), "chunks": parts} | first | patches

    @classmethod
    def from_wire(cls, untrusted_index: object) -> ImageIndex:
        """
        Raises:
            BadInputError: it is not an index, or its rows do not fit the manifest's parts.
        """
        fields = {"schema", "manifest", "chunks"}
        if (
            not isinstance(untrusted_index, dict)
            or untrusted_index.get("schema") not in [SCHEMA, WITH_PATCHES]
            or untrusted_index.keys() - {"first_boot"} != fields | _NEWER[untrusted_index["schema"]]
        ):
            raise BadInputError("This is not an image index this version can read.", next="Update Twofold.")
        manifest = ImageVersion.from_wire(untrusted_index["manifest"])
        tables = untrusted_index["chunks"]
        if not isinstance(tables, dict) or tables.keys() != {part.name for part in manifest.parts}:
            raise BadInputError("The image index does not list the image's parts.")
        if sum(len(rows) if isinstance(rows, list) else MAX_CHUNKS + 1 for rows in tables.values()) > MAX_CHUNKS:
            raise BadInputError("The image index lists too many chunks.")
        chunks = {part.name: _table(part.name, part.size, tables[part.name]) for part in manifest.parts}
        first = ranges(untrusted_index.get("first_boot", []), manifest)
        return cls(manifest, chunks, first, _patches(untrusted_index.get("patches", []), chunks))


def ranges(untrusted_ranges: object, manifest: ImageVersion) -> tuple[Range, ...]:
    """Ranges of a manifest's parts, as `first_boot` has them. Raises: BadInputError."""
    if not isinstance(untrusted_ranges, list) or len(untrusted_ranges) > MAX_RANGES:
        raise BadInputError("The order of the first start is no list of ranges, or too long.")
    found = []
    for row in untrusted_ranges:
        name, offset, length = row if isinstance(row, list) and len(row) == 3 else ("", 0, 0)
        part = manifest.part(name) if type(name) is str else None
        if part is None or type(offset) is not int or type(length) is not int:
            raise BadInputError("The order of the first start has a malformed range.")
        if not 0 <= offset < offset + length <= part.size:
            raise BadInputError(f"The order of the first start has a range that lies outside of '{name}'.")
        found.append((part.name, offset, length))
    return tuple(found)


_NEWER: dict[str, set[str]] = {SCHEMA: set(), WITH_PATCHES: {"patches"}}


def _patch_to_wire(patch: Patch) -> list[Any]:
    old = [[row.size, row.id.hex(), row.key.hex()] for row in patch.old]
    return [patch.part, patch.first, patch.rows, old, patch.id.hex(), patch.stored]


def _patches(untrusted_patches: object, chunks: Mapping[str, tuple[Chunk, ...]]) -> tuple[Patch, ...]:
    if not isinstance(untrusted_patches, list) or len(untrusted_patches) > MAX_PATCHES:
        raise BadInputError("The image index has no list of patches, or one too long.")
    found, begun = [], 0
    for row in untrusted_patches:
        try:
            part, first, count, old, patch, stored = row
            rows = chunks[part]
            if not all(type(each) is int for each in (first, count, stored, *(size for size, _, _ in old))):
                raise ValueError
            if not 0 <= first < first + count <= len(rows) or not 28 < stored <= MAX_STORED:
                raise ValueError
            begun += len(old)
            if begun > MAX_CHUNKS or not all(0 < size <= MAX_CHUNK for size, _, _ in old):
                raise ValueError
            begin = tuple(Chunk(0, size, 0, _digest(chunk), _digest(key)) for size, chunk, key in old)
            found.append(Patch(part, first, count, begin, _digest(patch), stored))
        except (TypeError, ValueError, KeyError) as off:
            raise BadInputError("The image index has a malformed patch.") from off
    return tuple(found)


def _digest(untrusted_hex: str) -> bytes:
    found = bytes.fromhex(untrusted_hex)
    if len(found) != 32 or len(untrusted_hex) != 64:
        raise ValueError
    return found


def _table(part: str, size: int, untrusted_rows: list[Any]) -> tuple[Chunk, ...]:
    rows, end = [], 0
    for row in untrusted_rows:
        try:
            offset, length, stored, chunk, key = row
            ints = type(offset) is int and type(length) is int and type(stored) is int
            if (
                not ints
                or offset < end
                or offset % BLOCK
                or not 0 < length <= MAX_CHUNK
                or not 28 < stored <= MAX_STORED
            ):
                raise ValueError
            if len(chunk) != 64 or len(key) != 64:
                raise ValueError
            rows.append(Chunk(offset, length, stored, bytes.fromhex(chunk), bytes.fromhex(key)))
        except (TypeError, ValueError) as off:
            raise BadInputError(f"The image index of '{part}' has a malformed row.") from off
        end = offset + length
        if end > size or len(rows[-1].id) != 32 or len(rows[-1].key) != 32:
            raise BadInputError(f"The image index of '{part}' has a row that does not fit the part.")
    return tuple(rows)
