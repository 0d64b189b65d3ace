"""Generations on their way between two devices, on the real vault process: copied, verified, begun from, never the other way."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_vault_store import kill
from twofold.model.errors import (
    BadInputError,
    ConflictError,
    DamagedError,
    NoRoomError,
    NotFoundError,
    RefusedError,
    TwofoldError,
    UsageError,
)
from twofold.model.generation import SealedFile
from twofold.model.progress import silent
from twofold.vault import nbd
from twofold.vault.copies import PART, Folder, take
from twofold.vault.seam import Contents, DeviceSpec, Keys, OpenVault, Reading
from twofold.vault.store import SealedVault, _Open

SIZE = 32 << 20


class Machine:
    """A device's own folder, with one workspace's vault in it or none yet."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.where, self.runtime = folder, folder / "work" / "vault", folder / "run"
        self.runtime.mkdir(mode=0o700, parents=True)
        self.vaults = SealedVault(folder / "device", folder / "anchors")
        self.public = self.vaults.device_key()
        self.keys = Keys("work", b"")

    def make(self) -> None:
        self.keys = self.vaults.new_keys("work")
        with self.vaults.creating(self.where, self.keys, [DeviceSpec("user", SIZE)]):
            pass

    @contextlib.contextmanager
    def open(self) -> Iterator[OpenVault]:
        vault = self.vaults.open(self.where, self.keys, self.runtime)
        try:
            yield vault
        finally:
            vault.close()

    def take(self, path: Path, contents: Contents, keys: Keys) -> dict[str, object]:
        """As the agent does: a new epoch, the files, and then the vault."""
        fresh = self.vaults.next_epoch(keys)
        with Folder(path) as folder, self.vaults.receiving(self.where):
            take(folder, contents.files, self.where, silent)
            done = self.vaults.adopt(self.where, fresh, contents)
        self.keys = fresh
        return done


def write(vault: OpenVault, data: bytes, at: int = 0) -> None:
    with vault.connect("user") as stream:
        client = nbd.Client(stream, "user")
        client.write(at, data)
        client.flush()
        client.disconnect()


def read(vault: OpenVault, length: int, at: int = 0) -> bytes:
    with vault.connect("user") as stream:
        client = nbd.Client(stream, "user")
        data = client.read(at, length)
        client.disconnect()
    return data


def settled(vault: OpenVault) -> None:
    """Wait until the server has seen that its clients are gone."""
    deadline = time.monotonic() + 5
    while vault.status()["vault"]["connections"] and time.monotonic() < deadline:
        time.sleep(0.01)


def send(reading: Reading, path: Path, there: dict[str, SealedFile]) -> tuple[SealedFile, ...]:
    path.mkdir(exist_ok=True)
    lacking = tuple(file for file in reading.contents.files if there.get(file.name) != file)
    with Folder(path) as folder:
        for file in lacking:
            folder.put(file, reading, silent, 0, 0)
    return lacking


@pytest.fixture
def first(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path / "first")
    machine.make()
    return machine


@pytest.fixture
def second(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "second")


@pytest.fixture
def exported(first: Machine, tmp_path: Path) -> tuple[Path, Contents]:
    with first.open() as vault:
        write(vault, b"saved by the first" * 5000)
        with vault.reading(None, note="go") as reading:
            send(reading, tmp_path / "stick", {})
            return tmp_path / "stick", reading.contents


def test_another_device_goes_on_and_the_first_ones_key_opens_nothing_of_it(
    first: Machine, second: Machine, exported: tuple[Path, Contents]
) -> None:
    path, contents = exported
    assert (contents.epoch, contents.note) == (1, "go")
    with pytest.raises(RefusedError, match="does not allow"):
        first.vaults.rewrap(first.keys, second.public, allowed=False)
    wrapped = first.vaults.rewrap(first.keys, second.public, allowed=True)
    with pytest.raises(DamagedError, match="not sealed for this device"):
        second.vaults.next_epoch(first.keys)
    assert second.take(path, contents, wrapped)["epoch"] == 2
    with second.open() as vault:
        assert read(vault, 90000) == b"saved by the first" * 5000
        assert vault.status()["vault"]["epoch"] == 2
        write(vault, b"by the second" * 5000, 1 << 20)
    # Everything that the second has, in the first's hands: its files, and the keys' document too.
    shutil.rmtree(first.where)
    shutil.copytree(second.where, first.where)
    (first.folder / "anchors" / "work").unlink()
    with pytest.raises(TwofoldError), first.vaults.resting(first.where, first.keys, accept=True):
        pass
    with pytest.raises(DamagedError, match="not sealed for this device"):
        first.vaults.open(first.where, second.keys, first.runtime)
    digest, plan = second.vaults.survey(second.where, second.keys)
    assert plan["sound"] is True
    assert len(digest) == 64


def test_a_second_copy_sends_what_is_new_and_nothing_else(first: Machine, second: Machine, tmp_path: Path) -> None:
    path = tmp_path / "stick"
    with first.open() as vault:
        write(vault, os.urandom(8 << 20))
        with vault.reading(None) as reading:
            before = reading.contents
            assert len(send(reading, path, {})) == len(before.files)
        write(vault, b"new" * 4096, 16 << 20)
        with vault.reading(None, known=before.files) as reading:
            sent = send(reading, path, {file.name: file for file in before.files})
            after = reading.contents
        assert sum(file.length for file in sent) < 200_000 < sum(file.length for file in after.files)
        assert list(vault.changed("user", before.generation)) == [(16 << 20, 12288)]
        assert [one.number for one in vault.generations()] == [before.generation, after.generation]
        vault.forget(before.generation)
        assert [one.number for one in vault.generations()] == [after.generation]
    second.take(path, after, first.vaults.rewrap(first.keys, second.public, allowed=True))
    with second.open() as vault:
        assert read(vault, 12288, 16 << 20) == b"new" * 4096
        write(vault, b"x" * 4096, 16 << 20)
        settled(vault)
        vault.revert(after.generation)
        assert read(vault, 12288, 16 << 20) == b"new" * 4096


def test_a_revert_is_refused_while_somebody_is_connected(first: Machine) -> None:
    with first.open() as vault:
        made = vault.commit("kept")
        with vault.connect("user") as stream:
            nbd.Client(stream, "user").read(0, 512)
            with pytest.raises(ConflictError, match="in use"):
                vault.revert(made.number)
        with pytest.raises(NotFoundError):
            vault.forget(99)


def test_while_it_is_copied_no_file_of_it_goes(first: Machine, tmp_path: Path) -> None:
    with first.open() as vault:
        write(vault, os.urandom(SIZE))
        made = vault.commit("old")
        with vault.reading(made.number) as reading:
            vault.forget(made.number)
            write(vault, os.urandom(SIZE))
            vault._talk.call("clean")  # type: ignore[attr-defined]
            assert send(reading, tmp_path / "stick", {}) == reading.contents.files
            with pytest.raises(NotFoundError):
                reading.open("head.a")
        vault._talk.call("clean")  # type: ignore[attr-defined]
        there = {path.name for path in first.where.iterdir()}
        assert not {file.name for file in reading.contents.files if file.length > 1 << 20} & there
        with pytest.raises(NotFoundError), vault.reading(made.number):
            pass


def test_a_generation_that_was_compacted_says_so(first: Machine) -> None:
    with first.open() as vault:
        write(vault, os.urandom(SIZE))
        made = vault.commit("old")
        write(vault, os.urandom(SIZE - (1 << 20)))
        newer = vault.commit("newer")
        vault.forget(made.number)
        vault._talk.call("clean")  # type: ignore[attr-defined]
        with pytest.raises(ConflictError, match="compacted") as said, vault.reading(newer.number):
            pass
        assert "newest state" in said.value.next
        with vault.reading(None) as reading:
            assert reading.contents.generation > newer.number


def spoil(path: Path, file: SealedFile, how: str) -> None:
    victim = path / file.name
    data = bytearray(victim.read_bytes())
    victim.unlink()
    if how == "flipped":
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    elif how == "short":
        victim.write_bytes(data[:-1])
    elif how == "link":
        (path.parent / "elsewhere").write_bytes(data)
        victim.symlink_to(path.parent / "elsewhere")
    elif how == "fifo":
        os.mkfifo(victim)
    elif how == "folder":
        victim.mkdir()


@pytest.mark.parametrize("how", ["flipped", "short", "gone", "link", "fifo", "folder"])
def test_a_folder_that_is_not_what_its_record_says_is_refused_by_name_and_leaves_nothing(
    first: Machine, second: Machine, exported: tuple[Path, Contents], how: str
) -> None:
    path, contents = exported
    keys = first.vaults.rewrap(first.keys, second.public, allowed=True)
    for file in contents.files:
        shutil.copytree(path, path.parent / "spoilt")
        spoil(path.parent / "spoilt", file, how)
        with pytest.raises((DamagedError, BadInputError), match=file.name) as said:
            second.take(path.parent / "spoilt", contents, keys)
        assert said.value.safe
        assert not second.where.exists()
        assert not (second.folder / "anchors" / "work").exists()
        shutil.rmtree(path.parent / "spoilt")
    second.take(path, contents, keys)


def test_a_record_that_lies_is_refused_and_leaves_nothing(
    first: Machine, second: Machine, exported: tuple[Path, Contents]
) -> None:
    path, contents = exported
    keys = first.vaults.rewrap(first.keys, second.public, allowed=True)
    files = contents.files
    lies = [
        {"files": files[:-1]}, {"files": files[1:]}, {"generation": contents.generation + 1}, {"vault": "0" * 32},
        {"root": "0" * 16}, {"root": "f" * 16}, {"root": f"{int(contents.root, 16) + 1:016x}"}, {"pieces": 0},
        {"pieces": 9999}, {"epoch": 2}, {"vault": "../x"}, {"root": "zz"},
        {"files": (SealedFile("../../etc/passwd", 1, "0" * 64),)},
    ]  # fmt: skip
    for lie in lies:
        with pytest.raises(TwofoldError):
            second.take(path, dataclasses.replace(contents, **lie), keys)  # type: ignore[arg-type]
        assert not second.where.exists()
    other = first.vaults.new_keys("work")
    with pytest.raises(TwofoldError):
        second.take(path, contents, first.vaults.rewrap(other, second.public, allowed=True))
    assert not second.where.exists()


def test_no_generation_goes_on_under_an_epoch_that_others_have(
    first: Machine, second: Machine, exported: tuple[Path, Contents]
) -> None:
    path, contents = exported
    wrapped = first.vaults.rewrap(first.keys, second.public, allowed=True)
    with (
        pytest.raises(UsageError, match="new epoch"),
        Folder(path) as folder,
        second.vaults.receiving(second.where),
    ):
        take(folder, contents.files, second.where, silent)
        second.vaults.adopt(second.where, wrapped, contents)


def test_a_full_disk_leaves_what_is_whole_and_the_next_try_goes_on(
    first: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real, left = tmp_path / "stick", os.copy_file_range, [1]

    def short(source: int, to: int, count: int, *offsets: int) -> int:
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        left[0] -= 1
        return real(source, to, count, *offsets)

    with first.open() as vault:
        write(vault, b"x" * 4096)
        vault.commit("one")
        write(vault, b"y" * 4096)
        with vault.reading(None) as reading:
            assert len(reading.contents.files) > 2
            monkeypatch.setattr(os, "copy_file_range", short)
            with pytest.raises(NoRoomError) as said:
                send(reading, path, {})
            assert "not copied again" in said.value.safe
            monkeypatch.setattr(os, "copy_file_range", real)
            assert [entry.name for entry in path.iterdir()] == [reading.contents.files[0].name]
            with Folder(path) as folder:
                there = {file.name: file for file in reading.contents.files if folder.verifies(file, reading)}
                assert len(there) == 1
                (path / f"{reading.contents.files[1].name}{PART}").write_bytes(b"torn")
                assert len(send(reading, path, there)) == len(reading.contents.files) - 1
                assert folder.leftovers({file.name for file in reading.contents.files}) == []
                assert all(folder.verifies(file, reading) for file in reading.contents.files)
        assert not any(entry.name.endswith(PART) for entry in path.iterdir())


def test_a_plan_is_shown_first_and_carried_out_to_the_letter(first: Machine) -> None:
    with first.open() as vault:
        write(vault, os.urandom(4 << 20))
        vault.commit("kept")
        write(vault, b"later" * 4096, 8 << 20)
    digest, plan = first.vaults.survey(first.where, first.keys)
    assert plan["sound"] is True
    largest = max(first.where.glob("s-*"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    before = {path.name: path.read_bytes() for path in first.where.iterdir()}
    digest, plan = first.vaults.survey(first.where, first.keys)
    assert (plan["sound"], plan["repairable"]) == (False, True)
    (device,) = plan["devices"]
    assert (device["name"], device["lost"]["bytes"]) == ("user", 4096)
    assert [row["note"] for row in plan["generations"]] == ["kept"]
    with pytest.raises(ConflictError, match="not what you were shown"):
        first.vaults.repair(first.where, first.keys, "0" * 64)
    assert {path.name: path.read_bytes() for path in first.where.iterdir()} == before
    done = first.vaults.repair(first.where, first.keys, digest)
    assert (done["zeroed"], done["generations"]) == (4096, [1])
    assert first.vaults.survey(first.where, first.keys)[1]["sound"] is True
    with first.open() as vault:
        assert read(vault, 4096, device["lost"]["ranges"][0]["offset"]) == bytes(4096)
        assert read(vault, 20480, 8 << 20) == b"later" * 4096


def test_a_store_whose_age_nobody_knows_is_taken_on_purpose(first: Machine, tmp_path: Path) -> None:
    with first.open() as vault:
        write(vault, b"older" * 4096)
    shutil.copytree(first.where, tmp_path / "older")
    with first.open() as vault:
        write(vault, b"newer" * 4096)
    shutil.rmtree(first.where)
    (tmp_path / "older").rename(first.where)
    for lost in (False, True):
        if lost:
            (first.folder / "anchors" / "work").unlink()
        with pytest.raises(DamagedError), first.open():
            pass
        digest, plan = first.vaults.survey(first.where, first.keys)
        assert (plan["sound"], plan["end"], plan["repairable"]) == (False, None, True)
        assert ("anchor is lost" if lost else "older") in plan["age"]
        assert plan["devices"][0]["lost"] == {"bytes": 0, "ranges": []}
        with pytest.raises(DamagedError), first.open():
            pass  # looking changed nothing
        first.vaults.repair(first.where, first.keys, digest)
        with first.open() as vault:
            assert read(vault, 20480) == b"older" * 4096


def test_acknowledged_writes_lost_at_the_end_are_given_up_by_size(first: Machine) -> None:
    with first.open() as vault:
        write(vault, b"first" * 4096)
    vault = first.vaults.open(first.where, first.keys, first.runtime)
    for turn in range(40):
        write(vault, bytes([turn + 1]) * 4096, (1 << 20) + turn * 4096)
    assert isinstance(vault, _Open)
    kill(vault)
    vault.close()
    last = max(first.where.glob("s-*"))
    data = bytearray(last.read_bytes())
    data[256 + 3 * 4128 + 100] ^= 1
    last.write_bytes(data)
    with pytest.raises(DamagedError), first.open():
        pass
    digest, plan = first.vaults.survey(first.where, first.keys)
    assert (plan["age"], plan["repairable"], plan["sound"]) == (None, True, False)
    assert last.name in plan["end"]["why"]
    assert 37 * 4096 <= plan["end"]["at_most"] <= last.stat().st_size
    first.vaults.repair(first.where, first.keys, digest)
    with first.open() as vault:
        assert read(vault, 20480) == b"first" * 4096
        assert read(vault, 40 * 4096, 1 << 20).rstrip(b"\0") == b"".join(bytes([turn + 1]) * 4096 for turn in range(3))
        write(vault, b"on" * 2048)
    assert first.vaults.survey(first.where, first.keys)[1]["sound"] is True


def test_a_store_too_damaged_for_a_repair_says_so_and_is_left_alone(first: Machine) -> None:
    with first.open() as vault:
        write(vault, os.urandom(4 << 20))
    for path in first.where.glob("head.*"):
        path.write_bytes(bytes(192))
    for path in first.where.glob("s-*"):
        path.write_bytes(path.read_bytes()[:200])
    before = {path.name: path.read_bytes() for path in first.where.iterdir()}
    with pytest.raises(DamagedError) as said:
        first.vaults.survey(first.where, first.keys)
    assert said.value.safe and said.value.next
    assert {path.name: path.read_bytes() for path in first.where.iterdir()} == before


def test_the_newest_format_needs_no_upgrade(first: Machine) -> None:
    with first.open() as vault:
        answer = vault.upgrade()
        assert answer["upgraded"] is False
        assert answer["format"] == vault.status()["vault"]["format"]
        assert answer["format"]["version"] == 1
    json.dumps(answer)
