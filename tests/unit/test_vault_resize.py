"""Devices of a vault that get another size, through NBD, on the real vault process."""

from __future__ import annotations

import time

import pytest

from tests.unit.test_vault_store import Place
from tests.unit.test_vault_store import fresh as place
from twofold.model.errors import ConflictError, NotFoundError, RefusedError, TwofoldError, UsageError
from twofold.vault import nbd
from twofold.vault.seam import OpenVault

__all__ = ["place"]


def unused(vault: OpenVault) -> None:
    deadline = time.monotonic() + 5
    while vault.status()["vault"]["connections"] and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_device_has_its_new_size_at_the_next_connection_and_its_data(place: Place) -> None:
    vault = place.open()
    old, new = 16 << 20, 24 << 20
    with vault.connect("user") as stream:
        client = nbd.Client(stream, "user")
        client.write(old - 4096, b"last" * 1024)
        client.flush()
        vault.resize("user", new)
        with vault.connect("user") as later:
            grown = nbd.Client(later, "user")
            assert (client.size, grown.size) == (old, new)
            assert grown.read(old - 4096, 8192) == b"last" * 1024 + bytes(4096)
            grown.write(new - 4096, b"more" * 1024)
            grown.flush()
        assert client.read(old - 4096, 4096) == b"last" * 1024
        with pytest.raises(TwofoldError):
            client.read(new - 4096, 4096)
    vault.close()
    vault = place.open()
    assert [device["size"] for device in vault.status()["vault"]["devices"]] == [8 << 20, new]
    assert place.read(vault, at=new - 4096) == b"more" * 1024


def test_a_device_is_made_smaller_on_purpose_only_and_while_nobody_uses_it(place: Place) -> None:
    vault = place.open()
    small = 4 << 20
    place.write(vault, b"kept" * 1024)
    place.write(vault, b"gone" * 1024, at=small)
    with pytest.raises(RefusedError):
        vault.resize("user", small)
    with vault.connect("system") as stream:
        nbd.Client(stream, "system")
        with pytest.raises(ConflictError):
            vault.resize("user", small, shrink=True)
    unused(vault)
    for size in (small + 1, 0):
        with pytest.raises(UsageError):
            vault.resize("user", size, shrink=True)
    for size in (4 << 20, 16 << 20):  # `system` is for reading only
        with pytest.raises(RefusedError):
            vault.resize("system", size, shrink=True)
    with pytest.raises(NotFoundError):
        vault.resize("other", small)
    assert place.read(vault, at=small) == b"gone" * 1024
    unused(vault)
    vault.resize("user", small, shrink=True)
    with vault.connect("user") as stream:
        assert nbd.Client(stream, "user").size == small
    vault.resize("user", 16 << 20)
    assert place.read(vault) == b"kept" * 1024 and place.read(vault, at=small) == bytes(4096)


def test_memory_that_fits_keeps_the_disks_as_large_as_they_are(place: Place) -> None:
    vault = place.open()
    place.suspend(vault)
    with pytest.raises(ConflictError):
        vault.resize("user", 24 << 20)
    vault.consume_memory()
    vault.resize("user", 24 << 20)


def test_a_device_begins_anew_while_nobody_uses_it_and_no_memory_fits(place: Place) -> None:
    vault = place.open()
    place.write(vault, b"mine" * 1024)
    place.suspend(vault)
    with pytest.raises(ConflictError, match="suspended"):
        vault.begin_anew("user", 16 << 20, read_only=False)
    vault.consume_memory()
    with vault.connect("system") as stream:
        nbd.Client(stream, "system")
        with pytest.raises(ConflictError, match="in use"):
            vault.begin_anew("user", 16 << 20, read_only=False)
    unused(vault)
    with pytest.raises(UsageError):
        vault.begin_anew("user", 16 << 20 | 1, read_only=False)
    assert place.read(vault) == b"mine" * 1024
    unused(vault)
    vault.begin_anew("user", 20 << 20, read_only=True)
    vault.begin_anew("more", 8 << 20, read_only=False)
    vault.close()
    vault = place.open()
    found = {each["name"]: (each["size"], each["read_only"]) for each in vault.status()["vault"]["devices"]}
    assert found == {"system": (8 << 20, True), "user": (20 << 20, True), "more": (8 << 20, False)}
    assert place.read(vault) == bytes(4096)
