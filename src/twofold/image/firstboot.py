"""What a start reads, for whoever publishes: where to cut and how hard to compress for its sake, and where it lies in the next
version."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from twofold.image.chunks import Chunk, ImageIndex, Range

_BLOCK = 4096
_GAP = 2 * _BLOCK  # what lies between two such ranges is brought along where it is no longer than this
_LEVEL, _HARD = 3, 14  # zstd's: the first that finds matches of three bytes saves a fifth of a kernel


def level(part: str) -> int:
    """How hard to compress a part: the publisher waits once for what every first start waits for as a whole."""
    return _HARD if part in ("kernel", "initrd") else _LEVEL


def edges(noted: Sequence[Range], part: str, size: int) -> list[int]:
    """Where chunks of a part should end so that those which a start reads hold little else; ascending."""
    found: list[int] = []
    for _, offset, length in sorted(each for each in noted if each[0] == part):
        begin, end = offset // _BLOCK * _BLOCK, -(-(offset + length) // _BLOCK) * _BLOCK
        if found and begin - found[-1] <= _GAP:
            found[-1] = max(found[-1], end)
        else:
            found += [begin, end]
    return [each for each in found if 0 < each < size]


def carried(former: ImageIndex, index: ImageIndex) -> tuple[Range, ...]:
    """The former version's ranges where this one has them: with their content, or, where that changed, as far on as what lies
    before them went."""
    moves = {name: _moves(rows, index.chunks.get(name, ())) for name, rows in former.chunks.items()}
    ends = {name: [row.offset + row.size for row in rows] for name, rows in former.chunks.items()}
    sizes = {part.name: part.size for part in index.manifest.parts}
    found: dict[Range, None] = {}
    for name, offset, length in former.first_boot:
        rows = former.chunks.get(name, ())
        for nth in range(bisect_right(ends.get(name, []), offset), len(rows)):
            begin, end = max(offset, rows[nth].offset), min(offset + length, rows[nth].offset + rows[nth].size)
            if begin >= end:
                break
            begin, end = begin + moves[name][nth], min(end + moves[name][nth], sizes.get(name, 0))
            if 0 <= begin < end:
                found[name, begin, end - begin] = None
    return tuple(found)


def _moves(former: Sequence[Chunk], now: Sequence[Chunk]) -> list[int]:
    """How far each of a part's former chunks has moved, in bytes."""
    places = {row.key: row.offset for row in now}
    found, move = [], 0
    for row in former:
        move = places.get(row.key, row.offset + move) - row.offset
        found.append(move)
    return found
