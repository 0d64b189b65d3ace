"""Where sealed bytes lie: a folder by default, or a bucket of an S3 store by URL. Nothing here has a key.

ab/<id>                               a chunk of an image, id in hex, `ab` its first two digits
workspaces/<grant>/<token>/<digest>.<random>   a file of a vault, under the prefix of the lease that brought it
"""

from __future__ import annotations

import os
import shutil
import struct
import urllib.parse
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import obstore
from obstore.store import LocalStore, ObjectStore, S3Store

from twofold import _core
from twofold.model.errors import BadInputError, DamagedError

_AT_ONCE = 16  # requests to an S3 store that are under way together for one call
_STEP = 1 << 20  # bytes of an object that are in memory at once
_PART = 8 << 20  # of an upload to S3; times 4 at once


class Objects(Protocol):
    """Every method may raise OSError or obstore's errors where the store is away. Keys are paths with `/`."""

    store: ObjectStore

    def lacking(self, wanted: Sequence[tuple[bytes, int | None]]) -> list[bytes]:
        """The chunks (id, stored size where known) that are not here, or not of that size."""

    def store_frames(self, untrusted_frames: bytes) -> int:
        """Keep chunks that come as frames; all are verified before one is kept.

        Raises:
            ValueError: a frame or a chunk is off; none was kept.
        """

    def read_frames(self, ids: Sequence[bytes]) -> bytes:
        """Chunks as frames, unverified. Raises: OSError, ValueError: one is not here."""

    def sync(self) -> None:
        """What was kept is durable on return."""

    def put(self, key: str, file: Path) -> None:
        """Keep a whole file under a new key, durable on return; the file may be moved away by it."""


def chunk_key(chunk: bytes) -> str:
    return f"{chunk.hex()[:2]}/{chunk.hex()}"


class Folder:
    """`obstore` on a folder. Chunks go through our own store of chunks, many in one call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store: ObjectStore = LocalStore(folder)

    def lacking(self, wanted: Sequence[tuple[bytes, int | None]]) -> list[bytes]:
        return _core.lacking(self.folder, list(wanted))

    def store_frames(self, untrusted_frames: bytes) -> int:
        return _core.store_frames(self.folder, untrusted_frames)

    def read_frames(self, ids: Sequence[bytes]) -> bytes:
        return _core.read_frames(self.folder, list(ids))

    def sync(self) -> None:
        _core.sync(self.folder)

    def put(self, key: str, file: Path) -> None:
        # Not by obstore, which leaves it to the system when a file becomes durable.
        to = self.folder / key
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if file.stat().st_dev != to.parent.stat().st_dev:  # somebody has put the objects on a disk of their own
            there = to.with_name(f".{to.name}")
            shutil.copyfile(file, there)
            file.unlink()
            file = there
        _flush(file)
        file.replace(to)
        for folder in (to.parent, *to.parent.parents):
            _flush(folder)
            if folder == self.folder:
                break


class Bucket:
    """A bucket of an S3 store. Chunks are objects of their own; what was put is durable when the store has said so."""

    def __init__(self, store: S3Store) -> None:
        self.store: ObjectStore = store
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="s3")

    def lacking(self, wanted: Sequence[tuple[bytes, int | None]]) -> list[bytes]:
        def there(row: tuple[bytes, int | None]) -> bool:
            try:
                facts = obstore.head(self.store, chunk_key(row[0]))
            except FileNotFoundError:
                return False
            return row[1] is None or facts["size"] == row[1]

        return [row[0] for row, held in zip(wanted, self._pool.map(there, wanted), strict=True) if not held]

    def store_frames(self, untrusted_frames: bytes) -> int:
        chunks = list(_frames(untrusted_frames))
        for chunk, sealed in chunks:
            if _core.chunk_id(sealed) != chunk:
                raise ValueError(f"chunk {chunk.hex()} is not what its id says")
        absent = set(self.lacking([(chunk, None) for chunk, _ in chunks]))

        def keep(row: tuple[bytes, bytes]) -> None:
            obstore.put(self.store, chunk_key(row[0]), row[1])

        fresh = {chunk: sealed for chunk, sealed in chunks if chunk in absent}
        list(self._pool.map(keep, fresh.items()))
        return len(fresh)

    def read_frames(self, ids: Sequence[bytes]) -> bytes:
        def read(chunk: bytes) -> bytes:
            return bytes(obstore.get(self.store, chunk_key(chunk)).bytes())

        read_all = self._pool.map(read, ids)
        return b"".join(
            chunk + struct.pack("<I", len(sealed)) + sealed for chunk, sealed in zip(ids, read_all, strict=True)
        )

    def sync(self) -> None:
        pass

    def put(self, key: str, file: Path) -> None:
        obstore.put(self.store, key, file, chunk_size=_PART, max_concurrency=4)
        with suppress(OSError):
            file.unlink()


def opened(where: Path | str) -> Objects:
    """A folder, or `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`; the keys of an S3 store come from the environment
    (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`), never from the URL.

    Raises:
        BadInputError: another URL.
    """
    if isinstance(where, Path):
        return Folder(where)
    url = urllib.parse.urlsplit(where)
    asked = dict(urllib.parse.parse_qsl(url.query))
    if url.scheme != "s3" or not url.netloc or "@" in url.netloc or asked.keys() - {"endpoint", "region"}:
        raise BadInputError(
            "This is not the URL of a store that the server can use.",
            next="It looks like s3://bucket/prefix?endpoint=https://s3.example.org; without one the server keeps a folder.",
        )
    endpoint = asked.get("endpoint")
    return Bucket(
        S3Store(
            url.netloc,
            prefix=url.path.strip("/") or None,
            endpoint=endpoint,
            region=asked.get("region", "us-east-1"),
            client_options={"allow_http": bool(endpoint and endpoint.startswith("http://"))},
        )
    )


async def stream(objects: Objects, key: str, start: int, end: int) -> AsyncIterator[bytes]:
    """The bytes from `start` to before `end`, about a MiB in memory.

    Raises:
        DamagedError: the object is gone.
    """
    try:
        found = await obstore.get_async(objects.store, key, options={"range": (start, end)})
    except FileNotFoundError as gone:
        raise lost(1) from gone
    async for part in found.stream(_STEP):
        yield bytes(part)


def size(objects: Objects, key: str) -> int | None:
    """Bytes of an object; None: there is none."""
    try:
        return obstore.head(objects.store, key)["size"]
    except FileNotFoundError:
        return None


def names(objects: Objects, prefix: str) -> Iterator[tuple[str, int, float]]:
    """Key, size and time of change (Unix seconds) of every object below a prefix."""
    for batch in obstore.list(objects.store, prefix):
        for row in batch:
            yield row["path"], row["size"], row["last_modified"].timestamp()


def remove(objects: Objects, keys: Iterable[str]) -> None:
    """Remove objects; one that is gone already is no error."""
    for key in keys:
        with suppress(FileNotFoundError):
            obstore.delete(objects.store, key)


def lost(count: int) -> DamagedError:
    return DamagedError(
        f"The server has lost an object (of {count} that were asked for).",
        safe="What is on the device is not affected.",
        next="Tell your administrator: 'twofold server verify' names what is missing.",
    )


def _frames(untrusted_frames: bytes) -> Iterator[tuple[bytes, bytes]]:
    at, view = 0, memoryview(untrusted_frames)
    while at < len(view):
        length = int.from_bytes(view[at + 32 : at + 36], "little")
        sealed = view[at + 36 : at + 36 + length]
        if len(view) - at < 36 or len(sealed) != length:
            raise ValueError("a frame is cut short")
        yield bytes(view[at : at + 32]), bytes(sealed)
        at += 36 + length


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
