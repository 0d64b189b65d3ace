"""The user's file system grows with its disk: while it is mounted, journalled by the kernel, so that a power cut leaves it whole.

There is no partition: the file system begins at the disk's first byte (`twofold.image.build.user_template`).
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

EXT4_IOC_RESIZE_FS = 0x40086610  # fs/ext4/ext4.h: _IOW('f', 16, __u64)
_SUPERBLOCK = 1024  # where it is, and how long
_MAGIC = 0xEF53

Ioctl = Callable[[int, int, bytes], object]


@dataclass(frozen=True)
class Home:
    """In bytes: the disk, and the file system on it."""

    device: int
    files: int


def grow(
    point: str = "/home",
    mounts: Path = Path("/proc/self/mounts"),
    classes: Path = Path("/sys/class/block"),
    ioctl: Ioctl = fcntl.ioctl,
    devices: Path = Path("/dev"),
) -> Home | None:
    """Let the file system on `point` have all whole groups that its disk has room for; None where no ext4 on a disk is there.
    What does not work is said in the log, and in what is returned."""
    found: Home | None = None
    try:
        device = _device(point, mounts, devices)
        if device is None:
            return None
        size = int((classes / device.name / "size").read_text()) * 512
        files, group, block = _file_system(device)
        found = Home(size, files)
        wanted = size // group * group
        if wanted > files:
            fd = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                ioctl(fd, EXT4_IOC_RESIZE_FS, struct.pack("=Q", wanted // block))
            finally:
                os.close(fd)
            found = Home(size, _file_system(device)[0])
            sys.stderr.write(f"twofold: the user's file system has {found.files >> 20} MiB now\n")
    except (OSError, ValueError) as why:
        sys.stderr.write(f"twofold: the user's file system does not grow: {why}\n")
    return found


def _device(point: str, mounts: Path, devices: Path) -> Path | None:
    found = None
    for line in mounts.read_text().splitlines():
        device, where, kind = line.split()[:3]
        if where == point:  # the last one covers those before
            found = Path(device) if kind == "ext4" and device.startswith(f"{devices}/") else None
    return found


def _file_system(device: Path) -> tuple[int, int, int]:
    """Bytes of the file system, of a group, of a block (ext4's superblock: Documentation/filesystems/ext4/super.rst)."""
    with device.open("rb", buffering=0) as file:
        file.seek(_SUPERBLOCK)
        raw = file.read(_SUPERBLOCK)
    low, log_block, in_group, magic, high = (
        struct.unpack_from(form, raw, at)[0]
        for form, at in (("<I", 0x4), ("<I", 0x18), ("<I", 0x20), ("<H", 0x38), ("<I", 0x150))
    )
    if magic != _MAGIC or not 0 <= log_block <= 6 or not in_group:
        raise ValueError("no ext4 superblock")
    has_64bit = struct.unpack_from("<I", raw, 0x60)[0] & 0x80
    block = 1024 << log_block
    return (low | (high << 32 if has_64bit else 0)) * block, in_group * block, block
