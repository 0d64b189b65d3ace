"""The state directory: replaced whole, broken ones still listed, no two looks alike."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.agent.store import KEY, Record, Store, free_look, write_durably
from twofold.model.errors import ConflictError, DamagedError, NoRoomError, NotFoundError, TwofoldError
from twofold.model.names import PALETTE
from twofold.model.workspace import Custody, RunState


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create("work")
    record = Record(
        custody=Custody.CHECKED_OUT, run=RunState.SUSPENDED, key=3, memory_stored=True, error={"code": "failed"}
    )
    store.save("work", record)
    assert store.record("work") == record
    assert (store.folder("work") / "state.json").stat().st_mode & 0o777 == 0o600
    assert store.folder("work").stat().st_mode & 0o777 == 0o700


@given(st.binary(max_size=300))
def test_no_bytes_in_a_state_file_raise_anything_but_damaged(untrusted_bytes: bytes) -> None:
    with pytest.raises(DamagedError):
        Record.from_bytes(untrusted_bytes)


_WRONG: list[tuple[str, object]] = [
    ("key", 12),
    ("key", "1"),
    ("run", "flying"),
    ("colour", "#fff"),
    ("memory_mib", 1.5),
]


@pytest.mark.parametrize(("field", "value"), [*_WRONG, ("memory_stored", 1), ("error", "text"), ("more", 1)])
def test_a_state_file_with_one_wrong_field_is_damaged(field: str, value: object) -> None:
    body = json.loads(Record().to_bytes()) | {field: value}
    with pytest.raises(DamagedError):
        Record.from_bytes(json.dumps(body).encode())


def test_a_newer_schema_is_not_guessed_at() -> None:
    body = json.loads(Record().to_bytes()) | {"schema": "twofold-state-2"}
    with pytest.raises(DamagedError, match="schema"):
        Record.from_bytes(json.dumps(body).encode())


def test_creating_twice_is_a_conflict_and_a_stray_folder_is_not_a_workspace(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create("work")
    (store.root / "Not A Name").mkdir()
    (store.root / ".hidden").mkdir()
    assert store.names() == ["work"]
    with pytest.raises(ConflictError):
        store.create("work")
    with pytest.raises(NotFoundError):
        store.read("other", "state.json")
    with pytest.raises(DamagedError, match=r"lacks its file lease\.json"):
        store.read("work", "lease.json")


@pytest.mark.parametrize("name", ["..", "../etc", "a/b", "", "Work", "a" * 41])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(TwofoldError):
        Store(tmp_path).folder(name)


def test_a_destroyed_key_is_overwritten_before_it_goes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create("work")
    store.write("work", KEY, b"k" * 80)
    with (store.folder("work") / KEY).open("rb") as still_open:
        assert store.destroy_key("work") is True
        left = still_open.read()
    assert len(left) == 80
    assert b"kkkk" not in left
    assert store.destroy_key("work") is False
    store.destroy("work")
    store.destroy("work")
    assert store.names() == []


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_durably(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoRoomError, match="disk is full"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_no_two_workspaces_look_alike() -> None:
    taken: list[Record] = []
    for _ in range(len(PALETTE)):
        key, colour = free_look(taken, "blue")
        taken.append(dataclasses.replace(Record(), key=key, colour=colour))
    assert len({record.key for record in taken}) == len(taken)
    assert len({record.colour for record in taken}) == len(PALETTE)
    assert taken[0].colour == "blue"
