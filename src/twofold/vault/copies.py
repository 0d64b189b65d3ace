"""Sealed files of a generation, copied to a folder and from one. The folder is anybody's: nothing in it is believed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from twofold.model.errors import BadInputError, DamagedError, NoRoomError, TwofoldError
from twofold.model.generation import SealedFile
from twofold.model.progress import Progress
from twofold.vault.seam import Reading

PART = ".part"
_STEP = 8 << 20


class Folder:
    """A folder on a disk that can be carried away. Names are looked up in it alone, and links are not followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as failed:
            raise BadInputError(f"{path} is no folder that can be read ({failed.strerror}).") from failed

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @contextlib.contextmanager
    def reading(self, name: str, least: int = 0) -> Iterator[int]:
        """A plain file of at least `least` bytes.

        Raises:
            DamagedError: it is missing or shorter. BadInputError: it is no plain file.
        """
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._fd)
        except FileNotFoundError as gone:
            raise DamagedError(f"{name} is missing in {self.path}.", safe="Nothing was changed.") from gone
        except OSError as failed:
            raise BadInputError(
                f"{name} in {self.path} cannot be read ({failed.strerror}).", safe="Nothing was changed."
            ) from failed
        try:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode):
                raise BadInputError(f"{name} in {self.path} is no plain file.", safe="Nothing was changed.")
            if about.st_size < least:
                raise DamagedError(
                    f"{name} in {self.path} has {about.st_size} bytes, and should have {least}.",
                    safe="Nothing was changed.",
                    next="Export again, or copy the folder again from where it came.",
                )
            yield fd
        finally:
            os.close(fd)

    def read(self, name: str, limit: int) -> bytes:
        """A small file, whole. Raises as `reading`; BadInputError too where it has more than `limit` bytes."""
        with self.reading(name) as fd:
            data = bytearray()
            while part := os.read(fd, limit + 1 - len(data)):
                data += part
        if len(data) > limit:
            raise BadInputError(f"{name} in {self.path} is larger than any we know.", safe="Nothing was changed.")
        return bytes(data)

    def holds(self, file: SealedFile) -> bool:
        """Whether there is a plain file of this name and length."""
        try:
            about = os.stat(file.name, dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return False
        return stat.S_ISREG(about.st_mode) and about.st_size == file.length

    def exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def write(self, name: str, data: bytes) -> None:
        """Replace a small file whole, durably."""
        with self._making(name) as fd:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def leftovers(self, keep: Collection[str]) -> list[str]:
        """Names of sealed files here, whole or on their way, that nothing names any more."""
        found = []
        for name in os.listdir(self._fd):  # noqa: PTH208 - of the folder that is open, whatever its path means by now
            plain = name.removesuffix(PART)
            if is_sealed(plain) and (plain != name or name not in keep):
                found.append(name)
        return found

    def put(self, file: SealedFile, reading: Reading, progress: Progress, done: int, total: int) -> None:
        """Copy one file of a generation here: it has its name once it is whole, verified and durable.

        Raises:
            DamagedError: what was written is not what it should be. NoRoomError: this disk is full.
        """
        source = reading.open(file.name)
        try:
            with self._making(file.name) as fd:
                copy(source, fd, file.length, partial(_told, progress, done, total))
                _same(reading.digest(fd, file.length), file, self.path)
        finally:
            os.close(source)

    def verifies(self, file: SealedFile, reading: Reading) -> bool:
        """Whether the file that is here is the one that is meant; it is read."""
        try:
            with self.reading(file.name, file.length) as fd:
                return self.holds(file) and reading.digest(fd, file.length) == file.digest
        except TwofoldError:
            return False

    @contextlib.contextmanager
    def _making(self, name: str) -> Iterator[int]:
        part = name + PART
        with ExitStack() as undo:
            try:
                self.remove(part)
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
                fd = os.open(part, flags, 0o600, dir_fd=self._fd)
                undo.callback(self.remove, part)
                try:
                    yield fd
                    os.fsync(fd)
                finally:
                    os.close(fd)
                os.rename(part, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
                undo.pop_all()
                os.fsync(self._fd)
            except OSError as failed:
                raise unwritable(self.path, failed) from failed


def take(folder: Folder, files: Sequence[SealedFile], where: Path, progress: Progress) -> None:
    """Copy a generation's files into the new folder of a vault. They are not verified yet.

    Raises:
        DamagedError, BadInputError: one is missing, too short or no plain file. NoRoomError: the disk is full.
    """
    total = sum(file.length for file in files)
    room = os.statvfs(where)
    if total > room.f_bavail * room.f_frsize:
        raise NoRoomError(
            f"This workspace needs {total >> 20} MiB, and the disk has {room.f_bavail * room.f_frsize >> 20} MiB left.",
            safe="Nothing was copied.",
            next="Free some space on this disk, then try again.",
        )
    done = 0
    for file in files:
        with folder.reading(file.name, file.length) as source:
            try:
                fd = os.open(where / file.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    copy(source, fd, file.length, partial(_told, progress, done, total))
                    os.fsync(fd)
                finally:
                    os.close(fd)
            except OSError as failed:
                raise unwritable(where, failed) from failed
        done += file.length


def copy(source: int, to: int, length: int, told: Callable[[int], None]) -> None:
    """`length` bytes from the start of one file to that of another; the system may share the blocks (copy_file_range(2))."""
    done, native = 0, True
    while done < length:
        some = 0
        if native:
            try:
                some = os.copy_file_range(source, to, min(_STEP, length - done), done, done)
            except OSError as failed:
                if failed.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
                    raise
            native = some > 0
        if not native:
            data = os.pread(source, min(1 << 20, length - done), done)
            if not data:
                raise DamagedError("A file became shorter while it was copied.", safe="Nothing of it was used.")
            some = os.pwrite(to, data, done)
        done += some
        told(done)


def _told(progress: Progress, before: int, total: int, some: int) -> None:
    progress("copying", before + some, total)


def unwritable(folder: Path, failed: OSError) -> TwofoldError:
    if failed.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoRoomError(
            f"The disk that holds {folder} is full.",
            safe="What was copied whole stays, and is not copied again.",
            next="Free some space on it, then do the same again.",
        )
    return TwofoldError(
        f"{folder} cannot be written ({failed.strerror}).",
        safe="The workspace is as it was.",
        next="See to the disk, then do the same again.",
    )


def _same(found: str, file: SealedFile, folder: Path) -> None:
    if found != file.digest:
        raise DamagedError(
            f"{file.name} did not arrive in {folder} as it was read.",
            safe="The workspace is as it was.",
            next="See to the disk that holds it; check the workspace too:  twofold disk verify",
        )


def is_sealed(name: str) -> bool:
    """Whether a name is one of a segment or a pack."""
    return len(name) == 18 and name[:2] in ("s-", "p-") and not name[2:].strip("0123456789abcdef")
