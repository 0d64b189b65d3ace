"""The tables of version 0.1, with a company's data in them, become today's, in either database."""

from __future__ import annotations

import json
from pathlib import Path

from sqlalchemy import insert, select, text

from tests.unit.server_kit import Backend
from twofold.model.policy import Policy
from twofold.server import audit, leases, policies
from twofold.server.database import Database
from twofold.server.tables import Audit, Grant, Holder, Lease, Version

FIRST = {
    "offline_seconds": 604800, "heartbeat_seconds": 300, "clipboard_to_work": True, "clipboard_from_work": False,
    "sound_out": True, "sound_in": False, "files_to_work": False, "files_from_work": False, "usb": False,
    "screenshots": False, "network": "none",
}  # fmt: skip
KEY = "f" * 64
DATA: list[tuple[str, dict[str, object]]] = [
    ("users", {"id": 1, "name": "ada", "admin": False, "password": "x", "created": 1}),
    ("publishers", {"key": "p" * 64, "public": "q" * 64, "created": 1}),
    ("images", {"id": 1, "name": "office"}),
    ("versions", {"id": 1, "image_id": 1, "version": 1, "document": "{}", "manifest": "{}", "publisher": "p" * 64,
                  "bytes": 5_000_000_000, "published": 1}),
    ("version_chunks", {"version_id": 1, "chunk": b"c" * 32}),
    ("devices", {"id": KEY, "user_id": 1, "name": "Laptop", "public": "a" * 64, "wrap_public": "b" * 64, "enrolled": 1,
                 "seen": 2, "revoked": 0}),
    ("grants", {"id": 1, "user_id": 1, "image_id": 1, "workspace": "work", "title": "ACME", "colour": "green",
                "policy": json.dumps(FIRST), "ends": 0, "created": 1}),
    ("grants", {"id": 2, "user_id": 1, "image_id": 1, "workspace": "two", "title": "Two", "colour": "blue",
                "policy": json.dumps(FIRST | {"clipboard_to_work": False}), "ends": 5_000_000_000, "created": 1}),
    ("leases", {"grant_id": 1, "custody": "checked-out", "token": 3, "device_id": KEY, "version_id": 1, "issued": 77}),
    ("leases", {"grant_id": 2, "custody": "checked-in", "token": 0, "device_id": None, "version_id": None, "issued": 0}),
]  # fmt: skip


def test_a_company_of_version_0_1_goes_on(backend: Backend, tmp_path: Path) -> None:
    from sqlalchemy import MetaData

    database = Database(backend.url() or tmp_path / "server.db")
    database.upgrade("0001")
    tables = MetaData()
    tables.reflect(database.engine)
    with database.write() as session:
        for name, row in DATA:
            session.execute(insert(tables.tables[name]), [row])
        audit.record(session, "init", "create user", "ada")
    database.upgrade()
    with database.write() as session:
        held, free = session.scalars(select(Lease).order_by(Lease.grant_id)).all()
        assert (held.token, held.device_id, held.head, held.epoch, held.since) == (3, KEY, None, 0, 77)
        assert (free.token, free.device_id) == (0, None)
        (holder,) = session.scalars(select(Holder)).all()
        assert (holder.grant_id, holder.token, holder.device_id, holder.how) == (1, 3, KEY, "")
        first, second = session.scalars(select(Grant).order_by(Grant.id)).all()
        assert (json.loads(first.policy), first.pool) == ({"clipboard_to_work": True}, "office")
        assert json.loads(second.policy) == {}
        assert policies.of(session, first)[0] == Policy(clipboard_to_work=True)
        assert audit.verify(session) == 1
        assert len(session.scalars(select(Audit)).all()) == 1
        assert (first.own, first.given_id, first.channel, first.rank) == (True, None, "stable", 0)
        if database.path is not None:
            assert session.execute(text("PRAGMA foreign_key_check")).all() == []
        row = leases.row(session, held)
        assert (row["status"], row["device_name"], row["pool"]) == ("checked-out", "Laptop", "office")
    database.close()


def test_a_version_that_was_for_one_architecture_still_is(backend: Backend, tmp_path: Path) -> None:
    from sqlalchemy import MetaData

    database = Database(backend.url() or tmp_path / "server.db")
    database.upgrade("online")
    tables = MetaData()
    tables.reflect(database.engine)
    rows: list[tuple[str, dict[str, object]]] = [(name, row) for name, row in DATA if name in ("publishers", "images")]
    for number, arch in ((1, "amd64"), (2, "arm64"), (3, "amd64")):
        manifest = json.dumps({"arch": arch, "cmdline": 'quiet "arch":"arm64"'}, separators=(",", ":"))
        version = {
            "id": number,
            "image_id": 1,
            "version": number,
            "publisher": "p" * 64,
            "bytes": number,
            "published": 1,
        }
        rows.append(("versions", version | {"manifest": manifest, "sha256": f"{number}" * 64}))
        if number < 3:  # the last has no index: it is from before there were any, and nobody can fetch it
            rows.append(("indexes", {"version_id": number, "body": b"sealed %d" % number}))
    with database.write() as session:
        for name, row in rows:
            session.execute(insert(tables.tables[name]), [row])
    database.upgrade()
    with database.read() as session:
        first, second, third = session.scalars(select(Version).order_by(Version.id)).all()
        found = [(each.arch, each.sha256, each.bytes, bytes(each.body)) for each in (*first.variants, *second.variants)]
        assert found == [("amd64", "1" * 64, 1, b"sealed 1"), ("arm64", "2" * 64, 2, b"sealed 2")]
        assert second.variant("") is second.variants[0], "devices that ask for no architecture get what they got"
        assert (first.variant("arm64"), third.variants) == (None, [])
    database.close()
