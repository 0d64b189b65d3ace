"""Groups: what they give, what comes first, and what is left when somebody is no longer in one."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from tests.unit.company_kit import MAKER, grant, index, upload
from tests.unit.server_kit import Backend, Local
from tests.unit.vault_kit import WORK, Device, device
from twofold.model.release import Release
from twofold.server import audit
from twofold.server.backup import backup, restore
from twofold.server.tables import Grant
from twofold.trust.https import API


def group(server: Local, name: str, *members: str) -> None:
    assert server.call("POST", "groups", {"name": name}).status_code == 201
    for member in members:
        assert server.call("PUT", f"groups/{name}/members/{member}", {}).status_code == 200


def give(server: Local, name: str, **changes: object) -> Any:
    """A grant to a group, by default of a workspace `shared`."""
    looks = {"workspace": "shared", "title": "Shared", "colour": "purple"}
    body = {"group": name, "image": "office", "policy": {}} | looks
    return server.call("POST", "grants", body | changes)


def number(server: Local, user: str, workspace: str = "shared") -> int:
    """The number of a user's workspace."""
    rows = server.call("GET", "workspaces").json()["workspaces"]
    (found,) = [row["number"] for row in rows if (row["user"], row["workspace"]) == (user, workspace)]
    return int(found)


def rule(server: Local, workspace: int, name: str) -> tuple[Any, str, str]:
    rows = server.call("GET", f"workspaces/{workspace}/policy").json()["policy"]
    (row,) = [row for row in rows if row["rule"] == name]
    return row["value"], row["scope"], row["name"]


def offered(one: Device) -> list[str]:
    return [row["workspace"] for row in one.call("GET", "grants").json()["grants"]]


def lab(server: Local, folder: Path) -> None:
    """A second image."""
    made, frames = index(folder, 1, b"other")
    made = dataclasses.replace(made, manifest=dataclasses.replace(made.manifest, image="lab"))
    held = server.raw(
        "GET", f"{API}/images/office/versions/1/index", headers={"Authorization": f"Bearer {server.token}"}
    )
    first = Release("office", 1, len(held.content), hashlib.sha256(held.content).hexdigest(), {"stable": 100})
    assert upload(server, frames) == 200
    assert server.call("POST", "images/lab/versions", MAKER.version(made, 2, [first])).status_code == 201


def test_each_member_has_a_workspace_of_their_own(server: Local, tmp_path: Path) -> None:
    group(server, "pilot", "ada", "bob")
    answer = give(server, "pilot").json()
    assert (answer["members"], answer["reached"]) == (2, 2)
    ada, bob = device(server, tmp_path / "a"), device(server, tmp_path / "b", "bob")
    assert (offered(ada), offered(bob)) == (["work", "shared"], ["shared"])
    for one in (ada, bob):
        assert one.check_out("shared").status_code == 200
    assert number(server, "ada") != number(server, "bob")
    assert {row["user"]: row["number"] for row in told(server, answer["grant"])} == {
        user: number(server, user) for user in ("ada", "bob")
    }


def told(server: Local, grant_number: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = server.call("GET", f"grants/{grant_number}").json()["members"]
    return rows


def test_a_member_reaches_nothing_of_anothers(server: Local, tmp_path: Path) -> None:
    server.call("DELETE", "grants/1")
    group(server, "pilot", "ada", "bob")
    give(server, "pilot", workspace="work", title="Work")
    ada, bob = device(server, tmp_path / "a"), device(server, tmp_path / "b", "bob")
    assert (ada.check_out().status_code, bob.check_out().status_code) == (200, 200)
    theirs = ada.back_up()
    assert bob.call("GET", "generations/work").json()["generations"] == []
    ada.write(4000)
    signed = ada.manifest()
    bob.token += 1  # by its token alone nobody is another
    assert bob.call("POST", "objects/missing", {"workspace": "work", "token": 7, "objects": []}).status_code == 404
    bob.token -= 1
    stolen = {"workspace": "work", "token": bob.token, "head": theirs, "generation": signed}
    assert bob.call("POST", "generations", stolen).status_code in (400, 403, 404, 409)
    digest = next(iter(ada.files))
    assert bob.call("GET", f"objects/{WORK}/{digest}").status_code == 404
    assert bob.call("GET", "keys/work").json() == {"keys": None}
    own = bob.back_up()
    for user, kept in (("ada", theirs), ("bob", own)):
        points = server.call("GET", f"workspaces/{number(server, user, 'work')}/generations").json()["generations"]
        assert [row["id"] for row in points] == [kept]


def test_who_leaves_renews_nothing_and_has_it_again_on_return(server: Local, tmp_path: Path) -> None:
    group(server, "pilot", "bob")
    shared = give(server, "pilot", workspace="work", title="Work").json()["grant"]
    bob = device(server, tmp_path / "b", "bob")
    bob.check_out()
    kept = bob.back_up()
    assert len(bob.heartbeat()["leases"]) == 1
    mine = number(server, "bob", "work")
    assert server.call("DELETE", "groups/pilot/members/bob").status_code == 200
    assert bob.heartbeat()["leases"] == []
    assert offered(bob) == []
    assert bob.check_out().status_code == 404
    assert bob.call("GET", "images/office/1").status_code == 404
    again = device(server, tmp_path / "b2", "bob")
    assert again.check_out().status_code == 404
    bob.write()
    bob.upload()
    assert bob.commit().status_code == 201, "what it did until then is not lost"
    assert server.call("DELETE", "groups/pilot/members/bob").status_code == 404
    assert server.call("PUT", "groups/pilot/members/bob", {}).status_code == 200
    assert number(server, "bob", "work") == mine
    assert told(server, shared) == [{"user": "bob", "number": mine, "why": ""}]
    assert len(bob.heartbeat()["leases"]) == 1
    points = server.call("GET", f"workspaces/{mine}/generations").json()["generations"]
    assert kept in [row["id"] for row in points]
    with server.database.read() as session:
        audit.verify(session)


def test_ones_own_grant_comes_first_and_the_groups_goes_on_from_it(server: Local, tmp_path: Path) -> None:
    group(server, "pilot", "ada", "bob")
    shared = give(server, "pilot", workspace="work", title="Work", policy={"usb": True}).json()
    assert (shared["members"], shared["reached"]) == (2, 1)
    (hers, his) = told(server, shared["grant"])
    assert (hers["number"], hers["why"]) == (0, "grant 1 of their own comes first")
    assert his["number"] == number(server, "bob", "work")
    assert rule(server, 1, "usb") == (False, "", "")
    ada = device(server, tmp_path / "a")
    lease = ada.take(ada.check_out().json()["lease"])
    assert lease.title == "ACME"
    ada.back_up()
    assert server.call("DELETE", "grants/1").status_code == 200
    lease = ada.take(ada.heartbeat()["leases"][0])
    assert (lease.title, lease.policy.usb, lease.token) == ("Work", True, 1)
    assert rule(server, 1, "usb") == (True, "group", "pilot")
    assert server.call("DELETE", "grants/1").status_code == 409, "it is the group's now"
    assert server.call("PUT", "grants/1", {"channel": "x"}).status_code == 409
    assert grant(server).status_code == 201
    assert ada.take(ada.heartbeat()["leases"][0]).title == "ACME"
    assert server.call("DELETE", f"grants/{shared['grant']}").status_code == 200
    assert len(ada.heartbeat()["leases"]) == 1
    assert [row["grant"] for row in server.call("GET", "grants").json()["grants"]] == [1]


def test_of_groups_the_highest_rank_then_the_oldest_decides(server: Local, tmp_path: Path) -> None:
    for name in ("all", "some", "few"):
        group(server, name, "bob")
    first = give(server, "all", policy={"sound_in": True, "usb": True}).json()["grant"]
    second = give(server, "some", title="Later", policy={"files_to_work": True}).json()
    assert second["reached"] == 0
    bob = device(server, tmp_path / "b", "bob")
    assert bob.take(bob.check_out("shared").json()["lease"]).title == "Shared"
    mine = number(server, "bob")
    third = give(server, "few", title="First", rank=5, policy={"sound_in": False}).json()["grant"]
    lease = bob.take(bob.heartbeat()["leases"][0])
    assert (lease.title, lease.policy.sound_in, lease.policy.usb) == ("First", False, False)
    assert rule(server, mine, "sound_in") == (False, "group", "few"), "a group that does not decide does not speak"
    assert told(server, first)[0]["why"] == f"grant {third} to few comes first"
    assert server.call("PUT", f"grants/{second['grant']}", {"rank": 6}).json()["rank"] == 6
    assert bob.take(bob.heartbeat()["leases"][0]).policy.files_to_work is True
    assert server.call("DELETE", "groups/some").status_code == 200
    assert bob.take(bob.heartbeat()["leases"][0]).title == "First"
    assert server.call("DELETE", f"grants/{third}").status_code == 200
    assert bob.take(bob.heartbeat()["leases"][0]).title == "Shared"
    assert server.call("DELETE", "groups/all/members/bob").status_code == 200
    assert bob.heartbeat()["leases"] == []
    assert bob.token == 1, "it was one workspace all the time"


def test_scopes_from_wide_to_narrow(server: Local) -> None:
    group(server, "pilot", "bob")
    shared = give(server, "pilot", pool="desk", policy={"keep_days": 3}).json()["grant"]
    mine = number(server, "bob")
    said = [
        ("global", {"keep_days": 1}, ("group", "pilot")),
        ("pool/desk", {"keep_days": 2}, ("group", "pilot")),
        (f"group/{shared}", {"keep_days": 4}, ("group", "pilot")),
        ("user/bob", {"keep_days": 5}, ("user", "bob")),
        (f"workspace/{mine}", {"keep_days": 6}, ("workspace", str(mine))),
    ]
    for what, rules, decides in said:
        answer = server.call("PUT", f"policies/{what}", {"rules": rules})
        assert answer.status_code == 200, answer.text
        assert rule(server, mine, "keep_days")[1:] == decides
    assert server.call("PUT", f"policies/group/{mine}", {"rules": {}}).status_code == 404
    assert server.call("PUT", f"policies/workspace/{shared}", {"rules": {}}).status_code == 404
    wrong = server.call("PUT", f"policies/group/{shared}", {"rules": {"offline_seconds": 60}})
    assert wrong.status_code == 400, "heartbeat_seconds is longer"
    assert server.call("GET", f"grants/{shared}").json()["policy"] == {"keep_days": 4}


def test_what_a_person_cannot_have_is_refused_whole(server: Local, tmp_path: Path) -> None:
    group(server, "pilot", "ada", "bob")
    before = server.call("GET", "workspaces").content
    alike = give(server, "pilot", colour="green")
    assert alike.status_code == 409
    assert "ada has 'ACME'" in alike.json()["error"]["happened"]
    server.call("PUT", "policies/user/bob", {"rules": {"erase_seconds": 700000}})
    off = give(server, "pilot", policy={"offline_seconds": 800000})
    assert off.status_code == 400
    assert "For bob" in off.json()["error"]["happened"]
    assert server.call("GET", "workspaces").content == before
    assert len(server.call("GET", "grants").json()["grants"]) == 1
    server.call("DELETE", "groups/pilot/members/ada")
    assert give(server, "pilot", colour="green").status_code == 201
    joins = server.call("PUT", "groups/pilot/members/ada", {})
    assert joins.status_code == 409
    assert [row["user"] for row in server.call("GET", "groups/pilot").json()["people"]] == ["bob"]
    both = {"user": "bob", "group": "pilot", "image": "office", "workspace": "x", "title": "X", "colour": "teal"}
    for body in (both, both | {"user": "", "group": ""}, both | {"group": "", "rank": 1}):
        assert server.call("POST", "grants", body | {"policy": {}}).status_code == 400
    assert give(server, "nobody").status_code == 404
    assert give(server, "pilot", title="Again", colour="teal").status_code == 409, "a group gives a name once"


def test_the_past_of_one_image_is_not_given_on_another(server: Local, tmp_path: Path) -> None:
    lab(server, tmp_path)
    group(server, "pilot", "bob")
    group(server, "all", "bob")
    give(server, "all")
    group(server, "other", "bob")
    assert give(server, "other", image="lab", rank=1).json()["reached"] == 1, "nobody has used it"
    bob = device(server, tmp_path / "b", "bob")
    assert bob.take(bob.check_out("shared").json()["lease"]).image == "lab"
    assert give(server, "pilot", rank=2).status_code == 409
    lower = give(server, "pilot").json()
    assert lower["reached"] == 0
    assert server.call("PUT", f"grants/{lower['grant']}", {"rank": 9}).status_code == 409
    assert server.call("PUT", f"grants/{lower['grant']}", {"rank": 1}).status_code == 200
    assert server.call("DELETE", "groups/other").status_code == 200, "who goes is never kept by what comes after"
    assert bob.call("POST", "heartbeat", {"speaks": ["generations-1"]}).json()["leases"] == []
    assert told(server, lower["grant"])[0]["why"] == "another workspace of theirs is in the way"


def test_a_deleted_group_gives_nothing(server: Local, tmp_path: Path) -> None:
    group(server, "pilot", "ada", "bob")
    give(server, "pilot")
    bob = device(server, tmp_path / "b", "bob")
    bob.check_out("shared")
    row = server.call("GET", "groups/pilot").json()
    assert (row["members"], row["grants"], row["workspaces"], row["out"]) == (2, 1, 2, 1)
    assert server.call("DELETE", "groups/pilot").status_code == 200
    assert server.call("DELETE", "groups/pilot").status_code == 404
    assert bob.call("POST", "heartbeat", {"speaks": ["generations-1"]}).json()["leases"] == []
    left = server.call("GET", "workspaces").json()["workspaces"]
    assert [(row["user"], row["workspace"]) for row in left] == [("ada", "work"), ("bob", "shared")], (
        "one was never used"
    )
    group(server, "pilot", "bob")
    assert offered(bob) == [], "the name alone gives nothing"


def test_a_grant_that_is_given_again_goes_on_with_its_past(server: Local, tmp_path: Path) -> None:
    ada = device(server, tmp_path / "a")
    ada.check_out()
    kept = ada.back_up()
    assert server.call("DELETE", "grants/1").status_code == 200
    assert (ada.heartbeat()["leases"], offered(ada)) == ([], [])
    assert grant(server, colour="teal").json() == {"grant": 1}
    lease = ada.take(ada.heartbeat()["leases"][0])
    assert (lease.colour, lease.head, lease.token) == ("teal", kept, 1)
    assert grant(server, colour="blue").status_code == 409, "it is there"


def test_groups_come_back_from_a_backup(server: Local, backend: Backend, tmp_path: Path) -> None:
    group(server, "pilot", "ada", "bob")
    give(server, "pilot", workspace="work", title="Work")
    ada = device(server, tmp_path / "a")
    ada.check_out()
    assert server.call("DELETE", "grants/1").status_code == 200
    with server.database.read() as session:
        assert session.get_one(Grant, 1).given_id == 2, "a row may point to a later one"
    nouns = ("groups", "groups/pilot", "grants", "grants/2")
    before = [server.call("GET", noun).json() for noun in nouns]
    backup(server.home, tmp_path / "backup")
    restored = Local(restore(tmp_path / "backup", tmp_path / "new", backend.url()).folder)
    assert [restored.call("GET", noun).json() for noun in nouns] == before
    moved = Device(restored, ada.who, token=ada.token)
    assert len(moved.heartbeat()["leases"]) == 1
    assert restored.call("POST", "groups", {"name": "next"}).status_code == 201
    assert restored.call("DELETE", "groups/pilot").status_code == 200
    assert moved.heartbeat()["leases"] == []
    restored.database.close()


def test_a_member_administers_nothing(server: Local) -> None:
    group(server, "pilot", "bob")
    give(server, "pilot")
    token = server.login("bob", "bob bob bob bob")
    before = server.call("GET", "groups/pilot").content
    for what in ("groups/pilot", "groups/pilot/members/bob", "groups/pilot/members/ada", "grants/2"):
        for method in ("GET", "PUT", "DELETE"):
            body: dict[str, Any] | None = {} if method == "PUT" else None
            answer, nowhere = (server.call(method, path, body, token) for path in (what, "no/such/thing"))
            assert (answer.status_code, answer.content) == (403, nowhere.content)
    assert server.call("POST", "groups", {"name": "mine"}, token).status_code == 403
    assert server.call("GET", "groups/pilot").content == before
