"""What has left this device stays told on it: the newest, once each, whatever became of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from twofold.agent.receipts import FILE, Receipts

GONE: dict[str, Any] = {
    "workspace": "work", "title": "Acme", "colour": "blue", "verb": "wipe", "company": True, "token": 7,
    "removed_at": 1_800_000_000, "key_destroyed": True, "sealed_bytes_removed": 1 << 20,
}  # fmt: skip


def test_the_newest_are_kept_oldest_first(tmp_path: Path) -> None:
    for token in range(1, 71):
        Receipts(tmp_path).add(GONE | {"token": token})
    kept = Receipts(tmp_path).all()
    assert [each["token"] for each in kept] == list(range(7, 71))
    assert kept[-1] == GONE | {"token": 70}
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_one_end_that_a_death_cut_in_two_is_told_once(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path)
    receipts.add(GONE)
    receipts.add(GONE | {"key_destroyed": False, "sealed_bytes_removed": 0, "removed_at": GONE["removed_at"] + 60})
    assert receipts.all() == [GONE | {"removed_at": GONE["removed_at"] + 60}]
    receipts.add(GONE | {"token": 8})
    receipts.add(GONE | {"workspace": "other", "token": 8})
    receipts.add(GONE | {"token": 0})
    receipts.add(GONE | {"token": 0})
    assert len(receipts.all()) == 5, "another lease, another workspace, and one without a lease are ends of their own"


@pytest.mark.parametrize("untrusted", [b"", b"{", b"[]", b'{"schema": "twofold-receipts-2", "receipts": [{}]}',
                                       b'{"schema": "twofold-receipts-1", "receipts": [{"workspace": 1}, 7]}'])  # fmt: skip
def test_a_file_that_cannot_be_read_keeps_nothing_from_being_written(tmp_path: Path, untrusted: bytes) -> None:
    (tmp_path / FILE).write_bytes(untrusted)
    receipts = Receipts(tmp_path)
    assert receipts.all() == []
    receipts.add(GONE)
    assert receipts.all() == [GONE]
