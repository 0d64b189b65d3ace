"""Suspended memory at rest: what is sealed comes back, and nothing else is taken for it."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.model.errors import BadInputError, DamagedError, NoRoomError
from twofold.model.machine import Accelerator, MemoryIdentity
from twofold.model.progress import silent
from twofold.platform import memfd
from twofold.vault import sealed

KEY, OTHER = bytes(range(32)), bytes(32)
WHO = MemoryIdentity("work", "head", "image", 3, Accelerator.TCG, "10.0.2", "pc", "max", "spec")


@pytest.fixture
def memory() -> Iterator[int]:
    """3.5 MiB of data in 16 MiB, in ranges of all kinds."""
    fd, chance = memfd.create("t", 16 << 20), random.Random(7)
    for at, length in (
        (0, 4096),
        (1 << 20, (2 << 20) + 4096),
        (5 << 20, 8192),
        ((16 << 20) - 4096, 4096),
        (9 << 20, 1 << 20),
    ):
        os.pwrite(fd, chance.randbytes(length), at)
    yield fd
    os.close(fd)


def whole(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def test_it_comes_back_with_its_holes(memory: int, tmp_path: Path) -> None:
    stored = sealed.seal(tmp_path / "m", KEY, WHO, memory, silent)
    assert stored == (tmp_path / "m").stat().st_size
    again = sealed.unseal(tmp_path / "m", KEY, silent)
    try:
        assert whole(again) == whole(memory)
        assert list(memfd.extents(again)) == list(memfd.extents(memory))
    finally:
        os.close(again)
    assert sealed.identity(tmp_path / "m", KEY) == WHO
    assert not (tmp_path / "m.new").exists()


@pytest.mark.parametrize("length", [0, 4096, sealed.CHUNK - sealed.CHUNK % 4096, 3 << 20])
def test_every_length_ends_well(length: int, tmp_path: Path) -> None:
    fd = memfd.create("t", 4 << 20)
    try:
        os.pwrite(fd, b"\x5a" * length, 0)
        sealed.seal(tmp_path / "m", KEY, WHO, fd, silent)
        again = sealed.unseal(tmp_path / "m", KEY, silent)
        assert whole(again) == whole(fd)
        os.close(again)
    finally:
        os.close(fd)


def test_no_plaintext_is_in_the_file_and_no_two_seals_are_alike(memory: int, tmp_path: Path) -> None:
    for name in ("a", "b"):
        sealed.seal(tmp_path / name, KEY, WHO, memory, silent)
    one, two = (tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()
    assert os.pread(memory, 64, 1 << 20) not in one
    assert b"work" not in one
    assert not {one[at : at + 32] for at in range(0, len(one), 32)} & {
        two[at : at + 32] for at in range(0, len(two), 32)
    }


def test_another_key_opens_nothing(memory: int, tmp_path: Path) -> None:
    sealed.seal(tmp_path / "m", KEY, WHO, memory, silent)
    for use in (lambda: sealed.identity(tmp_path / "m", OTHER), lambda: sealed.unseal(tmp_path / "m", OTHER, silent)):
        with pytest.raises(DamagedError, match="another vault"):
            use()


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused(where: float, bit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    good = _sealed_bytes(tmp_path_factory)
    at = int(where * len(good))
    _refused(tmp_path_factory, good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])


@given(data=st.binary(max_size=200))
def test_foreign_bytes_are_refused(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    _refused(tmp_path_factory, data)


@pytest.mark.parametrize("cut", [1, 16, 4096, 1 << 20, (1 << 20) + 8208])
def test_a_cut_off_file_is_refused(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    _refused(tmp_path_factory, _sealed_bytes(tmp_path_factory)[:-cut])


def test_added_and_swapped_chunks_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    good = _sealed_bytes(tmp_path_factory)
    _refused(tmp_path_factory, good + good[-100:])
    first = 4096
    _refused(tmp_path_factory, good[:first] + good[first + sealed.SEALED : first + 2 * sealed.SEALED]
             + good[first : first + sealed.SEALED] + good[first + 2 * sealed.SEALED :])  # fmt: skip


def test_a_torn_first_block_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    good = _sealed_bytes(tmp_path_factory)
    _refused(tmp_path_factory, bytes(4096) + good[4096:])
    _refused(tmp_path_factory, bytes(len(good)))


def test_consumed_is_gone(memory: int, tmp_path: Path) -> None:
    sealed.seal(tmp_path / "m", KEY, WHO, memory, silent)
    sealed.forget(tmp_path / "m")
    assert sealed.identity(tmp_path / "m", KEY) is None
    with pytest.raises(DamagedError):
        sealed.unseal(tmp_path / "m", KEY, silent)
    sealed.forget(tmp_path / "m")


def test_a_full_disk_leaves_what_was_there(memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed.seal(tmp_path / "m", KEY, WHO, memory, silent)

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NoRoomError, match="too full"):
        sealed.seal(tmp_path / "m", KEY, dataclasses.replace(WHO, disk_head="later"), memory, silent)
    assert sealed.identity(tmp_path / "m", KEY) == WHO
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_failing_write_leaves_nothing(memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.pwrite, iter(range(1000))

    def failing(fd: int, data: bytes, at: int) -> int:
        if next(calls) == 2:
            raise OSError(5, "Input/output error")
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(OSError, match="Input/output"):
        sealed.seal(tmp_path / "m", KEY, WHO, memory, silent)
    assert list(tmp_path.iterdir()) == []


def test_no_descriptors_are_left(memory: int, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    sealed.seal(tmp_path / "m", KEY, WHO, memory, silent)
    os.close(sealed.unseal(tmp_path / "m", KEY, silent))
    (tmp_path / "m").write_bytes((tmp_path / "m").read_bytes()[:-1])
    with pytest.raises(DamagedError):
        sealed.unseal(tmp_path / "m", KEY, silent)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


_SEALED: dict[str, bytes] = {}


def _sealed_bytes(factory: pytest.TempPathFactory) -> bytes:
    if not _SEALED:
        fd, path = memfd.create("t", 8 << 20), factory.mktemp("s") / "m"
        os.pwrite(fd, random.Random(3).randbytes((2 << 20) + 8192), 4096)
        sealed.seal(path, KEY, WHO, fd, silent)
        os.close(fd)
        _SEALED["good"] = path.read_bytes()
    return _SEALED["good"]


def _refused(factory: pytest.TempPathFactory, data: bytes) -> None:
    path = factory.getbasetemp() / "spoilt"
    path.write_bytes(data)
    with pytest.raises((DamagedError, BadInputError)):
        os.close(sealed.unseal(path, KEY, silent))
