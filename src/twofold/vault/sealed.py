"""Suspended memory at rest: AES-256-GCM in the STREAM construction (Hoang, Reyhanitabar, Rogaway and Vizar 2015).

File: magic, 32 bytes of salt, length of the sealed header (u32, little-endian), sealed header, chunks. Each stream has sub-keys
of its own from the salt, so that no nonce is used twice under one key. A chunk's nonce is a prefix of 7 bytes, its number in 32
bits and a last-chunk flag, so that chunks cannot be moved, dropped, added or cut off. The header says what the memory belongs to
and where its data ranges lie; its tag is the associated data of each chunk.
"""

from __future__ import annotations

import errno
import itertools
import json
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from twofold.model.errors import DamagedError, NoRoomError
from twofold.model.machine import MemoryIdentity
from twofold.model.progress import Progress
from twofold.platform import memfd
from twofold.vault.keys import subkey, sync_folder

MAGIC = b"TFMEM\0\0\1"
TAG = 16
SEALED = 1 << 20  # a sealed chunk; header and chunks lie on multiples of 4096, so that they can bypass the page cache
CHUNK = SEALED - TAG
_BLOCK = 4096
_HEAD = struct.Struct("<8s32sI")
_MAX_HEADER = 32 << 20
_MAX_MEMORY = 1 << 46
_THREADS = 2  # cryptography lets go of the interpreter's lock while it works on a chunk

Piece = tuple[int, int]  # offset in the memory file, length


@dataclass(frozen=True)
class _Stream:
    """One stream's keys. `bound` is the header's tag."""

    cipher: AESGCM
    prefix: bytes
    bound: bytes
    chunks: Sequence[Sequence[Piece]]
    start: int

    def nonce(self, number: int) -> bytes:
        return self.prefix + struct.pack(">IB", number, number == len(self.chunks) - 1)

    def place(self, number: int) -> int:
        return self.start + number * SEALED


def seal(path: Path, key: bytes, identity: MemoryIdentity, memory: int, progress: Progress) -> int:
    """Seal the data ranges of the memory file to `path`; whole and durable on return, or nothing is there. Returns its bytes.

    Raises:
        NoRoomError: the disk is short; checked before anything is written.
    """
    extents = list(memfd.extents(memory))
    header = {"identity": identity.to_wire(), "size": os.fstat(memory).st_size, "extents": extents}
    salt = os.urandom(32)
    head_cipher, prefix, body_cipher = _keys(key, salt)
    plain_header = json.dumps(header).encode()
    plain_header += b" " * (-(_HEAD.size + len(plain_header) + TAG) % _BLOCK)
    sealed_header = head_cipher.encrypt(prefix + b"\xff" * 5, plain_header, MAGIC + salt)
    chunks = _chunks(extents)
    start = _HEAD.size + len(sealed_header)
    stream = _Stream(body_cipher, prefix, sealed_header[-TAG:], chunks, start)
    total = start + sum(length for _, length in extents) + TAG * len(chunks)
    fresh = path.with_suffix(".new")
    file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _reserve(file, total)
        os.pwrite(file, _HEAD.pack(MAGIC, salt, len(sealed_header)) + sealed_header, 0)
        direct = _bypass(fresh, file)
        try:

            def work(number: int, plain: mmap.mmap, out: mmap.mmap) -> None:
                length = _length(chunks[number])
                _gather(memory, memoryview(plain)[:length], chunks[number])
                whole = memoryview(out)
                nonce = stream.nonce(number)
                stream.cipher.encrypt_into(nonce, memoryview(plain)[:length], stream.bound, whole[: length + TAG])
                _write_all(direct, whole[: (length + TAG + _BLOCK - 1) & -_BLOCK], stream.place(number))

            _each(work, len(chunks), progress, "Sealing memory")
        finally:
            os.close(direct)
        os.ftruncate(file, total)
        os.fsync(file)
        fresh.replace(path)
    except OSError as short:
        fresh.unlink(missing_ok=True)
        if short.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(total) from short
        raise
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    sync_folder(path.parent)
    return total


def identity(path: Path, key: bytes) -> MemoryIdentity | None:
    """What the sealed memory at `path` belongs to, authenticated, or None where there is none.

    Raises:
        DamagedError: there is one, and its header is torn, foreign or forged.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        header, _ = _open_header(file, key)
    finally:
        os.close(file)
    return MemoryIdentity.from_wire(header["identity"])


def unseal(path: Path, key: bytes, progress: Progress) -> int:
    """The sealed memory as a new memory file, which the caller closes.

    Raises:
        DamagedError: torn, foreign, forged, or not there.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _damaged("there is none") from None
    try:
        header, stream = _open_header(file, key)
        expected = stream.place(0) + sum(TAG + _length(chunk) for chunk in stream.chunks)
        if os.fstat(file).st_size != expected:
            raise _damaged("its length is wrong")
        memory = memfd.create("twofold-memory", header["size"])
        try:

            def work(number: int, plain: mmap.mmap, sealed: mmap.mmap) -> None:
                pieces = stream.chunks[number]
                length = _length(pieces)
                untrusted_chunk = memoryview(sealed)[: length + TAG]
                if os.preadv(file, [untrusted_chunk], stream.place(number)) != length + TAG:
                    raise ValueError("cut off")
                whole = memoryview(plain)[:length]
                stream.cipher.decrypt_into(stream.nonce(number), untrusted_chunk, stream.bound, whole)
                _scatter(memory, whole, pieces)

            _each(work, len(stream.chunks), progress, "Opening memory")
        except (InvalidTag, ValueError) as forged:
            os.close(memory)
            raise _damaged("a part of it is not what was sealed") from forged
        except BaseException:
            os.close(memory)
            raise
        return memory
    finally:
        os.close(file)


def forget(path: Path) -> None:
    """Remove the memory. It is gone whatever happens once its folder has been synced, which is the caller's to do."""
    path.unlink(missing_ok=True)
    path.with_suffix(".new").unlink(missing_ok=True)


def _keys(key: bytes, salt: bytes) -> tuple[AESGCM, bytes, AESGCM]:
    material = subkey(key, "memory", salt, 71)
    return AESGCM(material[:32]), material[64:], AESGCM(material[32:64])


def _open_header(file: int, key: bytes) -> tuple[dict[str, Any], _Stream]:
    untrusted_head = os.pread(file, _HEAD.size, 0)
    if len(untrusted_head) != _HEAD.size:
        raise _damaged("it is cut off")
    magic, salt, length = _HEAD.unpack(untrusted_head)
    if magic != MAGIC or not TAG <= length <= _MAX_HEADER:
        raise _damaged("it is not one of ours")
    untrusted_header = os.pread(file, length, _HEAD.size)
    head_cipher, prefix, body_cipher = _keys(key, salt)
    try:
        header = json.loads(head_cipher.decrypt(prefix + b"\xff" * 5, untrusted_header, MAGIC + salt))
    except (InvalidTag, ValueError) as forged:
        raise _damaged("it is torn, or was sealed for another vault") from forged
    if not 0 < header["size"] <= _MAX_MEMORY:
        raise _damaged("its size is impossible")
    chunks = _chunks([(at, length) for at, length in header["extents"]])
    return header, _Stream(body_cipher, prefix, untrusted_header[-TAG:], chunks, _HEAD.size + length)


def _chunks(extents: Sequence[Piece]) -> list[list[Piece]]:
    """The extents, one after another, cut into chunks of `CHUNK` bytes; the last may be shorter. One empty chunk if none."""
    chunks: list[list[Piece]] = [[]]
    room = CHUNK
    for at, length in extents:
        while length:
            if room == 0:
                chunks.append([])
                room = CHUNK
            part = min(length, room)
            chunks[-1].append((at, part))
            at, length, room = at + part, length - part, room - part
    return chunks


def _length(pieces: Sequence[Piece]) -> int:
    return sum(length for _, length in pieces)


def _gather(memory: int, plain: memoryview, pieces: Sequence[Piece]) -> None:
    for at, view in _views(plain, pieces):
        if os.preadv(memory, [view], at) != len(view):
            raise OSError(errno.EIO, "the memory file became shorter")


def _scatter(memory: int, plain: memoryview, pieces: Sequence[Piece]) -> None:
    for at, view in _views(plain, pieces):
        _write_all(memory, view, at)


def _views(plain: memoryview, pieces: Sequence[Piece]) -> Iterator[tuple[int, memoryview]]:
    done = 0
    for at, length in pieces:
        yield at, plain[done : done + length]
        done += length


def _write_all(file: int, view: memoryview, at: int) -> None:
    while view:
        wrote = os.pwrite(file, view, at)
        view, at = view[wrote:], at + wrote


def _each(work: Callable[[int, mmap.mmap, mmap.mmap], None], count: int, progress: Progress, step: str) -> None:
    """Run `work` for each number below `count` on a few threads, each with two aligned buffers of its own; the first failure
    ends all."""
    counter, done = itertools.count(), itertools.count(1)
    failed = False

    def loop() -> None:
        nonlocal failed
        buffers = mmap.mmap(-1, SEALED), mmap.mmap(-1, SEALED)
        while not failed and (number := next(counter)) < count:
            try:
                work(number, *buffers)
            except BaseException:
                failed = True
                raise
            progress(step, next(done) * CHUNK, count * CHUNK)

    with ThreadPoolExecutor(_THREADS) as pool:
        for finished in [pool.submit(loop) for _ in range(_THREADS)]:
            finished.result()


def _bypass(path: Path, file: int) -> int:
    """A second descriptor of the file that writes past the page cache where the file system can: sealed memory is large and
    read once, and cached pages would cost as much as the sealing itself."""
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return os.dup(file)


def _reserve(file: int, total: int) -> None:
    try:
        os.posix_fallocate(file, 0, total)
    except OSError as cannot:
        if cannot.errno != errno.EOPNOTSUPP:
            raise


def _no_room(total: int) -> NoRoomError:
    return NoRoomError(
        f"The disk is too full for the suspended memory ({total >> 20} MiB).",
        safe="Nothing was stored; the machine is still in memory and can go on.",
        next="Free some space on this disk, then suspend again.",
    )


def _damaged(why: str) -> DamagedError:
    return DamagedError(
        f"The suspended memory cannot be used: {why}.",
        safe="The disks are safe.",
        next="Boot instead: twofold start --boot",
    )
