"""What a check-out goes on from is believed by the signature of a device of the user, and as the server's signed choice."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from twofold.agent.arrival import Beginning, beginning
from twofold.agent.past import BRANCH, FILE, Kept
from twofold.agent.remote import SignedLease
from twofold.model.canonical import canonical
from twofold.model.errors import RefusedError, TwofoldError
from twofold.model.generation import Manifest, SealedFile
from twofold.model.lease import Lease
from twofold.model.policy import Policy
from twofold.trust.keys import SigningKey
from twofold.trust.signed import Context, sign

SERVER, DEVICE, STRANGER = SigningKey.make(), SigningKey.make(), SigningKey.make()
MANIFEST = Manifest(
    workspace="work", signer=DEVICE.verify_key.public.hex(), vault="ab" * 16, made=1, generation=3, parent="", time=7, note="",
    epoch=1, root="0" * 16, pieces=1, image="office", image_version=2,
    files=(SealedFile("s-0000000000000000", 10, "cd" * 32),),
)  # fmt: skip
LEASE = Lease(
    "work",
    "Acme",
    "blue",
    "ada",
    "a" * 64,
    2,
    "office",
    2,
    1,
    2,
    Policy(),
    epoch=2,
    head=MANIFEST.id,
    content=MANIFEST.id,
)
KEYS = {"schema": "twofold-keys-1", "workspace": "work", "epochs": [{"epoch": 1, "older": ""}], "wraps": []}


class Server:
    """A server that says what it is told to: an honest one never would."""

    enrolment = SimpleNamespace(server_key=SERVER.verify_key)

    def speaks(self) -> bool:
        return True

    def call(self, method: str, what: str) -> dict[str, Any]:
        assert (method, what) == ("GET", "device/devices")
        return {"devices": [{"public": DEVICE.verify_key.public.hex(), "name": "laptop"}]}


def found(lease: Lease = LEASE, **begin: Any) -> Beginning | None:
    said = {"content": sign(Context.GENERATION, MANIFEST.to_wire(), DEVICE), "head": None, "keys": KEYS} | begin
    return beginning(Server(), SignedLease({}, lease, said))  # type: ignore[arg-type]


def restored(by: SigningKey = SERVER, **changes: Any) -> tuple[dict[str, Any], str]:
    said = {
        "schema": "twofold-restore-1", "workspace": "work", "user": "ada", "parent": "", "of": MANIFEST.id, "time": 9,
        "by": "admin",
    } | changes  # fmt: skip
    return sign(Context.GENERATION, said, by), hashlib.sha256(canonical(said)).hexdigest()


def test_the_content_is_what_the_users_device_signed_and_the_lease_names() -> None:
    begin = found()
    assert begin is not None
    assert (begin.content, begin.head, begin.least) == (MANIFEST, MANIFEST.id, 2)
    assert found(dataclasses.replace(LEASE, head="", content="")) is None, "a workspace that begins anew"


def test_a_restore_is_the_servers_choice_of_what_a_device_signed() -> None:
    document, head = restored()
    begin = found(dataclasses.replace(LEASE, head=head), head=document)
    assert begin is not None
    assert (begin.head, begin.content) == (head, MANIFEST)
    for by, changes in ((DEVICE, {}), (STRANGER, {}), (SERVER, {"of": "e" * 64})):
        document, head = restored(by, **changes)
        with pytest.raises(RefusedError):
            found(dataclasses.replace(LEASE, head=head), head=document)
    document, _ = restored(time=10)
    with pytest.raises(RefusedError):
        found(dataclasses.replace(LEASE, head=head), head=document)


@pytest.mark.parametrize(
    "lie",
    [
        {"content": sign(Context.GENERATION, MANIFEST.to_wire(), STRANGER)},
        {"content": sign(Context.GENERATION, MANIFEST.to_wire(), SERVER)},
        {"content": sign(Context.LEASE, MANIFEST.to_wire(), DEVICE)},
        {"content": sign(Context.GENERATION, dataclasses.replace(MANIFEST, generation=2).to_wire(), DEVICE)},
        {"content": sign(Context.GENERATION, dataclasses.replace(MANIFEST, workspace="other").to_wire(), DEVICE)},
        {"content": None},
        {"content": {"payload": "", "signatures": []}},
        {"keys": None},
        {"keys": "x"},
        {"head": {}},
    ],
)
def test_anything_else_is_refused(lie: dict[str, Any]) -> None:
    with pytest.raises(TwofoldError):
        found(**lie)


def test_what_is_on_the_server_is_remembered_and_rubbish_is_nothing(tmp_path: Path) -> None:
    assert Kept.load(tmp_path) is None
    kept = Kept("e" * 64, MANIFEST, BRANCH)
    kept.save(tmp_path)
    assert Kept.load(tmp_path) == kept
    for rubbish in (
        b"",
        b"[]",
        b"{}",
        b"\xff",
        canonical({"schema": "twofold-backup-1", "head": 1, "kind": "line", "content": {}}),
    ):
        (tmp_path / FILE).write_bytes(rubbish)
        assert Kept.load(tmp_path) is None
