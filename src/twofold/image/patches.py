"""Patches: what is sent instead of a new version's chunks to a device that has the former version's (crates/chunks/src/patch.rs).

The publisher makes them where both versions are at hand, and the index names them; a device that has what a patch begins from
fetches it instead of the chunks. A chunk that does not come out as its id says is fetched as if there were no patch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from twofold import _core
from twofold.image.chunks import BLOCK, MAX_CHUNK, Chunk, ImageIndex, Patch
from twofold.image.fetch import Source, batched, lacking, take
from twofold.image.firstboot import level
from twofold.model.errors import DamagedError, NotFoundError
from twofold.model.progress import Progress, silent

log = logging.getLogger(__name__)
MOST = 4 << 20  # plaintext bytes on either side, as in the core
_NEW = 1 << 20  # of the new side: a patch is of use where all that it begins from is there
_SLACK = 16 * BLOCK
_READ = 64 << 20  # sealed bytes of the former version that the publisher asks back for
_EAGER = 32 << 20  # bytes of patches that a device fetches before it goes on; what is left comes as chunks


@dataclass(frozen=True)
class Made:
    """The patches, and what to send: their sealed bytes as frames."""

    patches: tuple[Patch, ...] = ()
    frames: bytes = b""


def make(index: ImageIndex, former: ImageIndex, parts: Mapping[str, Path], source: Source) -> Made:
    """Patches from `former` to `index`, whose parts' files are given; `source` has the former version's chunks."""
    known, plans, read = former.ids, list[_Plan](), 0
    for name, rows in index.chunks.items():
        for first, count, old in _pairs(rows, former.chunks.get(name, ()), known):
            read += sum(row.stored for row in old)
            if read <= _READ:
                plans.append(_Plan(name, first, rows[first : first + count], old))
    patches, frames = [], bytearray()
    with TemporaryDirectory(prefix="twofold-patch-") as name, ThreadPoolExecutor(2) as pool:
        folder = Path(name)
        stored = {row.id: row.stored for plan in plans for row in plan.old}
        for batch in batched(list(stored), stored):
            with suppress(DamagedError, NotFoundError):  # what is not here leaves its patches out
                take(batch, source, folder)
        for plan, made in zip(plans, pool.map(lambda plan: _one(parts[plan.part], plan, folder), plans), strict=True):
            if made is None or len(made[1]) * 2 > sum(row.stored for row in plan.new):
                continue
            chunk, sealed = made
            begin = tuple(row._replace(offset=0, stored=0) for row in plan.old)
            patches.append(Patch(plan.part, plan.first, len(plan.new), begin, chunk, len(sealed)))
            frames += chunk + len(sealed).to_bytes(4, "little") + sealed
    return Made(tuple(patches), bytes(frames))


@dataclass(frozen=True)
class _Plan:
    part: str
    first: int
    new: Sequence[Chunk]
    old: Sequence[Chunk]


def _one(file: Path, plan: _Plan, folder: Path) -> tuple[bytes, bytes] | None:
    plain = bytearray()
    with file.open("rb") as part:
        for row in plan.new:
            part.seek(row.offset)
            plain += part.read(row.size)
    try:
        return _core.make_patch(folder, plan.old, plan.new, bytes(plain), level(plan.part))
    except (OSError, ValueError) as off:  # without it the chunks are sent
        log.info("no patch: %s", off)
        return None


def _pairs(
    new: Sequence[Chunk], old: Sequence[Chunk], known: Mapping[bytes, int]
) -> Iterator[tuple[int, int, Sequence[Chunk]]]:
    """Runs of rows that are new, as first and count, each with the old rows around the same place: between the neighbours that
    both versions have, and there at the same distance."""
    place = {row.id: nth for nth, row in enumerate(old)}
    held = [-1, *(nth for nth, row in enumerate(new) if row.id in known), len(new)]
    for before, after in pairwise(held):
        if after - before < 2 or not old:
            continue
        left = place.get(new[before].id, -1) + 1 if before >= 0 else 0
        right = place.get(new[after].id, len(old)) if after < len(new) else len(old)
        if right <= left:  # neighbours that have moved: what lies behind the one before
            right = min(len(old), left + after - before)
        for first, count in _cut(new, before + 1, after):
            found = _around(new, before + 1, first, count, old[left:right])
            if found:
                yield first, count, found


def _cut(rows: Sequence[Chunk], first: int, end: int) -> Iterator[tuple[int, int]]:
    while first < end:
        count = size = 0
        while first + count < end and (not count or size + rows[first + count].size <= _NEW):
            size += rows[first + count].size
            count += 1
        yield first, count
        first += count


def _around(new: Sequence[Chunk], start: int, first: int, count: int, old: Sequence[Chunk]) -> Sequence[Chunk]:
    """Of the old rows those as far behind the run's beginning as the new ones, and a little more on either side."""
    if not old:
        return ()
    shift, last = new[start].offset - old[0].offset, new[first + count - 1]
    begin, end = new[first].offset - shift - _SLACK, last.offset + last.size - shift + _SLACK
    near = [row for row in old if begin < row.offset + row.size and row.offset < end]
    while near and sum(row.size for row in near) > MOST:
        near.pop()
    return near or old[-min(len(old), MOST // MAX_CHUNK) :]


def bring(index: ImageIndex, source: Source, cache: Path, progress: Progress = silent) -> int:
    """Turn what the cache has into what it lacks, as far as the index has patches for it. Returns the bytes that were fetched;
    whatever does not come out is left to be fetched as chunks."""
    wanted = {chunk: index.ids[chunk] for chunk in lacking(cache, index.ids)} if index.patches else {}
    useful, total = [], 0
    for patch in index.patches:
        new = index.chunks[patch.part][patch.first : patch.first + patch.rows]
        saves = sum(row.stored for row in new if row.id in wanted)
        if saves <= patch.stored or total + patch.stored > _EAGER:
            continue
        if not _core.lacking(cache, [(row.id, None) for row in patch.old]):
            useful.append((patch, new))
            total += patch.stored
    stored, done = {patch.id: patch.stored for patch, _ in useful}, 0
    progress("fetch", 0, total)
    for batch in batched(list(stored), stored):
        try:
            take(batch, source, cache)
        except (DamagedError, NotFoundError) as off:  # a server that has lost one has the chunks
            log.info("patches cannot be had: %s", off)
            break
        done += sum(stored[each] for each in batch)
        progress("fetch", done, total)
    for patch, new in useful:
        try:
            came = _core.apply_patch(cache, patch.id, patch.old, new)
        except (ValueError, OSError) as off:
            log.info("a patch was of no use: %s", off)
        else:
            if came < patch.rows:
                log.info("%d of %d chunks came out of a patch otherwise", patch.rows - came, patch.rows)
    for chunk in stored:
        (cache / chunk.hex()[:2] / chunk.hex()).unlink(missing_ok=True)
    return done
