"""Freezing: the user's file system made whole on its disk, and never frozen longer than was asked."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

# linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int)
FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
_FREEZABLE = {"ext4", "xfs", "btrfs", "vfat", "f2fs"}


def writable(mounts: Path = Path("/proc/self/mounts")) -> list[str]:
    """Mount points of file systems on disks that are written to, one for each disk."""
    seen: dict[str, str] = {}
    for line in mounts.read_text().splitlines():
        device, point, kind, options = line.split()[:4]
        if kind in _FREEZABLE and "rw" in options.split(",") and device.startswith("/dev/"):
            seen.setdefault(device, point.replace("\\040", " "))
    return list(seen.values())


Ioctl = Callable[[int, int], object]


class Freezer:
    """What is frozen now, and until when (on the clock that its owner passes in)."""

    def __init__(self, points: Callable[[], list[str]] = writable, ioctl: Ioctl | None = None) -> None:
        self._points = points
        self._ioctl: Ioctl = ioctl or (lambda fd, request: fcntl.ioctl(fd, request, 0))
        self._held: dict[str, int] = {}
        self.until: float | None = None

    def freeze(self, now: float, seconds: int) -> list[str]:
        """Freeze everything or nothing.

        Raises:
            OSError: a file system cannot be frozen; those already frozen are thawed again.
        """
        self.thaw()
        try:
            for point in self._points():
                fd = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    self._ioctl(fd, FIFREEZE)
                except OSError as why:
                    os.close(fd)
                    if why.errno in (errno.EOPNOTSUPP, errno.EBUSY):
                        continue
                    raise
                self._held[point] = fd
        except OSError:
            self.thaw()
            raise
        self.until = now + seconds
        return list(self._held)

    def thaw(self) -> list[str]:
        points = list(self._held)
        for point in reversed(points):
            fd = self._held.pop(point)
            try:
                self._ioctl(fd, FITHAW)
            except OSError:
                pass  # thawed by somebody else
            os.close(fd)
        self.until = None
        return points

    def due(self, now: float) -> bool:
        return self.until is not None and now >= self.until
