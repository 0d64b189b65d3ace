"""An image version as what a workspace's disks stand on: the index for the vault process, and what the agent fetches by.

The vault process gets the keys of the chunks once, at check-out, and seals them (crates/vaultd/src/index.rs has the form). What
the agent keeps says which chunks there are and in which order they are wanted, and opens nothing.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from twofold.image.chunks import Chunk, ImageIndex
from twofold.model.errors import DamagedError

_INDEX, _LIST = b"twofold-base-1\n", b"twofold-chunks-1\n"
_ROW, _ENTRY = struct.Struct("<QI32s32s"), struct.Struct("<32sI")


def index(image: ImageIndex, devices: Iterable[str]) -> bytes:
    """The plain index of the parts that devices of the same names stand on. It holds the chunks' keys."""
    tables = [(name, image.manifest.part(name), image.chunks[name]) for name in devices]
    out = bytearray(_INDEX + struct.pack("<H", len(tables)))
    for name, part, rows in tables:
        assert part is not None  # it has chunks
        out += struct.pack("<B", len(name)) + name.encode() + struct.pack("<QI", part.size, len(rows))
        for row in rows:
            out += _ROW.pack(row.offset, row.size, row.id, row.key)
    return bytes(out)


@dataclass(frozen=True)
class Pieces:
    """Every chunk of an image once with its stored bytes, the most wanted first. A start needs the first `urgent` of them, as far
    as anybody has seen one; 0 where nobody has."""

    stored: Mapping[bytes, int]
    urgent: int = 0


def order(image: ImageIndex, first: Iterable[str]) -> Pieces:
    """The parts `first`, what the first start was seen to read, then the rest from front to back."""
    found: dict[bytes, int] = {}
    for name in first:
        found |= {row.id: row.stored for row in image.chunks.get(name, ())}
    for row in _recorded(image):
        found.setdefault(row.id, row.stored)
    urgent = len(found) if image.first_boot else 0
    return Pieces(found | {chunk: stored for chunk, stored in image.ids.items() if chunk not in found}, urgent)


def _recorded(image: ImageIndex) -> Iterator[Chunk]:
    ends = {name: [row.offset + row.size for row in rows] for name, rows in image.chunks.items()}
    for name, offset, length in image.first_boot:
        rows = image.chunks[name]
        for at in range(bisect_right(ends[name], offset), len(rows)):
            if rows[at].offset >= offset + length:
                break
            yield rows[at]


def to_list(pieces: Pieces) -> bytes:
    """For the file `base.chunks`: ids and stored bytes, no keys."""
    rows = (_ENTRY.pack(chunk, stored) for chunk, stored in pieces.stored.items())
    return _LIST + struct.pack("<I", pieces.urgent) + b"".join(rows)


def from_list(untrusted_list: bytes) -> Pieces:
    """Raises: DamagedError: it is not what `to_list` made. A wrong id in it costs a fetch, no more: chunks are verified by it."""
    head, body = untrusted_list[len(_LIST) : len(_LIST) + 4], memoryview(untrusted_list)[len(_LIST) + 4 :]
    if not untrusted_list.startswith(_LIST) or len(head) != 4 or len(body) % _ENTRY.size:
        raise DamagedError("The list of a workspace's image pieces cannot be read.", safe="Its disks were not touched.")
    return Pieces(dict(_ENTRY.iter_unpack(body)), struct.unpack("<I", head)[0])
