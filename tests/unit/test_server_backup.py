"""A server comes back on a fresh machine, in either database, with devices at work; what is damaged is found and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.harness.postgres import Postgres
from tests.unit.company_kit import company
from tests.unit.server_kit import Backend, Local
from tests.unit.vault_kit import Device, device
from twofold.model.errors import ConflictError, DamagedError, NotFoundError, TwofoldError
from twofold.server import audit
from twofold.server.backup import backup, restore
from twofold.server.checking import check_backup, check_server
from twofold.trust.https import API


@pytest.fixture
def at_work(backend: Backend, tmp_path: Path) -> tuple[Local, Device]:
    """A company with one device that works."""
    local = company(backend, tmp_path / "first")
    mine = device(local, tmp_path / "a", name="First")
    mine.check_out()
    mine.back_up()
    return local, mine


def the_other(backend: Backend, cluster: Postgres) -> str:
    """A new database of the kind that the first server did not have."""
    return "" if backend.cluster else cluster.make()


def test_a_server_comes_back_and_devices_go_on(
    at_work: tuple[Local, Device], backend: Backend, cluster: Postgres, tmp_path: Path
) -> None:
    local, mine = at_work
    made = backup(local.home, tmp_path / "backup")
    assert (made.objects, made.copied) == (2, 2)
    assert backup(local.home, tmp_path / "backup").copied == 0
    after, pin = mine.back_up(), local.home.pin
    local.database.close()
    shutil.rmtree(local.home.folder)
    home = restore(tmp_path / "backup", tmp_path / "second", the_other(backend, cluster))
    second = Local(home.folder, local.token)
    assert home.pin == pin, "devices trust the authority that they pinned"
    assert check_server(home).lost == ()
    with second.database.read() as session:
        audit.verify(session)
    assert second.call("GET", "audit").json()["audit"][-1]["action"] == "restore"
    mine.server = second
    answer = mine.heartbeat()
    assert (len(answer["leases"]), answer["lost"]) == (1, [])
    assert answer["head"]["work"] != after, "what came after the backup is not on the server"
    assert mine.commit().status_code == 409
    mine.head = mine.content = answer["head"]["work"]
    assert mine.upload() == 1, "the device has it still, and sends it again"
    assert mine.commit().status_code == 201
    for noun in ("users", "grants", "devices"):
        assert second.call("POST", noun, {}).status_code in (400, 403, 404)
    assert second.call("POST", "users", {"name": "eve", "password": "eve eve eve eve"}).status_code == 201, "rows go on"
    other = device(second, tmp_path / "b")
    loss = second.call("GET", "workspaces/1/loss").json()["loss"]
    second.call("POST", "workspaces/1/break", {"loss": loss})
    assert other.check_out().status_code == 200
    assert other.token == 1 << 32
    second.database.close()


def test_a_lease_that_the_backup_does_not_know_is_taken_up(at_work: tuple[Local, Device], tmp_path: Path) -> None:
    local, mine = at_work
    backup(local.home, tmp_path / "backup")
    mine.call("POST", "discard", {"workspace": "work", "token": mine.token})
    other = device(local, tmp_path / "b")
    signed = other.check_out().json()["lease"]
    late = device(local, tmp_path / "c", "bob")
    local.database.close()
    second = Local(restore(tmp_path / "backup", tmp_path / "second").folder, local.token)
    assert second.raw("GET", f"{API}/authority").status_code == 200
    late.server = other.server = mine.server = second
    assert late.call("GET", "grants").status_code == 401, "a device that enrolled later is a stranger and enrols again"
    code = second.call("POST", "invitations", {"user": "ada"}).json()["code"]
    assert second.enrol(other.who, code).status_code == 201
    assert other.heartbeat(lease=signed)["lost"] == []
    other.back_up()
    assert mine.heartbeat()["lost"][0]["why"] == "superseded"
    second.database.close()


def test_damage_is_found_and_named(at_work: tuple[Local, Device], tmp_path: Path) -> None:
    local, _ = at_work
    store = local.home.folder / "objects"
    kept = next(store.glob("workspaces/1/1/*"))
    chunk = next(path for path in store.glob("??/*") if path.is_file())
    assert check_server(local.home).lost == ()
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\0")
    (lost,) = check_server(local.home).lost
    assert lost.startswith(str(chunk.relative_to(store)))
    assert "not what was written: a chunk of office 1" in lost
    kept.unlink()
    assert any(
        "is not there: a file of 'ACME' of ada; generations that need it: 1 " in line
        for line in check_server(local.home).lost
    )
    with pytest.raises(DamagedError, match="not there"):
        backup(local.home, tmp_path / "backup")
    with pytest.raises(NotFoundError):
        restore(tmp_path / "backup", tmp_path / "second")
    local.database.close()


def test_a_backup_that_was_touched_is_refused(at_work: tuple[Local, Device], tmp_path: Path) -> None:
    local, _ = at_work
    made = tmp_path / "backup"
    backup(local.home, made)
    assert check_backup(made).lost == ()
    assert made.stat().st_mode & 0o777 == 0o700
    for path in (made / "database.jsonl", made / "keys" / "authority.key", made / "backup.json"):
        held = path.read_bytes()
        path.write_bytes(held[:-3] + bytes([held[-3] ^ 1]) + held[-2:])
        with pytest.raises(TwofoldError):
            restore(made, tmp_path / "second")
        assert not (tmp_path / "second").exists()
        path.write_bytes(held)
    kept = next(made.glob("objects/workspaces/1/1/*"))
    kept.write_bytes(b"x")
    (lost,) = check_backup(made).lost
    assert lost.startswith("workspaces/1/1/")
    local.database.close()


def test_a_backup_and_a_restore_overwrite_nothing(at_work: tuple[Local, Device], tmp_path: Path) -> None:
    local, _ = at_work
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(ConflictError):
        backup(local.home, tmp_path / "mine")
    backup(local.home, tmp_path / "backup")
    with pytest.raises(ConflictError):
        restore(tmp_path / "backup", local.home.folder)
    held = json.loads((local.home.folder / "server.json").read_bytes())
    url = held.get("database") or f"sqlite:///{local.home.folder / 'server.db'}"
    with pytest.raises(ConflictError, match="not empty"):
        restore(tmp_path / "backup", tmp_path / "second", url)
    assert not (tmp_path / "second" / "server.json").exists()
    local.database.close()
