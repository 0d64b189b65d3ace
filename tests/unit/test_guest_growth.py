"""The user's file system on a disk that has become larger: real ones, made larger by ext4's own tools in the kernel's place."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from twofold.guest.growth import EXT4_IOC_RESIZE_FS, Home, grow
from twofold.image.build import user_template
from twofold.platform.run import run

GROUP = 128 << 20  # 32768 blocks of 4 KiB


class Disk:
    """`size` bytes that begin with the template of `made`; `asked` is what the kernel was asked for, in blocks."""

    def __init__(self, folder: Path, made: int, size: int) -> None:
        self.file, self.asked, self.refuses = folder / "vdb", list[int](), 0
        user_template(self.file, made)
        self.resized(size, folder)
        self.mounts = folder / "mounts"
        self.mounts.write_text(f"/dev/vda / erofs ro 0 0\n{self.file} /home ext4 rw,noatime 0 0\n")
        self.classes = folder / "class"

    def resized(self, size: int, folder: Path) -> None:
        with self.file.open("r+b") as file:
            file.truncate(size)
        (folder / "class/vdb").mkdir(parents=True, exist_ok=True)
        (folder / "class/vdb/size").write_text(f"{size // 512}\n")

    def ioctl(self, _: int, code: int, wanted: bytes) -> None:
        assert code == EXT4_IOC_RESIZE_FS
        if self.refuses:
            raise OSError(self.refuses, "no")
        (blocks,) = struct.unpack("=Q", wanted)
        self.asked.append(blocks)
        run(["e2fsck", "-fp", self.file])
        run(["resize2fs", self.file, str(blocks)])

    def grow(self) -> Home | None:
        return grow("/home", self.mounts, self.classes, self.ioctl, self.file.parent)


@pytest.fixture
def disk(tmp_path: Path) -> Callable[[int], Disk]:
    return lambda size: Disk(tmp_path, 1 << 30, size)


def test_it_takes_all_whole_groups_and_is_whole(disk: Callable[[int], Disk], tmp_path: Path) -> None:
    size = 12 * GROUP + GROUP // 2
    there = disk(size)
    assert there.grow() == Home(size, 12 * GROUP)
    run(["e2fsck", "-fn", there.file])
    assert there.grow() == Home(size, 12 * GROUP), "what is left is no whole group"
    there.resized(40 << 30, tmp_path)
    assert there.grow() == Home(40 << 30, 40 << 30)
    assert there.asked == [12 * GROUP // 4096, (40 << 30) // 4096]
    run(["e2fsck", "-fn", there.file])


def test_one_that_fits_is_left_alone(disk: Callable[[int], Disk]) -> None:
    there = disk(1 << 30)
    assert there.grow() == Home(1 << 30, 1 << 30)
    assert there.asked == []


def test_what_the_kernel_refuses_is_said_and_nothing_else_is_lost(
    disk: Callable[[int], Disk], capfd: pytest.CaptureFixture[str]
) -> None:
    there = disk(2 << 30)
    there.refuses = errno.EOPNOTSUPP
    assert there.grow() == Home(2 << 30, 1 << 30)
    assert "does not grow" in capfd.readouterr().err


def test_what_is_no_file_system_of_ours_is_not_touched(disk: Callable[[int], Disk]) -> None:
    there = disk(2 << 30)
    for mounts in ("tmpfs /home tmpfs rw 0 0\n", f"{there.file} /home xfs rw 0 0\n", ""):
        there.mounts.write_text(mounts)
        assert there.grow() is None
    there.mounts.write_text(f"{there.file} /home ext4 rw 0 0\n")
    with there.file.open("r+b") as file:
        file.seek(1024 + 0x38)
        file.write(b"\0\0")
    assert there.grow() is None
    assert there.asked == []


def test_the_template_can_grow_while_it_is_mounted(tmp_path: Path) -> None:
    """Linux refuses where spare superblocks were left out (sparse_super2)."""
    user_template(tmp_path / "user", 4 << 30)
    said = run(["dumpe2fs", "-h", tmp_path / "user"]).stdout
    (features,) = (line for line in said.decode().splitlines() if line.startswith("Filesystem features:"))
    assert "sparse_super2" not in features and "sparse_super" in features
    assert (tmp_path / "user").stat().st_size < 80 << 20
