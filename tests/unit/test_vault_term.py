"""The vault process holds the keys as long as the server's signature says, and drops them by itself: no agent has to live for
that, and none can lengthen it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.vault import Kept
from twofold.model.errors import RefusedError, UnreachableError
from twofold.model.lease import Lease
from twofold.model.policy import Policy
from twofold.trust.keys import SigningKey
from twofold.trust.signed import Context, sign
from twofold.vault import nbd
from twofold.vault.seam import DeviceSpec, Term
from twofold.vault.store import _Open

SERVER = SigningKey.make()
LEASE = Lease("work", "Acme", "blue", "alex", "a" * 64, 3, "business", 2, 0, 0, Policy(), epoch=1)


def signed(seconds: float, key: SigningKey = SERVER, *, seen: int = 0, **changes: object) -> Term:
    """A lease that was signed now, or with `issued`, and ends in so many seconds."""
    now = int(time.time())
    lease = dataclasses.replace(LEASE, **{"issued": now, "expires": int(now + seconds)} | changes)  # type: ignore[arg-type]
    return Term(sign(Context.LEASE, lease.to_wire(), key), SERVER.verify_key.public.hex(), seen)


Opener = Callable[[Term], _Open]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    kept, vaults = Kept(tmp_path), []
    (tmp_path / "work").mkdir()
    (tmp_path / "r").mkdir(mode=0o700)
    kept.make([DeviceSpec("system", 1 << 20)], {})

    def again(term: Term) -> _Open:
        vault = kept.vaults.open(kept.where, kept.keys, tmp_path / "r", None, term)
        assert isinstance(vault, _Open)
        vaults.append(vault)
        return vault

    yield again
    for vault in vaults:
        vault.close()


def ended(vault: _Open, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while vault.alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not vault.alive()


def test_it_ends_with_its_lease_and_what_was_acknowledged_is_there_under_the_next(opened: Opener) -> None:
    vault = opened(signed(2))
    with vault.connect("system") as stream:
        client = nbd.Client(stream, "system")
        client.write(4096, b"kept" * 1024)
        client.settle()
        assert ended(vault, 8)
        with pytest.raises(UnreachableError):
            client.read(0, 4096)
    vault.close()
    with pytest.raises(RefusedError, match="has ended"):
        opened(signed(0))
    vault = opened(signed(60))
    with vault.connect("system") as stream:
        client = nbd.Client(stream, "system")
        assert client.read(4096, 4096) == b"kept" * 1024
        client.disconnect()


def test_a_renewed_lease_goes_on_and_only_the_servers(opened: Opener) -> None:
    vault, began = opened(signed(6)), time.monotonic()
    vault.renew(signed(3600))
    with pytest.raises(RefusedError, match="not signed"):
        vault.renew(signed(7200, SigningKey.make()))
    other = SigningKey.make()
    with pytest.raises(RefusedError, match="goes on here"):
        vault.renew(dataclasses.replace(signed(7200, other), server=other.verify_key.public.hex()))
    with pytest.raises(RefusedError, match="another workspace"):
        vault.renew(signed(7200, workspace="play"))
    with pytest.raises(RefusedError, match="goes on here"):
        vault.renew(signed(7200, token=2))
    vault.renew(signed(5, issued=int(time.time()) - 60))  # an older one says nothing
    assert not ended(vault, began + 7.5 - time.monotonic())
    assert 3500 < vault.status()["lease_left"] <= 3600


def test_a_clock_that_was_turned_back_is_noticed(opened: Opener) -> None:
    """Half an hour is left by this clock; the device has known a time an hour later."""
    later = int(time.time()) + 3600
    with pytest.raises(RefusedError, match="has ended"):
        opened(signed(1800, seen=later))
    vault = opened(signed(3602, seen=later, issued=later - 20))
    assert ended(vault, 8), "it goes on from there, not from what the clock says"
