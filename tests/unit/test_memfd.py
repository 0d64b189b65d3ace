"""Memory files and the room there is for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from twofold.model.errors import NoRoomError
from twofold.platform import memfd, memory


def test_extents_are_the_data_and_no_more() -> None:
    fd = memfd.create("t", 1 << 20)
    try:
        assert list(memfd.extents(fd)) == []
        os.pwrite(fd, b"x" * 4096, 8192)
        os.pwrite(fd, b"y", (1 << 20) - 1)
        assert list(memfd.extents(fd)) == [(8192, 4096), ((1 << 20) - 4096, 4096)]
    finally:
        os.close(fd)


def test_a_sized_memory_file_cannot_change_its_size() -> None:
    fd = memfd.create("t", 4096)
    try:
        for size in (0, 8192):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        os.pwrite(fd, b"x", 0)
    finally:
        os.close(fd)


def test_a_memory_file_is_found_in_its_process_by_its_name() -> None:
    fd = memfd.create("t-found", 4096)
    try:
        found = memfd.of(os.getpid(), "t-found")
        os.pwrite(found, b"x", 0)
        assert os.pread(fd, 1, 0) == b"x"
        os.close(found)
        with pytest.raises(FileNotFoundError):
            memfd.of(os.getpid(), "t-foun")
    finally:
        os.close(fd)


def test_a_held_text_cannot_change() -> None:
    fd = memfd.holding("t", b"abc")
    try:
        assert os.read(fd, 10) == b"abc"
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
    finally:
        os.close(fd)


def test_a_reopened_descriptor_has_its_own_mode() -> None:
    fd = memfd.create("t", 4096)
    reader = memfd.reopen(fd, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(reader, b"x")
    finally:
        os.close(reader)
        os.close(fd)


def machine(folder: Path, available: int, groups: str, files: dict[str, str]) -> tuple[Path, Path]:
    proc, cgroup = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 9000000 kB\nMemAvailable: {available >> 10} kB\nHugePages_Total: 0\n")
    (proc / "self" / "cgroup").write_text(groups)
    cgroup.mkdir()
    for name, text in files.items():
        (cgroup / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroup / name).write_text(text)
    return proc, cgroup


def test_room_is_the_least_of_machine_and_groups_v2(tmp_path: Path) -> None:
    files = {
        "cgroup.controllers": "cpu memory",
        "user/memory.max": str(4 << 30),
        "user/memory.current": str(3 << 30),
        "user/memory.stat": f"anon 1\ninactive_file {256 << 20}\n",
        "user/app/memory.max": "max\n",
        "user/app/memory.current": "5",
    }
    proc, cgroup = machine(tmp_path, 8 << 30, "0::/user/app\n", files)
    assert memory.room(proc, cgroup) == memory.Room((1 << 30) + (256 << 20), "this session's control group")


def test_room_counts_v1_limits_and_not_the_unlimited(tmp_path: Path) -> None:
    files = {
        "memory/job/memory.limit_in_bytes": str(1 << 30),
        "memory/job/memory.usage_in_bytes": str(1 << 29),
        "memory/memory.limit_in_bytes": str((1 << 63) - 4096),
        "memory/memory.usage_in_bytes": "0",
    }
    proc, cgroup = machine(tmp_path, 8 << 30, "4:memory:/job\n1:cpu:/\n0::/\n", files)
    assert memory.room(proc, cgroup).available == 1 << 29


def test_too_little_room_says_both_figures(tmp_path: Path) -> None:
    proc, cgroup = machine(tmp_path, 300 << 20, "", {})
    now = memory.room(proc, cgroup)
    memory.require(300 << 20, "work", now)
    with pytest.raises(NoRoomError, match=r"work needs 301 MiB of memory; this machine has 300 MiB left"):
        memory.require(301 << 20, "work", now)


def test_swap_on_a_disk_is_named_and_zram_is_not(tmp_path: Path) -> None:
    (tmp_path / "swaps").write_text(
        "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 5\n/dev/sda2 partition 1 0 -2\n"
    )
    assert memory.swaps(tmp_path) == ["/dev/sda2"]


def test_a_machine_that_is_too_small_for_ever_says_so(tmp_path: Path) -> None:
    proc, cgroup = machine(tmp_path, 300 << 20, "", {})
    with pytest.raises(NoRoomError, match=r"needs 16384 MiB of memory; this machine has 8789 MiB in all") as said:
        memory.require(16 << 30, "work", memory.room(proc, cgroup))
    assert said.value.next == "It can only run on a machine with more memory."
