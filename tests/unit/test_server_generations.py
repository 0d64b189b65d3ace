"""Generations: one line of history, branches of those who came late, files that resume, points that go when they may."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from sqlalchemy import select, update

from tests.unit.server_kit import Local
from tests.unit.vault_kit import WORK, Device, device, keys
from twofold.model.errors import DamagedError
from twofold.server import home, objects, quotas
from twofold.server.collector import UNFINISHED, Collected, collect
from twofold.server.context import Server
from twofold.server.tables import Generation, Grant, Sealed, Variant
from twofold.trust.keys import SigningKey
from twofold.trust.signed import Context, sign, verify


def parts(server: Local) -> Server:
    """The server's parts, as its routes are given them."""
    found = server.app._app.state.twofold  # type: ignore[attr-defined]
    assert isinstance(found, Server)
    return found


def collected(server: Local, now: float | None = None) -> Collected:
    return collect(server.home, server.database, parts(server).objects, now)


def broken(server: Local) -> None:
    """The administrator is told, agrees, and takes the lease away."""
    told = server.call("GET", "workspaces/1/loss").json()
    assert server.call("POST", "workspaces/1/break", {"loss": told["loss"], "why": "lost"}).status_code == 200


@pytest.fixture
def mine(server: Local, tmp_path: Path) -> Device:
    made = device(server, tmp_path / "a", name="First")
    assert made.check_out().status_code == 200
    return made


def test_a_line_grows_by_one_compare_and_set(server: Local, mine: Device) -> None:
    first = mine.back_up()
    second = mine.back_up()
    rows = server.call("GET", "workspaces/1/generations").json()["generations"]
    assert {(row["id"], row["kind"], row["parent"]) for row in rows} == {(first, "line", ""), (second, "line", first)}
    assert mine.call("GET", "generations/work").json()["generations"] == rows
    assert server.call("GET", "workspaces/1").json()["head"] == second
    one = server.call("GET", f"workspaces/1/generations/{second}").json()
    assert sorted(row["digest"] for row in one["files"]) == sorted(mine.files)
    assert all(row["here"] for row in one["files"])


def test_committing_twice_is_committing_once(server: Local, mine: Device) -> None:
    mine.write()
    mine.upload()
    document, head = mine.manifest(), mine.head
    answers = [mine.commit(document, head=head) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 200, 200]
    assert len({answer.content for answer in answers}) == 1
    assert len(server.call("GET", "workspaces/1/generations").json()["generations"]) == 1


def test_of_many_commits_on_one_head_one_wins(server: Local, mine: Device) -> None:
    mine.back_up()
    head = mine.head
    documents = [mine.manifest(note=str(number)) for number in range(6)]
    barrier, statuses = threading.Barrier(6), []

    def go(document: dict[str, Any]) -> None:
        barrier.wait()
        body = {"workspace": "work", "token": mine.token, "head": head, "generation": document}
        statuses.append(mine.call("POST", "generations", body).status_code)

    threads = [threading.Thread(target=go, args=(document,)) for document in documents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201] + [409] * 5
    rows = server.call("GET", "workspaces/1/generations").json()["generations"]
    assert [row["parent"] for row in rows].count(head) == 1


def test_nothing_is_committed_that_is_not_here(server: Local, mine: Device) -> None:
    mine.write()
    assert mine.commit().status_code == 409
    assert server.call("GET", "workspaces/1/generations").json() == {"generations": []}
    assert server.call("GET", "workspaces/1").json()["head"] == ""


def test_order_is_kept(server: Local, mine: Device) -> None:
    first = mine.back_up()
    mine.write()
    mine.upload()
    for wrong in ({"generation": 1}, {"parent": "f" * 64}, {"workspace": "other"}):
        answer = mine.commit(mine.manifest(**wrong))
        assert answer.status_code == 400, wrong
    stale = mine.commit(head="")
    assert stale.status_code == 409
    assert first in stale.json()["error"]["happened"], "the error names what is there"
    other = SigningKey.make()
    forged = sign(Context.GENERATION, json.loads(base(mine.manifest())), other)
    assert mine.commit(forged).status_code == 403
    assert mine.commit(sign(Context.LEASE, json.loads(base(mine.manifest())), mine.who.signing)).status_code == 403
    assert len(server.call("GET", "workspaces/1/generations").json()["generations"]) == 1
    assert mine.commit().status_code == 201


def base(document: dict[str, Any]) -> bytes:
    import base64

    return base64.b64decode(document["payload"])


def test_a_late_holder_ends_up_as_a_branch(server: Local, mine: Device, tmp_path: Path) -> None:
    first = mine.back_up()
    mine.write()
    mine.upload()
    late = mine.manifest()
    broken(server)
    other = device(server, tmp_path / "b", name="Second")
    assert other.check_out().status_code == 200
    assert (other.token, other.head, other.epoch) == (mine.token + 1, first, 2)
    other.vault, other.number = "e" * 32, 0
    other.write()
    other.upload()
    answer = other.commit(other.manifest(epoch=1))
    assert answer.status_code == 400, "an older key epoch than its lease's"
    second = other.back_up()
    came = mine.commit(late)
    assert (came.status_code, came.json()["kind"]) == (201, "branch")
    assert mine.commit(late).json() == came.json()
    line = server.call("GET", "workspaces/1").json()
    assert (line["head"], line["branches"]) == (second, 1)
    assert mine.heartbeat()["lost"] == [{"workspace": "work", "token": mine.token, "why": "broken"}]
    assert mine.heartbeat()["leases"] == []
    for what in ("generations/work", f"objects/{WORK}/{next(iter(mine.files))}"):
        assert mine.call("GET", what).status_code == 404, "it holds nothing any more"


def test_a_break_is_agreed_to_first(server: Local, mine: Device) -> None:
    told = server.call("GET", "workspaces/1/loss").json()
    assert (told["device"], told["device_name"], told["backed_up"]) == (mine.who.device, "First", 0)
    assert server.call("POST", "workspaces/1/break", {"loss": "0" * 64}).status_code == 409
    mine.back_up()
    assert server.call("POST", "workspaces/1/break", {"loss": told["loss"]}).status_code == 409, (
        "it is another loss now"
    )
    broken(server)
    assert server.call("POST", "workspaces/1/break", {"loss": told["loss"]}).status_code == 409
    assert server.call("GET", "audit").json()["audit"][-1]["action"] == "break lease"


def test_a_stranger_to_a_workspace_commits_nothing(server: Local, mine: Device, tmp_path: Path) -> None:
    mine.back_up()
    same, other = device(server, tmp_path / "b"), device(server, tmp_path / "c", "bob")
    for who in (same, other):
        who.token, who.head, who.content = mine.token, mine.head, mine.content
        who.write()
        assert who.missing().status_code == 404
        body = next(iter(who.files.items()))
        assert who.put(body[0], body[1], len(body[1])).status_code == 404
        assert who.commit().status_code == 404
    assert server.call("GET", "workspaces/1").json()["branches"] == 0


def test_checking_in_needs_the_newest_generation(server: Local, mine: Device, tmp_path: Path) -> None:
    head = mine.back_up()
    wrong = {"workspace": "work", "token": mine.token, "generation": ""}
    assert mine.call("POST", "checkin", wrong).status_code == 409
    assert server.call("GET", "workspaces/1").json()["device"] == mine.who.device
    for _ in range(2):
        assert mine.call("POST", "checkin", wrong | {"generation": head}).status_code == 200
    other = device(server, tmp_path / "b")
    answer = other.check_out().json()
    assert verify(Context.GENERATION, answer["content"], [mine.who.verify_key])["generation"] == 1
    assert answer["head"] is None
    for digest, body in mine.files.items():
        assert other.call("GET", f"objects/{WORK}/{digest}").content == body


def test_discard_gives_back_what_the_policy_lets_it(server: Local, mine: Device) -> None:
    mine.back_up()
    body = {"workspace": "work", "token": mine.token}
    assert server.call("PUT", "policies/user/ada", {"rules": {"discard": False}}).status_code == 200
    assert mine.call("POST", "discard", body).status_code == 403
    assert server.call("PUT", "policies/user/ada", {"rules": {}}).status_code == 200
    for _ in range(2):
        assert mine.call("POST", "discard", body).status_code == 200
    assert server.call("GET", "workspaces/1").json()["status"] == "checked-in"
    assert mine.commit().json()["kind"] == "branch", "what it sends after all is kept beside"


def test_an_earlier_point_and_a_branch_can_be_restored(server: Local, mine: Device, tmp_path: Path) -> None:
    first = mine.back_up()
    second = mine.back_up()
    restore = {"generation": first, "head": second}
    assert server.call("POST", "workspaces/1/restore", restore).status_code == 409, "somebody holds it"
    broken(server)
    assert server.call("POST", "workspaces/1/restore", restore | {"head": first}).status_code == 409
    assert server.call("POST", "workspaces/1/restore", restore | {"generation": "0" * 64}).status_code == 404
    made = server.call("POST", "workspaces/1/restore", restore).json()["id"]
    other = device(server, tmp_path / "b")
    answer = other.check_out().json()
    assert (other.head, other.content) == (made, first)
    said = verify(Context.GENERATION, answer["head"], [server.home.signing.verify_key])
    assert (said["of"], said["parent"], said["by"]) == (first, second, "admin")
    other.vault, other.number, other.files = mine.vault, 1, {}
    third = other.back_up()
    rows = {row["id"]: row for row in server.call("GET", "workspaces/1/generations").json()["generations"]}
    assert (rows[third]["parent"], rows[made]["parent"]) == (made, second)
    mine.write()
    mine.upload()
    branch = mine.commit().json()
    assert branch["kind"] == "branch"
    broken(server)
    body = {"generation": branch["id"], "head": third}
    assert server.call("POST", "workspaces/1/restore", body).status_code == 201
    assert server.call("GET", "workspaces/1").json()["branches"] == 1, "it stays one, too"


def test_keys_travel_with_the_line_and_stay_with_a_branch(server: Local, mine: Device, tmp_path: Path) -> None:
    wrap = {"epoch": 1, "for": "device", "id": "a" * 64, "sealed": "00"}
    mine.write()
    mine.upload()
    assert mine.commit(keys=keys(1, wraps=(wrap,), workspace="other")).status_code == 400
    assert mine.commit(keys=keys(1, wraps=(wrap,))).status_code == 201
    other = device(server, tmp_path / "b")
    assert other.call("GET", "keys/work").json()["keys"] == keys(1, wraps=(wrap,))
    added = {"epoch": 1, "for": "device", "id": "b" * 64, "sealed": "01"}
    assert other.call("POST", "wraps", {"workspace": "work", "wraps": [added]}).status_code == 200
    assert other.call("POST", "wraps", {"workspace": "work", "wraps": [added | {"for": "company"}]}).status_code == 403
    stranger = device(server, tmp_path / "c", "bob")
    assert stranger.call("GET", "keys/work").status_code == 404
    assert stranger.call("POST", "wraps", {"workspace": "work", "wraps": [added]}).status_code == 404
    assert mine.commit(keys=keys(1, wraps=(wrap,))).status_code == 201
    assert mine.call("GET", "keys/work").json()["keys"]["wraps"] == [wrap, added], "a wrap of another's is not lost"
    listed = other.call("GET", "devices").json()["devices"]
    assert {row["device"] for row in listed} == {mine.who.device, other.who.device}
    broken(server)
    assert other.check_out().json()["keys"]["wraps"] == [wrap, added]
    other.vault, other.number = "e" * 32, 0
    other.write()
    other.upload()
    assert other.commit(keys=keys(1, 2)).status_code == 201
    assert other.call("GET", "keys/work").json()["keys"]["wraps"] == [wrap, added]
    mine.write()
    mine.upload()
    assert mine.commit(keys=keys(1, 7)).json()["kind"] == "branch"
    assert other.call("GET", "keys/work").json()["keys"]["epochs"] == keys(1, 2)["epochs"]


def test_a_cut_upload_goes_on_where_it_stopped(server: Local, mine: Device) -> None:
    mine.write(100_000)
    ((digest, body),) = mine.files.items()
    assert mine.put(digest, body[:70_000], len(body)).json() == {"have": 70_000}
    assert mine.missing().json() == {"missing": [{"digest": digest, "have": 70_000}]}
    assert mine.put(digest, body, len(body)).status_code == 409, "it begins where the server is"
    assert mine.put(digest, body[70_000:], len(body), 70_000).json() == {"have": len(body)}
    assert mine.missing().json() == {"missing": []}
    assert list(server.home.uploads.iterdir()) == []
    assert mine.call("GET", f"objects/{WORK}/{digest}").content == body


def test_bytes_that_are_not_the_digest_are_thrown_away(server: Local, mine: Device) -> None:
    mine.write(5000)
    ((digest, body),) = mine.files.items()
    other = bytes([body[0] ^ 1]) + body[1:]
    assert mine.put(digest, other, len(body)).status_code == 400
    assert mine.put(digest, body + b"x", len(body)).status_code == 400
    assert mine.missing().json() == {"missing": [{"digest": digest, "have": 0}]}
    assert mine.put(digest, body, len(body)).json() == {"have": len(body)}


def test_a_large_file_streams_through_little_memory(server: Local, mine: Device) -> None:
    import resource

    body = bytes(64 << 20)
    digest = blake3(body).hexdigest()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert mine.put(digest, body, len(body)).json() == {"have": len(body)}
    # The client of this test, in the same process, holds the body once more.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [("bytes=0-9", 206, 0, 10), ("bytes=2990-", 206, 2990, 3000), ("bytes=-7", 206, 2993, 3000), ("bytes=5-99999", 206, 5, 3000),
     ("bytes=3000-", 416, 0, 0), ("bytes=9-3", 416, 0, 0), ("bytes=0-1,4-5", 200, 0, 3000), ("lines=1", 200, 0, 3000)],
)  # fmt: skip
def test_ranges(mine: Device, asked: str, status: int, start: int, end: int) -> None:
    mine.back_up()
    ((digest, body),) = mine.files.items()
    from twofold.trust import request
    from twofold.trust.https import API

    path = f"{API}/device/objects/{WORK}/{digest}"
    proof = request.headers(mine.who.signing, mine.server.home.signing.id, "GET", path, b"")
    answer = mine.server.raw("GET", path, headers=proof | {"Range": asked})
    assert (answer.status_code, answer.content) == (status, body[start:end])


def test_points_go_by_number_and_age_and_a_branch_never(server: Local, mine: Device) -> None:
    rules = {"keep_points": 2, "keep_days": 1}
    assert server.call("PUT", "policies/global", {"rules": rules}).status_code == 200
    shared = mine.back_up()
    for _ in range(4):
        mine.back_up()
        mine.files.clear()
        mine.names.clear()  # the cleaner has packed it all: nothing is shared with the next
    broken(server)
    mine.write()
    mine.upload()
    late = mine.commit().json()["id"]
    assert collected(server).points == 0, "all are young"
    later = time.time() + 3 * 86400
    assert collected(server, later).points == 3
    kept = {row["id"] for row in server.call("GET", "workspaces/1/generations").json()["generations"] if row["kept"]}
    assert late in kept
    assert shared not in kept
    with server.database.write() as session:
        session.execute(update(Sealed).values(created=1))
    assert len(list(objects.names(parts(server).objects, "workspaces"))) == 6
    found = collected(server)
    assert (found.points, found.files, found.strays) == (0, 3, 0)
    assert collected(server).files == 0
    for generation in kept:
        files = server.call("GET", f"workspaces/1/generations/{generation}").json()["files"]
        assert files
        assert all(row["here"] for row in files)
    assert len(list(objects.names(parts(server).objects, "workspaces"))) == 3
    assert server.call("POST", "workspaces/1/restore", {"generation": shared, "head": mine.head}).status_code == 404


def test_what_waits_for_its_generation_is_left_alone(server: Local, mine: Device) -> None:
    mine.write()
    mine.upload()
    assert collected(server, time.time() + UNFINISHED - 60).files == 0
    assert mine.commit().status_code == 201
    with server.database.write() as session:
        session.execute(update(Generation).values(committed=1))
    assert collected(server, time.time() + 10 * UNFINISHED).files == 0, "the newest is always kept"


def test_strays_of_a_kill_are_found(server: Local, mine: Device, tmp_path: Path) -> None:
    stray = tmp_path / "stray"
    stray.write_bytes(b"x" * 100)
    parts(server).objects.put(f"workspaces/1/1/{'a' * 64}.0123456789abcdef", stray)
    kept = mine.back_up()
    assert collected(server).strays == 0, "it may belong to an upload of this moment"
    assert collected(server, time.time() + 2 * 86400).strays == 1
    assert [row["here"] for row in server.call("GET", f"workspaces/1/generations/{kept}").json()["files"]] == [True]


def test_who_could_open_the_line_where_a_branch_parted_opens_the_branch(
    server: Local, mine: Device, tmp_path: Path
) -> None:
    """The late one wraps for itself alone; whoever was given the same key before must not be shut out of what is restored."""
    own, given = ({"epoch": 1, "for": "device", "id": name * 64, "sealed": "00"} for name in "ab")
    mine.write()
    mine.upload()
    assert mine.commit(keys=keys(1, wraps=(own, given))).status_code == 201
    broken(server)
    other = device(server, tmp_path / "b")
    assert other.check_out().status_code == 200
    other.vault, other.number, other.files = mine.vault, 1, {}
    new = {"epoch": 2, "for": "device", "id": "b" * 64, "sealed": "02"}
    other.write()
    other.upload()
    assert other.commit(keys=keys(1, 2, wraps=(new,))).status_code == 201
    mine.write()
    mine.upload()
    branch = mine.commit(keys=keys(1, wraps=(own,))).json()
    assert branch["kind"] == "branch"
    broken(server)
    body = {"generation": branch["id"], "head": other.head}
    assert server.call("POST", "workspaces/1/restore", body).status_code == 201
    found = other.check_out().json()["keys"]
    assert found["epochs"] == keys(1)["epochs"]
    assert sorted(wrap["id"][0] for wrap in found["wraps"]) == ["a", "b"]
    assert all(wrap["epoch"] == 1 for wrap in found["wraps"]), "the line's own key stays with the line"


def test_a_new_holder_may_begin_from_an_older_copy_and_one_holder_may_not_go_back(
    server: Local, mine: Device, tmp_path: Path
) -> None:
    for _ in range(3):
        mine.back_up()
    mine.number = 0
    mine.write()
    mine.upload()
    assert mine.commit().status_code == 400, "one holder only goes on"
    broken(server)
    other = device(server, tmp_path / "b")
    assert other.check_out().status_code == 200
    other.vault, other.number, other.files = mine.vault, 1, {}
    assert other.epoch > 1
    brought = other.back_up()
    rows = {row["id"]: row for row in server.call("GET", "workspaces/1/generations").json()["generations"]}
    assert (rows[brought]["kind"], rows[brought]["number"]) == ("line", 2)
    assert rows[brought]["parent"] == mine.head, "what was newest stays behind it"


def test_one_workspace_keeps_so_much_and_no_more(
    server: Local, mine: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = mine.back_up(4000)
    with parts(server).database.read() as session:
        grant = session.get_one(Grant, 1)
        disks = sum(part["size"] for part in json.loads(session.scalars(select(Variant.manifest)).one())["parts"])
        assert quotas.limit(session, parts(server), grant) == max(quotas.LEAST, 4 * disks)
        monkeypatch.setattr(quotas, "limit", lambda *_: 10_000)
        assert quotas.used(session, parts(server), grant) == 4000
    mine.write(7000)
    refused = mine.missing()
    assert (refused.status_code, refused.json()["error"]["code"]) == (507, "no-room")
    assert "stays on this device" in refused.json()["error"]["safe"]
    # Who does not ask first is refused all the same, and what is on its way counts.
    digest, body = next((digest, body) for digest, body in mine.files.items() if len(body) == 7000)
    assert mine.put(digest, body, 7000).status_code == 507
    monkeypatch.setattr(quotas, "limit", lambda *_: 11_000)
    assert mine.put(digest, body[:6000], size=7000).status_code == 200
    with parts(server).database.read() as session:
        assert quotas.used(session, parts(server), session.get_one(Grant, 1)) == 10_000
    monkeypatch.setattr(quotas, "limit", lambda *_: 0)
    assert mine.missing().json()["missing"] == [{"digest": digest, "have": 6000}], "0: anything"
    assert mine.put(digest, body[6000:], size=7000, offset=6000).status_code == 200
    assert server.call("GET", "workspaces/1").json()["head"] == first


def test_a_quota_is_a_setting(tmp_path: Path) -> None:
    made = home.make(tmp_path / "server", "Acme")
    assert made.quota_percent == 400
    path = made.folder / "server.json"
    settings = json.loads(path.read_bytes())
    path.write_bytes(json.dumps(settings | {"quota_percent": 0}).encode())
    assert home.load(made.folder).quota_percent == 0
    for off in (-1, "400", True, 1.5):
        path.write_bytes(json.dumps(settings | {"quota_percent": off}).encode())
        with pytest.raises(DamagedError):
            home.load(made.folder)
