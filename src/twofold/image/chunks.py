"""The image index: the manifest, and for each part the chunks it is made of. This is the document that a publisher signs.

A row says where a chunk's plaintext lies in its part and how to get it; what no row covers is zeroes. A chunk's id is the BLAKE3
hash of its *sealed* bytes, so that whoever carries it can verify it; its key opens it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from twofold.model.errors import BadInputError
from twofold.model.image import ImageVersion
from twofold.trust.keys import VerifyKey
from twofold.trust.signed import Context, verify

SCHEMA = "twofold-index-1"
BLOCK = 4096
MAX_CHUNK = 256 << 10
MAX_STORED = MAX_CHUNK + 64
MAX_CHUNKS = 4 << 20
MAX_INDEX = 256 << 20


class Chunk(NamedTuple):
    """`offset` and `size` in bytes of plaintext, `stored` in sealed bytes; `id` and `key` are 32 bytes each."""

    offset: int
    size: int
    stored: int
    id: bytes
    key: bytes


@dataclass(frozen=True)
class ImageIndex:
    """`chunks` by part name, ascending by offset and without overlap."""

    manifest: ImageVersion
    chunks: Mapping[str, tuple[Chunk, ...]]

    @property
    def ids(self) -> dict[bytes, int]:
        """Every chunk once, with its stored bytes, in the order of the parts."""
        return {chunk.id: chunk.stored for rows in self.chunks.values() for chunk in rows}

    def to_wire(self) -> dict[str, Any]:
        parts = {
            name: [[row.offset, row.size, row.stored, row.id.hex(), row.key.hex()] for row in rows]
            for name, rows in self.chunks.items()
        }
        return {"schema": SCHEMA, "manifest": self.manifest.to_wire(), "chunks": parts}

    @classmethod
    def from_wire(cls, untrusted_index: object) -> ImageIndex:
        """
        Raises:
            BadInputError: it is not an index, or its rows do not fit the manifest's parts.
        """
        fields = {"schema", "manifest", "chunks"}
        if (
            not isinstance(untrusted_index, dict)
            or untrusted_index.keys() != fields
            or untrusted_index["schema"] != SCHEMA
        ):
            raise BadInputError("This is not an image index this version can read.", next="Update Twofold.")
        manifest = ImageVersion.from_wire(untrusted_index["manifest"])
        tables = untrusted_index["chunks"]
        if not isinstance(tables, dict) or tables.keys() != {part.name for part in manifest.parts}:
            raise BadInputError("The image index does not list the image's parts.")
        if sum(len(rows) if isinstance(rows, list) else MAX_CHUNKS + 1 for rows in tables.values()) > MAX_CHUNKS:
            raise BadInputError("The image index lists too many chunks.")
        return cls(manifest, {part.name: _table(part.name, part.size, tables[part.name]) for part in manifest.parts})


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


def verified(untrusted_document: object, publishers: Iterable[VerifyKey], image: str, version: int) -> ImageIndex:
    """The index in a signed document, if a pinned publisher signed it for exactly this image and version.

    Raises:
        RefusedError: nobody trusted signed it. BadInputError: it is malformed, or another image or version.
    """
    index = ImageIndex.from_wire(verify(Context.IMAGE, untrusted_document, publishers))
    if (index.manifest.image, index.manifest.version) != (image, version):
        raise BadInputError(
            f"The server sent {index.manifest.image} version {index.manifest.version} for {image} version {version}.",
            safe="It was not used.",
            next="Tell your administrator: the server's images are mixed up or it is not honest.",
        )
    return index
