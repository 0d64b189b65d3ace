"""The vault seam when bytes are damaged, the store is turned back, the lease ends, space is short; generations."""

# ruff: noqa: F811 - the fixtures are those of the other half

from __future__ import annotations

import os
import shutil
import time

import pytest

from tests.unit.test_vault_store import Place, kill, place, template  # noqa: F401
from twofold.model.errors import ConflictError, DamagedError, TwofoldError
from twofold.model.progress import silent


def test_damage_is_named_and_the_rest_can_be_read(place: Place) -> None:
    vault = place.open()
    place.write(vault, os.urandom(64 * 4096), 0)
    assert [each["lost"]["bytes"] for each in vault.check(True, silent)["devices"]] == [0, 0]
    vault.close()
    newest = max(place.where.glob("s-*"))
    with newest.open("r+b") as file:
        file.seek(256 + 4128 * 20 + 100)  # docs/vault-format.md, Segments: somewhere in the middle of the 64 blocks
        file.write(b"damage")
    vault = place.open()
    assert [each["lost"]["bytes"] for each in vault.check(False, silent)["devices"]] == [0, 0], "the map is whole"
    system, user = vault.check(True, silent)["devices"]
    assert system["lost"] == {"bytes": 0, "ranges": []}
    (lost,) = user["lost"]["ranges"]
    assert (user["lost"]["bytes"], lost["length"]) == (4096, 4096)
    assert newest.name in lost["why"]
    with pytest.raises(TwofoldError):
        place.read(vault, 4096, lost["offset"])
    assert place.read(vault, 4096, lost["offset"] + 4096)
    place.write(vault, b"new" * 4096, lost["offset"])
    assert vault.check(True, silent)["devices"][1]["lost"]["bytes"] == 0, "what is written anew is whole"


def test_an_older_copy_can_be_taken_on_purpose(place: Place) -> None:
    place.suspend(place.open())
    place.opened.pop().close()
    shutil.copytree(place.where, place.folder / "older")
    vault = place.open()
    place.write(vault, b"new" * 4096)
    vault.close()
    shutil.rmtree(place.where)
    (place.folder / "older").rename(place.where)
    with place.vaults.resting(place.where, place.keys, accept=True) as accepted:
        assert accepted.status()["vault"]["anchored"]
    vault = place.open()
    assert vault.memory_identity() is None, "it may have been used already"
    assert place.read(vault) == bytes(4096)


def test_a_lost_anchor_is_said_and_can_be_made_anew_on_purpose(place: Place) -> None:
    place.write(place.open(), b"new" * 4096)
    place.opened.pop().close()
    (place.folder / "anchors" / "work").unlink()
    with pytest.raises(DamagedError, match="can't be told"):
        place.open()
    with place.vaults.resting(place.where, place.keys, accept=True):
        pass
    assert place.read(place.open(), 4) == b"newn"


def test_generations(place: Place) -> None:
    vault = place.open()
    place.write(vault, b"1" * 4096)
    first = vault._talk.call("commit", {"note": "first"})[0]["generation"]
    place.write(vault, b"2" * 4096, 8192)
    assert vault._talk.call("changed", {"device": "user", "since": first})[0] == {
        "ranges": [[8192, 4096]],
        "next": None,
    }
    with vault.connect("user"), pytest.raises(ConflictError, match="in use"):
        time.sleep(0.05)
        vault._talk.call("revert", {"generation": first})
    end = time.monotonic() + 5
    while vault.status()["vault"]["connections"] and time.monotonic() < end:
        time.sleep(0.01)
    vault._talk.call("revert", {"generation": first})
    assert place.read(vault, 8192) == b"1" * 4096 + bytes(4096)
    assert [each["note"] for each in vault._talk.call("generations")[0]["generations"]] == ["first"]


def test_space_that_was_taken_in_advance_is_given_back(place: Place) -> None:
    before = place.vaults.stored_bytes(place.where)
    for number in range(4):
        vault = place.open()
        place.write(vault, bytes([number]) * 4096)
        if number % 2:
            kill(vault)
        else:
            vault.close()
    place.open().close()
    assert place.vaults.stored_bytes(place.where) < before + (66 << 20), "of one segment at most"
