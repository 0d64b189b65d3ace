"""Whom the server asks for a new key when a device is revoked, and which cases need no asking (docs/decisions/0030)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.unit.server_kit import Local
from tests.unit.test_server_generations import broken
from tests.unit.vault_kit import SPEAKS, Device, device, keys
from twofold.model.lease import Lease
from twofold.server.tables import Device as Row
from twofold.server.tables import Lease as Held
from twofold.trust.device import identity
from twofold.trust.signed import Context, verify

EPOCHS = [*SPEAKS, "epochs-1"]


@pytest.fixture
def mine(server: Local, tmp_path: Path) -> Device:
    made = device(server, tmp_path / "a", name="First")
    assert made.check_out().status_code == 200
    return made


def revoke(server: Local, who: Device) -> None:
    assert server.call("DELETE", f"devices/{who.who.device}").status_code == 200


def asked(who: Device, speaks: list[str] = EPOCHS) -> int:
    """The key epoch that the lease of now names."""
    row = {"workspace": "work", "token": who.token}
    answer = who.call("POST", "heartbeat", {"speaks": speaks, "workspaces": [row]}).json()
    (signed,) = answer["leases"]
    lease = Lease.from_wire(verify(Context.LEASE, signed, [who.server.home.signing.verify_key]))
    return lease.epoch


def test_the_holder_is_asked_for_a_new_key_when_another_device_is_revoked(
    server: Local, mine: Device, tmp_path: Path
) -> None:
    other, third = (device(server, tmp_path / name) for name in "bc")
    mine.back_up()
    assert asked(mine) == 1
    revoke(server, other)
    assert asked(mine) == asked(mine) == 2
    assert asked(mine, SPEAKS) == 1, "who does not know of it is not asked"
    revoke(server, other)
    revoke(server, third)
    assert asked(mine) == 4, "each time anew: it may have begun what it was asked for, and given that key away too"
    assert [row["action"] for row in server.call("GET", "audit").json()["audit"]][-1] == "revoke device"


def test_what_was_under_way_is_taken_until_the_new_key_is_there_and_not_after(
    server: Local, mine: Device, tmp_path: Path
) -> None:
    mine.back_up()
    revoke(server, device(server, tmp_path / "b"))
    wanted = asked(mine)
    mine.back_up()  # under the key of before: nothing is lost, and nothing refused, while the holder has not heard
    mine.epoch = wanted
    newest = mine.back_up()
    mine.write()
    mine.upload()
    late = mine.manifest(epoch=wanted - 1)
    refused = mine.commit(late)
    assert refused.status_code == 400 and f"this lease is at {wanted}" in refused.json()["error"]["happened"]
    assert server.call("GET", "workspaces/1").json()["head"] == newest
    assert mine.commit().status_code == 201


def test_others_are_not_asked_and_a_node_concerns_everybody(server: Local, mine: Device, tmp_path: Path) -> None:
    theirs = device(server, tmp_path / "b", user="bob")
    revoke(server, theirs)
    assert asked(mine) == 1
    # It was given the key by hand, as the server can see.
    friend = device(server, tmp_path / "c", user="bob")
    mine.write()
    mine.upload()
    wrap = {"epoch": 1, "for": "device", "id": wrap_id(server, friend), "sealed": "00"}
    assert mine.commit(keys=keys(1, wraps=(wrap,))).status_code == 201
    revoke(server, friend)
    assert asked(mine) == 2
    code = server.call("POST", "invitations", {"user": "bob", "kind": "node"}).json()["code"]
    node = identity(tmp_path / "n")
    assert server.enrol(node, code, "Rack").status_code == 201
    assert server.call("DELETE", f"devices/{node.device}").status_code == 200
    assert asked(mine) == 3


def wrap_id(server: Local, who: Device) -> str:
    return hashlib.sha256(bytes.fromhex(public(server, who))).hexdigest()


def test_a_new_holder_begins_above_every_key_that_was_ever_here(server: Local, mine: Device, tmp_path: Path) -> None:
    """Whoever held it before, was revoked, or came back as a branch that was restored: what it knows is below."""
    mine.epoch = 3
    first = mine.back_up()
    broken(server)
    other = device(server, tmp_path / "b")
    assert other.check_out().status_code == 200
    assert other.epoch == 4
    mine.write()
    mine.upload()
    mine.epoch = 9  # it had gone on by itself
    late = mine.commit().json()
    assert late["kind"] == "branch"
    other.head, other.content = first, first
    other.back_up()
    revoke(server, mine)
    assert asked(other) == 5
    broken(server)
    assert restored(server, late["id"])
    third = device(server, tmp_path / "c")
    assert third.check_out().status_code == 200
    assert third.epoch == 10, "above the branch's"
    broken(server)
    assert restored(server, first)
    assert third.check_out().status_code == 200
    assert third.epoch == 10, "an older point takes nothing back, and nothing was written under 10"


def restored(server: Local, target: str) -> bool:
    head = server.call("GET", "workspaces/1").json()["head"]
    return server.call("POST", "workspaces/1/restore", {"generation": target, "head": head}).status_code == 201


def test_a_revoked_device_gets_no_keys_and_comes_back_as_one_that_was_given_none(
    server: Local, mine: Device, tmp_path: Path
) -> None:
    other = device(server, tmp_path / "b")
    mine.back_up()
    assert other.call("GET", "keys/work").status_code == 200
    revoke(server, other)
    assert other.call("GET", "keys/work").status_code == 401
    assert other.check_out().status_code == 401
    code = server.call("POST", "invitations", {"user": "ada"}).json()["code"]
    assert server.enrol(other.who, code, "Again").status_code == 201
    assert asked(mine) == 2, "that it is trusted again takes nothing back"


def test_another_device_can_not_bring_a_revoked_ones_key(server: Local, mine: Device, tmp_path: Path) -> None:
    """Its wraps would be for whoever has that key."""
    other = device(server, tmp_path / "b")
    revoke(server, other)
    code = server.call("POST", "invitations", {"user": "ada"}).json()["code"]
    fresh = identity(tmp_path / "c")
    answer = server.enrol(fresh, code, "New", wrap=public(server, other))
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert server.enrol(fresh, code, "New").status_code == 201, "the invitation can still be used"


def public(server: Local, who: Device) -> str:
    with server.database.read() as session:
        return str(session.get_one(Row, who.who.device).wrap_public)


def test_many_holders_later_a_device_still_gets_keys_that_it_can_read(server: Local, mine: Device) -> None:
    """Each check-out adds a wrap; a document of them all could not be opened any more."""
    wraps = [{"epoch": epoch, "for": "device", "id": "ab" * 32, "sealed": "cd" * 80} for epoch in range(1, 301)]
    with server.database.write() as session:
        lease = session.get_one(Held, 1)
        lease.keys = json.dumps(keys(*range(1, 301)) | {"wraps": wraps})
    given = mine.call("GET", "keys/work").json()["keys"]
    assert given["wraps"] == [wraps[-1]] and len(given["epochs"]) == 300
    other = {"epoch": 7, "for": "device", "id": "ef" * 32, "sealed": "cd" * 80}
    assert mine.call("POST", "wraps", {"workspace": "work", "wraps": [other]}).status_code == 200
    assert mine.call("GET", "keys/work").json()["keys"]["wraps"] == [wraps[-1], other]
