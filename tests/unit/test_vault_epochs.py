"""A new key epoch in a vault that is open, on the real vault process."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from tests.unit.test_vault_store import Place
from tests.unit.test_vault_store import fresh as place
from twofold.model.errors import RefusedError, TwofoldError
from twofold.vault.seam import Keys

__all__ = ["place"]


def opens(place: Place, keys: Keys) -> bool:
    """Whether these keys open a copy of the files that are there, whatever its anchor says."""
    copy = place.folder / "copy" / "work" / "vault"
    shutil.rmtree(copy.parent, ignore_errors=True)
    shutil.copytree(place.where, copy)
    try:
        with place.vaults.resting(copy, keys, accept=True):
            return True
    except TwofoldError:
        return False


def test_what_is_written_after_it_no_older_key_opens(place: Place) -> None:
    vault, old = place.open(), place.keys
    place.write(vault, b"before" * 700)
    new = place.vaults.next_epoch(old)
    vault.begin_epoch(new)
    vault.begin_epoch(new)
    assert vault.status()["vault"]["epoch"] == 2 == new.epoch
    place.write(vault, b"after it" * 512, at=1 << 20)
    assert place.read(vault, 4200) == b"before" * 700
    assert vault.commit("t").number and place.read(vault, at=1 << 20) == b"after it" * 512
    os.kill(vault.pid, signal.SIGKILL)  # nothing was closed
    place.opened.clear()
    place.vaults.release(place.where)
    assert not opens(place, old), "who was given the key of before, with all files in hand"
    (place.folder / "key").write_bytes(new.wrapped)
    vault = place.open()
    assert place.read(vault, 4200) == b"before" * 700
    assert place.read(vault, at=1 << 20) == b"after it" * 512


def test_without_it_the_older_key_opens_what_was_written(place: Place) -> None:
    """So that the test above is not passed by whatever fails."""
    vault, old = place.open(), place.keys
    place.write(vault, b"before" * 700)
    vault.close()
    place.opened.clear()
    assert opens(place, old)


def test_other_keys_than_its_own_newer_ones_are_refused(place: Place) -> None:
    vault, own = place.open(), place.keys
    newer = place.vaults.next_epoch(own)
    foreign = place.vaults.next_epoch(place.vaults.new_keys("work"))
    other = place.vaults.next_epoch(own)  # another making of the same epoch
    for keys in (foreign, place.vaults.new_keys("other")):
        with pytest.raises(RefusedError):
            vault.begin_epoch(keys)
    vault.begin_epoch(newer)
    for keys in (own, other):
        with pytest.raises(RefusedError):
            vault.begin_epoch(keys)
    assert vault.status()["vault"]["epoch"] == 2
    place.write(vault, b"on" * 2048)
    assert place.read(vault) == b"on" * 2048


def test_boot_parts_of_before_and_after_open(place: Place) -> None:
    vault = place.open()
    identity = place.suspend(vault)
    vault.begin_epoch(place.vaults.next_epoch(place.keys))
    assert vault.memory_identity() == identity, "stored memory still fits"
