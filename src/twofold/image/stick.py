"""An image version in a folder that anybody may carry: sealed chunks, the sealed index, and what the publisher signed of it.

    chunks/ab/<id>              as on the server
    IMAGE-VERSION.index         the sealed index; of further architectures IMAGE-VERSION.ARCH.index
    IMAGE-VERSION.root.json     the publisher's root and targets at that time, for whoever wants to look; a device asks the server
    IMAGE-VERSION.targets.json  for newer ones

Nothing in it opens without the company's reading key, and nothing of it is believed without its hash.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from twofold import _core
from twofold.image.chunks import MAX_STORED
from twofold.image.fetch import Fetched, batched
from twofold.model.errors import NotFoundError
from twofold.model.progress import Progress, silent

CHUNKS = "chunks"


def bring(ids: Mapping[bytes, int], folder: Path, cache: Path, progress: Progress = silent) -> Fetched:
    """Take from an exported folder what the cache lacks of these chunks (id: stored bytes). What the folder does not have, or has
    damaged, is left for the server.

    Raises:
        NotFoundError: this is no such folder. NoRoomError, DamagedError: as `fetch.take`.
    """
    if not (folder / CHUNKS).is_dir():
        raise NotFoundError(
            f"{folder} holds no exported image.", next="Make one:  twofold image export IMAGE --to FOLDER"
        )
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    missing = _core.lacking(cache, list(ids.items()))
    total, done, brought = sum(ids[chunk] for chunk in missing), 0, 0
    progress("bring", 0, total)
    for batch in batched(missing, ids):
        frames = [frame for chunk in batch if (frame := _frame(folder / CHUNKS, chunk))]
        _core.store_frames(cache, b"".join(frames))
        brought += sum(len(frame) - 36 for frame in frames)
        done += sum(ids[chunk] for chunk in batch)
        progress("bring", done, total)
    return Fetched(sum(ids.values()), brought)


def _frame(folder: Path, chunk: bytes) -> bytes:
    """A chunk as a frame; nothing where it is not whole. The folder is a stranger's: no links, no devices, nothing too long."""
    try:
        fd = os.open(folder / chunk.hex()[:2] / chunk.hex(), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    with os.fdopen(fd, "rb") as file:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode) or not 0 < seen.st_size <= MAX_STORED:
            return b""
        try:
            untrusted_sealed = file.read(MAX_STORED + 1)
        except OSError:  # a bad spot on the stick
            return b""
    if _core.chunk_id(untrusted_sealed) != chunk:
        return b""
    return chunk + len(untrusted_sealed).to_bytes(4, "little") + untrusted_sealed
