"""Getting an image's chunks into the machine's cache, and reading its parts out of it, verified to the last byte.

The cache (`cache/chunks/ab/<id>`) holds ciphertext, shared by all workspaces of the machine. Anyone may fill it: a chunk is
verified by its id when it is taken in and again each time it is opened, and a damaged one is fetched anew.
"""

from __future__ import annotations

import errno
import hashlib
import io
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from twofold import _core
from twofold.image.chunks import Chunk, ImageIndex
from twofold.model.errors import DamagedError, NoRoomError, NotFoundError
from twofold.model.progress import Progress, silent

_BATCH_BYTES, _BATCH_CHUNKS, _STREAMS = 1 << 20, 256, 3
_LEAST = 128 << 10  # bytes of a batch near the end
_WINDOW = 4 << 20


class Source(Protocol):
    """Where chunks come from (`twofold.agent.remote.Remote`)."""

    def chunks(self, ids: Sequence[bytes]) -> bytes:
        """At most 256 chunks as frames; not trusted."""


@dataclass(frozen=True)
class Fetched:
    """Bytes as stored: `wanted` of all that was asked for (each chunk once), `sent` that came over the wire now."""

    wanted: int
    sent: int


class Arrivals:
    """What a fetch of these chunks has brought so far, for whoever uses them while it goes on."""

    def __init__(self, ids: Iterable[bytes]) -> None:
        self._coming, self._changed = set(ids), threading.Condition()
        self._failed: BaseException | None = None

    def came(self, ids: Iterable[bytes]) -> None:
        with self._changed:
            self._coming.difference_update(ids)
            self._changed.notify_all()

    def failed(self, error: BaseException) -> None:
        """Nothing more comes."""
        with self._changed:
            self._failed = error
            self._changed.notify_all()

    @property
    def whole(self) -> bool:
        """All of it has come."""
        with self._changed:
            return not self._coming

    def wait(self, ids: Iterable[bytes]) -> None:
        """Until all of these have come. Raises what the fetch did, where it failed before that."""
        wanted = set(ids)
        with self._changed:
            self._changed.wait_for(lambda: self._failed is not None or self._coming.isdisjoint(wanted))
            if self._failed is not None and not self._coming.isdisjoint(wanted):
                raise self._failed


def fetch(
    ids: Mapping[bytes, int],
    source: Source,
    cache: Path,
    progress: Progress = silent,
    arrivals: Arrivals | None = None,
) -> Fetched:
    """Bring chunks (ids with their stored bytes, as `ImageIndex.ids`) into the folder `cache`, in their order. What is there is
    not fetched again, so that an interrupted fetch goes on where it was. `progress` counts stored bytes; if it raises, the fetch
    ends with that error. `arrivals` hears of each as it comes, and of a failure.

    Raises:
        DamagedError: the source sent bytes that are not the chunks asked for; none of those was kept.
        NoRoomError: the disk is full; what came so far stays.
    """
    arrivals = arrivals or Arrivals(())
    try:
        return _fetch(ids, source, cache, progress, arrivals)
    except BaseException as failed:
        arrivals.failed(failed)
        raise


def _fetch(ids: Mapping[bytes, int], source: Source, cache: Path, progress: Progress, arrivals: Arrivals) -> Fetched:
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    missing = lacking(cache, ids)
    arrivals.came(ids.keys() - set(missing))
    total = sum(ids.values())
    here = already = total - sum(ids[chunk] for chunk in missing)
    progress("fetch", here, total)
    batches = batched(missing, ids, streams=_STREAMS)
    with ThreadPoolExecutor(_STREAMS) as pool:
        running: dict[Future[None], list[bytes]] = {}
        try:
            while True:
                for batch in batches:
                    running[pool.submit(take, batch, source, cache)] = batch
                    if len(running) >= _STREAMS:
                        break
                if not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    batch = running.pop(future)
                    future.result()
                    arrivals.came(batch)
                    here += sum(ids[chunk] for chunk in batch)
                progress("fetch", here, total)
        finally:
            for future in running:
                future.cancel()
    return Fetched(total, total - already)


def lacking(cache: Path, ids: Mapping[bytes, int]) -> list[bytes]:
    """Which of these (with their stored bytes) the cache has not, or torn; what is damaged otherwise shows when it is opened."""
    return _core.lacking(cache, list(ids.items()))


def open_part(
    index: ImageIndex, part: str, cache: Path, source: Source | None = None, arrivals: Arrivals | None = None
) -> BinaryIO:
    """Read a part from its start to its end. Every chunk is verified before its bytes are given out, and the last bytes come only
    after the whole part's SHA-256 has been. A chunk that is among `arrivals` is waited for; one that is missing or damaged then
    is fetched from `source`.

    Raises (at reading):
        DamagedError: it cannot be had, or the part is not what its publisher said.
    """
    found = index.manifest.part(part)
    if found is None:
        raise NotFoundError(f"The image {index.manifest.image} has no part '{part}'.")
    arrivals = arrivals or Arrivals(())
    return io.BufferedReader(_Reader(index, part, found.size, found.sha256, cache, source, arrivals), 1 << 20)


class _Reader(io.RawIOBase):
    def __init__(
        self,
        index: ImageIndex,
        part: str,
        size: int,
        sha256: str,
        cache: Path,
        source: Source | None,
        arrivals: Arrivals,
    ) -> None:
        self._arrivals = arrivals
        self._windows = _windows(index.chunks[part], size)
        self._name, self._sha256, self._cache, self._source = f"{index.manifest.image} ({part})", sha256, cache, source
        self._pool = ThreadPoolExecutor(1)
        self._hash = hashlib.sha256()
        self._left = size
        self._now = memoryview(b"")
        self._ahead = self._submit()
        if not size:
            self._check()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._now and self._left:
            plain = self._ahead.result()
            self._left -= len(plain)
            self._ahead = self._submit()  # the next window is opened while this one is used
            self._hash.update(plain)
            if not self._left:
                self._check()
            self._now = memoryview(plain)
        room = memoryview(buffer).cast("B")
        count = min(len(room), len(self._now))
        room[:count] = self._now[:count]
        self._now = self._now[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            # Not waited for: a reader that nobody closed may be collected on the pool's own thread.
            self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _submit(self) -> Future[bytes]:
        return self._pool.submit(self._open, *next(self._windows, (0, 0, ())))

    def _open(self, start: int, length: int, rows: Sequence[Chunk]) -> bytes:
        self._arrivals.wait(row.id for row in rows)
        plain, bad = _core.open_rows(self._cache, rows, start, length)
        if bad:
            if self._source is None:
                raise DamagedError(
                    f"{len(bad)} chunks of {self._name} are missing or damaged on this disk.",
                    safe="Nothing of them was used.",
                    next="Connect to the server: they are fetched again.",
                )
            for chunk in bad:
                (self._cache / chunk.hex()[:2] / chunk.hex()).unlink(missing_ok=True)
            for at in range(0, len(bad), _BATCH_CHUNKS):
                take(bad[at : at + _BATCH_CHUNKS], self._source, self._cache)
            plain, bad = _core.open_rows(self._cache, rows, start, length)
            if bad:
                raise DamagedError(f"{self._name} does not open with the keys in its index.", safe="It was not used.")
        return plain

    def _check(self) -> None:
        if self._hash.hexdigest() != self._sha256:
            self._left, self._now = 0, memoryview(b"")
            raise DamagedError(
                f"{self._name} is not what its publisher signed.",
                safe="It was not used.",
                next="Publish the image again.",
            )


def batched(
    missing: Sequence[bytes], stored: Mapping[bytes, int], most: int = _BATCH_BYTES, streams: int = 0
) -> Iterator[list[bytes]]:
    """What is asked for at once: about `most` stored bytes, and no more chunks than the server takes. For several `streams` less
    of it towards the end, so that they end together: one that is left alone does not fill a line that it shared."""
    batch: list[bytes] = []
    size, left = 0, sum(stored[chunk] for chunk in missing)
    for chunk in missing:
        batch.append(chunk)
        size += stored[chunk]
        if size >= min(most, max(_LEAST, left // (2 * streams)) if streams else most) or len(batch) == _BATCH_CHUNKS:
            yield batch
            left -= size
            batch, size = [], 0
    if batch:
        yield batch


def take(batch: Sequence[bytes], source: Source, cache: Path) -> None:
    """Fetch these (at most 256) and keep them, verified, in place of any that are damaged. Raises as `fetch`."""
    try:
        _core.store_frames(cache, source.chunks(batch))
    except ValueError as off:
        raise DamagedError(
            f"The server sent bytes that are not the chunks asked for: {off}.",
            safe="They were not kept.",
            next="Try again; if it stays so, tell your administrator.",
        ) from off
    except OSError as full:
        if full.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise DamagedError(f"The cache {cache} cannot be written: {full.strerror}.") from full
        raise NoRoomError(
            f"The disk of {cache} is full.", safe="What was fetched stays.", next="Make room and try again."
        ) from full
    if _core.lacking(cache, [(chunk, None) for chunk in batch]):
        raise DamagedError("The server did not send every chunk it was asked for.", next="Try again.")


def _windows(rows: Sequence[Chunk], size: int) -> Iterator[tuple[int, int, Sequence[Chunk]]]:
    """The part in stretches of about 4 MiB that cut no chunk: start, length, rows."""
    start, first = 0, 0
    while start < size:
        end, last = min(start + _WINDOW, size), first
        while last < len(rows) and rows[last].offset < end:
            end = max(end, rows[last].offset + rows[last].size)
            last += 1
        yield start, end - start, rows[first:last]
        start, first = end, last
