"""Files of vaults on their way here: resumable, hashed as they stream, kept under the prefix of the lease that brings them."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path

from anyio.to_thread import run_sync
from blake3 import blake3

from twofold.model.errors import BadInputError, ConflictError
from twofold.model.generation import LARGEST_FILE
from twofold.server import objects
from twofold.server.context import Server
from twofold.server.database import insert_new
from twofold.server.tables import Sealed

_STEP = 1 << 20  # bytes of one upload in memory


def staged(server: Server, grant: int, token: int, digest: str) -> Path:
    return server.home.uploads / f"{grant}-{token}-{digest}"


def have(server: Server, grant: int, token: int, digest: str) -> int:
    """Bytes of an unfinished upload that are here."""
    try:
        return staged(server, grant, token, digest).stat().st_size
    except FileNotFoundError:
        return 0


async def receive(
    server: Server,
    grant: int,
    token: int,
    digest: str,
    size: int,
    offset: int,
    untrusted_parts: AsyncIterator[bytes],
) -> int:
    """Take what comes from `offset` on; what came before a cut stays for the next try. Returns the bytes that are here; at `size`
    it is whole, verified and durable.

    Raises:
        ConflictError: `offset` is not what is here, or somebody else sends it now.
        BadInputError: too long, or the digest is another: all of it was thrown away.
    """
    if not 1 <= size <= LARGEST_FILE:
        raise BadInputError(f"A file has 1 to {LARGEST_FILE} bytes.")
    path = staged(server, grant, token, digest)
    upload = await run_sync(_Upload, path, offset)
    try:
        held = bytearray()
        async for part in untrusted_parts:
            if upload.length + len(held) + len(part) > size:
                await run_sync(upload.discard)
                raise BadInputError("The file is longer than was said.", safe="All of it was thrown away.")
            held += part
            if len(held) >= _STEP:
                await run_sync(upload.write, bytes(held))
                held.clear()
        await run_sync(upload.write, bytes(held))
        if upload.length == size:
            await run_sync(_finish, server, grant, token, digest, upload)
        return upload.length
    finally:
        await run_sync(upload.close)


class _Upload:
    """One file, locked against others who would send it as well."""

    def __init__(self, path: Path, offset: int) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.length = os.fstat(self._fd).st_size
            if self.length != offset:
                raise ConflictError(
                    f"{self.length} bytes of it are here.", next="Ask what is missing, and go on there."
                )
            self._hash = blake3()
            at = 0
            while part := os.pread(self._fd, _STEP, at):
                self._hash.update(part)
                at += len(part)
        except BlockingIOError as busy:
            os.close(self._fd)
            raise ConflictError("It is being sent already.", next="Wait for that to end.") from busy
        except BaseException:
            os.close(self._fd)
            raise

    def write(self, part: bytes) -> None:
        self._hash.update(part)
        while part:
            written = os.pwrite(self._fd, part, self.length)
            self.length += written
            part = part[written:]

    def digest(self) -> str:
        return self._hash.hexdigest()

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._fd)


def _finish(server: Server, grant: int, token: int, digest: str, upload: _Upload) -> None:
    if upload.digest() != digest:
        upload.discard()
        raise BadInputError("The file is not what its digest says.", safe="All of it was thrown away.")
    # A name of its own: the collector, which may be about to remove a former copy, never removes this one.
    key = f"workspaces/{grant}/{token}/{digest}.{secrets.token_hex(8)}"
    server.objects.put(key, upload.path)
    row = {
        "grant_id": grant, "digest": digest, "token": token, "size": upload.length, "key": key, "created": int(time.time())
    }  # fmt: skip
    with server.database.write() as session:
        kept = insert_new(session, Sealed).values(**row).on_conflict_do_nothing().returning(Sealed.digest)
        new = session.scalar(kept) is not None
    if not new:
        objects.remove(server.objects, [key])
