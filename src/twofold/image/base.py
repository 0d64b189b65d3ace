"""An image version as what a workspace's disks stand on: the index for the vault process, and what the agent fetches by.

The vault process gets the keys of the chunks once, at check-out, and seals them (crates/vaultd/src/index.rs has the form). What
the agent keeps says which chunks there are and in which order they are wanted, and opens nothing.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping

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


def order(image: ImageIndex, first: Iterable[str]) -> dict[bytes, int]:
    """Every chunk once with its stored bytes, the most wanted first: the parts `first`, what the first start was seen to read,
    then the rest from front to back."""
    found: dict[bytes, int] = {}
    for name in first:
        found |= {row.id: row.stored for row in image.chunks.get(name, ())}
    for row in _recorded(image):
        found.setdefault(row.id, row.stored)
    return found | {chunk: stored for chunk, stored in image.ids.items() if chunk not in found}


def _recorded(image: ImageIndex) -> Iterator[Chunk]:
    ends = {name: [row.offset + row.size for row in rows] for name, rows in image.chunks.items()}
    for name, offset, length in image.first_boot:
        rows = image.chunks[name]
        for at in range(bisect_right(ends[name], offset), len(rows)):
            if rows[at].offset >= offset + length:
                break
            yield rows[at]


def to_list(chunks: Mapping[bytes, int]) -> bytes:
    """For the file `base.chunks`: ids and stored bytes, no keys."""
    return _LIST + b"".join(_ENTRY.pack(chunk, stored) for chunk, stored in chunks.items())


def from_list(untrusted_list: bytes) -> dict[bytes, int]:
    """Raises: DamagedError: it is not what `to_list` made. A wrong id in it costs a fetch, no more: chunks are verified by it."""
    body = memoryview(untrusted_list)[len(_LIST) :]
    if not untrusted_list.startswith(_LIST) or len(body) % _ENTRY.size:
        raise DamagedError("The list of a workspace's image pieces cannot be read.", safe="Its disks were not touched.")
    return dict(_ENTRY.iter_unpack(body))
