"""The Rust core (crates/py). Paths are folders of chunks unless said otherwise; ids and keys are 32 bytes. Bulk calls release
the interpreter's lock and use two threads. OSError where the disk fails, ValueError where bytes or arguments are not what they
must be."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TypeAlias

Row: TypeAlias = tuple[int, int, int, bytes, bytes]
"""offset, size, stored, id, key: see `twofold.image.chunks.Chunk`."""

class Sealer:
    """Cuts and seals the file at `path` for the company with `secret` (32 bytes). `known` lists (key, id, stored) of chunks that
    were published before and are not sealed again. Besides where content says so it cuts at `edges` (bytes from the start, whole
    blocks) and, wherever the content is the same, as `former`, the part's rows in the version before, was cut. `level` is
    zstd's."""

    def __new__(
        cls,
        path: str | PathLike[str],
        secret: bytes,
        known: Sequence[tuple[bytes, bytes, int]] = ...,
        edges: Sequence[int] = ...,
        former: Sequence[Row] = ...,
        level: int = ...,
    ) -> Sealer: ...
    def next(self, window: int) -> Batch | None:
        """Seal what the next `window` bytes complete; None at the end. A window of holes gives a batch without rows."""
    @property
    def sha256(self) -> bytes:
        """Of what was read so far: of the whole file once `next` has given None."""

class Batch:
    @property
    def rows(self) -> list[Row]: ...
    @property
    def end(self) -> int:
        """Bytes of plaintext that are done after this batch, holes included."""

    def frames(self, ids: Sequence[bytes]) -> bytes:
        """These of the batch's chunks, each once, ready for `store_frames`. ValueError for one that was known."""

def chunk_id(sealed: bytes) -> bytes: ...
def store_frames(folder: str | PathLike[str], untrusted_frames: bytes) -> int:
    """Verify every chunk by its id, then keep what the folder lacks; returns how many were new. ValueError: nothing was kept."""

def read_frames(folder: str | PathLike[str], ids: Sequence[bytes]) -> bytes:
    """The chunks as they lie there, not verified. OSError: one is missing."""

def lacking(folder: str | PathLike[str], wanted: Sequence[tuple[bytes, int | None]]) -> list[bytes]:
    """Which of (id, stored bytes or None) the folder lacks or has with another length."""

def open_rows(folder: str | PathLike[str], rows: Sequence[Row], start: int, length: int) -> tuple[bytes, list[bytes]]:
    """The `length` bytes of plaintext from `start`, zeroes where no row lies, and no ids; or nothing and the ids of chunks that
    are missing or damaged. ValueError: rows that are not ascending or lie outside."""

def make_patch(
    folder: str | PathLike[str], old: Sequence[Row], new: Sequence[Row], plain: bytes, level: int
) -> tuple[bytes, bytes] | None:
    """A patch's id and sealed bytes, from the chunks `old`, which are in the folder, to `new`, whose plaintexts are `plain`, one
    behind the other, and which were sealed at `level`; None where it would be longer than a chunk. ValueError: a chunk is
    damaged, or more than 4 MiB on a side."""

def apply_patch(folder: str | PathLike[str], patch: bytes, old: Sequence[Row], new: Sequence[Row]) -> int:
    """Put those of `new` in the folder that come out of the patch as their ids say; returns how many. ValueError, OSError: the
    patch or one of `old` is damaged or missing."""

def sync(folder: str | PathLike[str]) -> None:
    """Make the folder's file system durable (syncfs(2))."""
