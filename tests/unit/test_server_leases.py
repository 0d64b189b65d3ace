"""Grants, leases, images, audit: through the whole application, without a network."""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import DatabaseError
from tuf.api.metadata import Targets

from tests.unit.company_kit import MAKER, grant, index, upload
from tests.unit.image_kit import Maker, encoded
from tests.unit.server_kit import Backend, Local
from twofold import _core
from twofold.image.chunks import ImageIndex
from twofold.model.errors import ConflictError, DamagedError, NotFoundError, RefusedError
from twofold.model.lease import Lease
from twofold.model.policy import Policy
from twofold.server import audit, home
from twofold.server.database import Database
from twofold.server.run import init
from twofold.server.tables import Invitation
from twofold.trust import roles as documents
from twofold.trust.device import Identity, identity
from twofold.trust.https import API
from twofold.trust.keys import SigningKey
from twofold.trust.signed import Context, verify


def device(server: Local, folder: Path, user: str = "ada", name: str = "Laptop") -> Identity:
    who = identity(folder)
    code = server.call("POST", "invitations", {"user": user}).json()["code"]
    assert server.enrol(who, code, name).status_code == 201
    return who


def test_a_lease_is_signed_and_moves_once(server: Local, tmp_path: Path) -> None:
    first, second = device(server, tmp_path / "a", name="First"), device(server, tmp_path / "b")
    answer = server.device(first, "POST", "checkout", {"workspace": "work"})
    lease = Lease.from_wire(verify(Context.LEASE, answer.json()["lease"], [server.home.signing.verify_key]))
    assert (lease.device, lease.token, lease.image_version, lease.title) == (first.device, 1, 1, "ACME")
    assert lease.policy == Policy()
    again = server.device(first, "POST", "checkout", {"workspace": "work"}).json()["lease"]
    assert Lease.from_wire(verify(Context.LEASE, again, [server.home.signing.verify_key])).token == 1
    refused = server.device(second, "POST", "checkout", {"workspace": "work"})
    assert refused.status_code == 409
    assert "First" in refused.json()["error"]["happened"]
    assert server.device(second, "POST", "checkin", {"workspace": "work"}).status_code == 403
    assert server.device(second, "POST", "heartbeat", {}).json() == {"leases": []}
    for _ in range(2):
        assert server.device(first, "POST", "checkin", {"workspace": "work"}).status_code == 200
    answer = server.device(second, "POST", "checkout", {"workspace": "work"})
    lease = Lease.from_wire(verify(Context.LEASE, answer.json()["lease"], [server.home.signing.verify_key]))
    assert (lease.device, lease.token) == (second.device, 2)
    assert server.call("GET", "leases").json()["leases"][0]["device_name"] == "Laptop"


def test_of_many_devices_at_once_one_gets_the_lease(server: Local, tmp_path: Path) -> None:
    devices = [device(server, tmp_path / str(number)) for number in range(6)]
    barrier, statuses = threading.Barrier(len(devices)), []

    def go(who: Identity) -> None:
        barrier.wait()
        statuses.append(server.device(who, "POST", "checkout", {"workspace": "work"}).status_code)

    threads = [threading.Thread(target=go, args=(who,)) for who in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [409] * 5
    assert server.call("GET", "leases").json()["leases"][0]["token"] == 1


def test_another_users_workspace_does_not_exist(server: Local, tmp_path: Path) -> None:
    stranger = device(server, tmp_path / "b", "bob")
    assert server.device(stranger, "GET", "grants").json() == {"grants": []}
    for verb in ("checkout", "checkin"):
        theirs = server.device(stranger, "POST", verb, {"workspace": "work"})
        nothing = server.device(stranger, "POST", verb, {"workspace": "none"})
        assert theirs.status_code == 404
        assert theirs.content == nothing.content


def test_chunks_and_index_are_for_the_holder_of_the_lease(server: Local, tmp_path: Path) -> None:
    mine, theirs = device(server, tmp_path / "a"), device(server, tmp_path / "b", "bob")
    made, _ = index(tmp_path, 1)
    chunk = made.chunks["system"][0]
    wants = [
        ("GET", "images/office/1", None),
        ("GET", f"chunks/{chunk.id.hex()}", None),
        ("POST", "chunks", {"ids": [chunk.id.hex()]}),
    ]
    for who in (mine, theirs):
        assert [server.device(who, *want).status_code for want in wants] == [404] * 3
    server.device(mine, "POST", "checkout", {"workspace": "work"})
    assert [server.device(mine, *want).status_code for want in wants] == [200] * 3
    assert [server.device(theirs, *want).status_code for want in wants] == [404] * 3
    assert server.device(mine, "GET", "images/office/2").status_code == 404
    assert server.device(mine, "POST", "chunks", {"ids": [chunk.id.hex(), "0" * 64]}).status_code == 404
    sealed = server.device(mine, "GET", f"chunks/{chunk.id.hex()}").content
    assert _core.chunk_id(sealed) == chunk.id
    server.device(mine, "POST", "checkin", {"workspace": "work"})
    assert [server.device(mine, *want).status_code for want in wants] == [404] * 3


def test_a_grant_that_ended_is_not_renewed(server: Local, tmp_path: Path) -> None:
    mine = device(server, tmp_path / "a")
    server.device(mine, "POST", "checkout", {"workspace": "work"})
    assert len(server.device(mine, "POST", "heartbeat", {}).json()["leases"]) == 1
    assert server.call("DELETE", "grants/1").status_code == 200
    assert server.device(mine, "POST", "heartbeat", {}).json() == {"leases": []}
    assert server.device(mine, "POST", "checkout", {"workspace": "work"}).status_code == 404
    assert server.call("GET", "leases").json()["leases"][0]["custody"] == "checked-out", "still listed"
    assert server.device(mine, "POST", "checkin", {"workspace": "work"}).status_code == 200


def test_a_revoked_device_is_a_stranger(server: Local, tmp_path: Path) -> None:
    mine = device(server, tmp_path / "a")
    assert server.call("DELETE", f"devices/{mine.device}").status_code == 200
    assert server.device(mine, "GET", "grants").status_code == 401


def test_an_invitation_is_good_once_and_for_its_time(server: Local, tmp_path: Path) -> None:
    code = server.call("POST", "invitations", {"user": "ada"}).json()["code"]
    assert server.enrol(identity(tmp_path / "a"), code).status_code == 201
    used = server.enrol(identity(tmp_path / "b"), code)
    wrong = server.enrol(identity(tmp_path / "b"), "A" * 26)
    assert used.status_code == wrong.status_code == 401
    assert used.content == wrong.content
    late = server.call("POST", "invitations", {"user": "ada"}).json()["code"]
    with server.database.write() as session:
        session.execute(update(Invitation).values(expires=1))
    assert server.enrol(identity(tmp_path / "b"), late).status_code == 401


def test_enrolment_proves_the_key_it_brings(server: Local, tmp_path: Path) -> None:
    mine, other = identity(tmp_path / "a"), identity(tmp_path / "b")
    code = server.call("POST", "invitations", {"user": "ada"}).json()["code"]
    mixed = dataclasses.replace(other, signing=SigningKey.make())
    body = {"code": code, "name": "x", "public": mine.verify_key.public.hex(), "wrap_public": "09" * 32}
    from twofold.model.canonical import canonical
    from twofold.trust import request

    sent = canonical(body)
    proof = request.headers(mixed.signing, "", "POST", f"{API}/enrol", sent)
    headers = {"Content-Type": "application/json"}
    assert server.raw("POST", f"{API}/enrol", sent, proof | headers).status_code == 401
    assert server.raw("POST", f"{API}/enrol", sent, headers).status_code == 401
    assert server.enrol(mine, code).status_code == 201, "the code was not used up by the attack"


def test_two_workspaces_of_one_person_never_look_alike(server: Local) -> None:
    assert grant(server, workspace="two", title="Two", colour="blue").status_code == 201
    for same in ({"workspace": "two"}, {"title": "Two"}, {"colour": "blue"}):
        answer = grant(server, **({"workspace": "three", "title": "Three", "colour": "teal"} | same))
        assert answer.status_code == 409, same
    assert grant(server, user="bob").status_code == 201


@pytest.mark.parametrize(
    "change",
    [
        {"policy": {"clipboard": True}},
        {"policy": {"clipboard_to_work": 1}},
        {"policy": {"network": "any"}},
        {"colour": "red"},
        {"workspace": "../work"},
        {"title": "A\u202eB"},
        {"ends": -1},
        {"ends": "never"},
        {"extra": 1},
    ],
)
def test_a_grant_that_is_off_is_refused_whole(server: Local, change: dict[str, Any]) -> None:
    before = server.call("GET", "grants").content
    answer = grant(server, **({"workspace": "new", "title": "New", "colour": "blue"} | change))
    assert answer.status_code == 400
    assert server.call("GET", "grants").content == before


def test_versions_only_grow_and_only_the_publisher_makes_them(server: Local, tmp_path: Path) -> None:
    second, frames = index(tmp_path, 2, b"second")
    known = server.call("GET", "roles").json()["targets"]
    earlier = documents.releases(documents.read(Targets, base64.b64decode(known)).signed.targets.values())
    body = MAKER.version(second, 2, [dataclasses.replace(earlier[0], channels={})])
    commit = functools.partial(server.call, "POST", "images/office/versions")
    assert commit(body).status_code == 409, "its chunks are not there"
    assert upload(server, frames) == 200
    forger = Maker(SigningKey.make(), SigningKey.make())
    assert commit(forger.version(second, 2)).status_code == 409
    assert commit(body | {"targets": known}).status_code == 409, "the list before"
    assert commit(body | {"index": encoded(b"other")}).status_code == 400, "the list names another index"
    assert server.call("POST", "images/other/versions", body).status_code == 400
    assert server.call("GET", "images").json()["images"][0]["version"] == 1, "nothing of all that was kept"
    assert commit(body).status_code == 201
    assert commit(body).status_code == 409
    for version in (1, 2, 4):
        skipped = ImageIndex(dataclasses.replace(second.manifest, version=version), second.chunks)
        assert commit(MAKER.version(skipped, 3)).status_code == 409
    assert server.call("GET", "images").json()["images"][0]["version"] == 2


def test_a_chunk_that_is_not_its_id_is_refused_with_all_its_company(server: Local, tmp_path: Path) -> None:
    _, frames = index(tmp_path, 2, b"second")
    for bad in (frames[:-1], frames + b"x", b"\0" * 32 + frames[32:], frames[:-1] + bytes([frames[-1] ^ 1])):
        assert upload(server, bad) == 400
    ids = [frames[:32].hex()]
    assert server.call("POST", "chunks/missing", {"ids": ids}).json() == {"missing": ids}


def test_the_audit_log_is_append_only_and_chained(server: Local, backend: Backend) -> None:
    with server.database.read() as session:
        count = audit.verify(session)
    entries = server.call("GET", "audit").json()["audit"]
    assert count == len(entries) >= 6
    assert [entry["action"] for entry in entries[:3]] == ["create user", "login", "create user"]
    for statement in ("UPDATE audit SET actor = 'x' WHERE entry = 2", "DELETE FROM audit WHERE entry = 2"):
        with pytest.raises(DatabaseError, match="append-only"), server.database.write() as session:
            session.execute(text(statement))
    with server.database.write() as session:  # a thief of the file is not held by triggers; the chain is what tells
        on = " ON audit" if backend.cluster else ""
        session.execute(text(f"DROP TRIGGER audit_no_update{on}"))
        session.execute(text("UPDATE audit SET actor = 'x' WHERE entry = 2"))
    with server.database.read() as session, pytest.raises(DamagedError, match="entry 2"):
        audit.verify(session)


def test_init_makes_a_private_server_once(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    made = init(folder, "root", "a long enough password")
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    with pytest.raises(ConflictError):
        init(folder, "root", "a long enough password")
    assert home.load(folder).pin == made.pin
    folder.chmod(0o755)
    with pytest.raises(RefusedError, match="private"):
        home.load(folder)
    with pytest.raises(NotFoundError):
        home.load(tmp_path)


def test_migrations_make_the_tables_of_the_code(backend: Backend, tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from twofold.server.tables import Base

    database = Database(backend.url() or tmp_path / "server.db")
    database.upgrade()
    database.upgrade()
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    database.close()


def test_a_foreign_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    path.write_bytes(b"not a database at all, not at all" * 100)
    before = path.read_bytes()
    database = Database(path)
    with pytest.raises(DamagedError, match="left as it is"):
        database.upgrade()
    database.close()
    assert path.read_bytes() == before


def test_documents_of_strangers_are_answered(server: Local) -> None:
    bodies: tuple[Any, ...] = (
        None,
        [],
        7,
        {"payload": 1},
        {"payload": "!", "signatures": [{}]},
        {"payload": "", "signatures": []},
    )
    for body in bodies:
        answer = server.call("POST", "images/office/versions", body)
        assert answer.status_code in (400, 403), body
        assert json.loads(answer.content)["error"]["code"]
