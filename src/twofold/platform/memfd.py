"""Memory files: anonymous, never on a disk, handed on as descriptors (memfd_create(2))."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_NO_RESIZE = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW if hasattr(fcntl, "F_SEAL_SHRINK") else 0


def create(name: str, size: int = 0) -> int:
    """A new memory file of `size` bytes, all hole. With a size it is sealed against growing and shrinking."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        if size:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _NO_RESIZE)
    except BaseException:
        os.close(fd)
        raise
    return fd


def holding(name: str, data: bytes) -> int:
    """A new memory file that holds `data`, sealed against every change."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _NO_RESIZE | fcntl.F_SEAL_WRITE)
    except BaseException:
        os.close(fd)
        raise
    return fd


def reopen(fd: int, flags: int) -> int:
    """A second descriptor of the same file with another access mode; QEMU's fdsets want the exact one."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)


def of(pid: int, name: str) -> int:
    """A descriptor of our own, for reading and writing, of the memory file `name` that process `pid` has open (proc_pid_fd(5)).

    Raises:
        OSError: the process is gone, has no such file, or may not be looked into.
    """
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if str(entry.readlink()) == f"/memfd:{name} (deleted)":
                return os.open(entry, os.O_RDWR | os.O_CLOEXEC)
    raise FileNotFoundError(errno.ENOENT, f"process {pid} has no memory file {name}")


def extents(fd: int) -> Iterator[tuple[int, int]]:
    """The data ranges of a sparse file as (offset, length), in order (lseek(2), SEEK_DATA)."""
    end, at = os.fstat(fd).st_size, 0
    while at < end:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as nothing:
            if nothing.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, at - start
