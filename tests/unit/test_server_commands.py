"""Leases as they are renewed, what is asked of devices, policies by scope, and requests that are done once."""

from __future__ import annotations

import secrets
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.company_kit import grant
from tests.unit.server_kit import Local
from tests.unit.vault_kit import SPEAKS, Device, device
from twofold.model.lease import Lease
from twofold.model.policy import Policy
from twofold.server.tables import Fact
from twofold.trust.https import API
from twofold.trust.signed import Context, verify


@pytest.fixture
def mine(server: Local, tmp_path: Path) -> Device:
    made = device(server, tmp_path / "a", name="First")
    assert made.check_out().status_code == 200
    return made


def lease(server: Local, document: dict[str, Any]) -> Lease:
    return Lease.from_wire(verify(Context.LEASE, document, [server.home.signing.verify_key]))


def ask(server: Local, verb: str, device: str = "") -> Any:
    return server.call("POST", "workspaces/1/commands", {"verb": verb, "device": device})


def test_a_lease_ends_and_each_heartbeat_renews_it(server: Local, mine: Device) -> None:
    before = int(time.time())
    answer = mine.heartbeat()
    (renewed,) = [lease(server, row) for row in answer["leases"]]
    assert 0 <= renewed.expires - before - Policy().offline_seconds <= 5
    assert (renewed.epoch, renewed.head, renewed.token) == (1, "", 1)
    assert answer["head"] == {"work": ""}
    assert abs(answer["time"] - before) <= 5
    for scope, rules, expires in (
        ("pool/office", {"offline_seconds": 3600}, 3600),
        ("user/ada", {"offline_seconds": 7200}, 7200),
        ("workspace/1", {"offline_seconds": 600}, 600),
        ("workspace/1", {"ends": before + 100}, 100),
    ):
        assert server.call("PUT", f"policies/{scope}", {"rules": rules}).status_code == 200
        (renewed,) = [lease(server, row) for row in mine.heartbeat()["leases"]]
        assert 0 <= renewed.expires - before - expires <= 5, scope


def test_a_lease_never_outlives_its_grant(server: Local, tmp_path: Path) -> None:
    ends = int(time.time()) + 50
    assert grant(server, workspace="brief", title="Brief", colour="blue", ends=ends).status_code == 201
    made = device(server, tmp_path / "a")
    answer = made.call("POST", "checkout", {"workspace": "brief", "speaks": SPEAKS}).json()
    assert lease(server, answer["lease"]).expires == ends


def test_a_device_of_the_first_protocol_gets_what_it_knows(server: Local, tmp_path: Path) -> None:
    made = device(server, tmp_path / "a")
    answer = made.call("POST", "checkout", {"workspace": "work"}).json()
    assert answer.keys() == {"lease"}
    first = lease(server, answer["lease"])
    assert (first.epoch, first.expires, first.policy) == (0, 0, Policy())
    assert made.call("POST", "heartbeat", {}).json().keys() == {"leases"}
    assert server.call("GET", "workspaces/1").json()["status"] == "checked-out"
    assert made.call("POST", "checkin", {"workspace": "work"}).json() == {}


def test_the_columns_of_view(server: Local, mine: Device) -> None:
    def row() -> dict[str, Any]:
        (found,) = server.call("GET", "workspaces").json()["workspaces"]
        assert isinstance(found, dict)
        return found

    assert row()["status"] == "checking-out"
    assert not {"host", "address", "ip"} & row().keys()
    transfer = {"verb": "check-out", "state": "paused", "done": 5, "total": 10}
    mine.heartbeat(transfer=transfer, run="running")
    assert (row()["status"], row()["paused"], row()["transfer"]["done"]) == ("checking-out", True, 5)
    mine.heartbeat(run="running", verified=0)
    assert (row()["status"], row()["paused"], row()["run"]) == ("checked-out", False, "running")
    assert row()["backed_up"] == row()["since"], "none yet: the time of the check-out, as View had it"
    mine.back_up()
    mine.heartbeat(verified=1, transfer=transfer | {"verb": "check-in", "state": "running"})
    found = row()
    assert (found["status"], found["verified"], found["device_name"]) == ("checking-in", 1, "First")
    assert 0 <= Policy().offline_seconds - found["lease_left"] <= 5
    assert found["offline_for"] <= 5


def test_what_is_asked_is_given_until_a_receipt_comes(server: Local, mine: Device) -> None:
    first = ask(server, "lock").json()
    assert ask(server, "lock").json() == first, "one of a kind waits"
    assert ask(server, "reboot").status_code == 400
    for _ in range(2):
        (document,) = mine.heartbeat()["commands"]
        said = verify(Context.COMMAND, document, [server.home.signing.verify_key])
        assert (said["verb"], said["device"], said["token"], said["by"]) == ("lock", mine.who.device, 1, "user admin")
    receipt = {"command": first["command"], "result": "done", "detail": "locked"}
    for detail in ("locked", "again"):
        body = {"speaks": SPEAKS, "receipts": [receipt | {"detail": detail}]}
        assert mine.call("POST", "heartbeat", body).json()["commands"] == []
    (listed,) = server.call("GET", "workspaces/1/commands").json()["commands"]
    assert (listed["state"], listed["receipt"]) == ("done", {"result": "done", "detail": "locked"})
    assert ask(server, "lock").json()["command"] != first["command"], "it can be asked for again"


def test_what_was_not_given_can_be_withdrawn(server: Local, mine: Device) -> None:
    asked = ask(server, "replicate").json()["command"]
    for _ in range(2):
        assert server.call("DELETE", f"workspaces/1/commands/{asked}").status_code == 200
    assert mine.heartbeat()["commands"] == []
    asked = ask(server, "replicate").json()["command"]
    mine.heartbeat()
    assert server.call("DELETE", f"workspaces/1/commands/{asked}").status_code == 409
    assert server.call("DELETE", "workspaces/1/commands/99").status_code == 404


def test_receipts_of_others_change_nothing(server: Local, mine: Device, tmp_path: Path) -> None:
    asked = ask(server, "wipe").json()["command"]
    other = device(server, tmp_path / "b")
    other.call("POST", "heartbeat", {"speaks": SPEAKS, "receipts": [{"command": asked, "result": "done"}]})
    assert server.call("GET", "workspaces/1/commands").json()["commands"][0]["state"] == "waiting"
    assert server.call("GET", "workspaces/1").json()["device"] == mine.who.device


def test_a_wipe_frees_the_lease_when_its_receipt_comes(server: Local, mine: Device, tmp_path: Path) -> None:
    head = mine.back_up()
    asked = ask(server, "wipe").json()["command"]
    assert server.call("GET", "workspaces/1").json()["device"] == mine.who.device
    receipt = {"command": asked, "result": "done", "detail": "key file; TPM: none"}
    mine.call("POST", "heartbeat", {"speaks": SPEAKS, "receipts": [receipt]})
    row = server.call("GET", "workspaces/1").json()
    assert (row["device"], row["head"], row["holders"][0]["how"]) == ("", head, "wiped")
    other = device(server, tmp_path / "b")
    assert other.check_out().status_code == 200
    late = ask(server, "wipe", mine.who.device).json()
    assert late["device"] == mine.who.device, "a device that held it before can be asked as well"
    assert ask(server, "wipe", "f" * 64).status_code == 404
    mine.call("POST", "heartbeat", {"speaks": SPEAKS, "receipts": [receipt | {"command": late["command"]}]})
    assert server.call("GET", "workspaces/1").json()["device"] == other.who.device, "the new holder keeps it"


@pytest.mark.parametrize("how", ["asked", "broken", "policy"])
def test_a_device_that_waits_hears_at_once(server: Local, mine: Device, how: str) -> None:
    since = mine.heartbeat()["time"] + 1
    told: list[Any] = []

    def wait() -> None:
        began = time.monotonic()
        answer = mine.call("POST", "wait", {"seconds": 20, "since": since})
        told.append((answer.json(), time.monotonic() - began))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.6)
    assert not told
    if how == "asked":
        ask(server, "lock")
    elif how == "broken":
        loss = server.call("GET", "workspaces/1/loss").json()["loss"]
        server.call("POST", "workspaces/1/break", {"loss": loss})
    else:
        server.call("PUT", "policies/global", {"rules": {"usb": True}})
    thread.join(20)
    ((answer, took),) = told
    assert answer == {"news": True}
    assert took < 10
    assert mine.call("POST", "wait", {"seconds": 0, "since": int(time.time()) + 5}).json()["news"] is (how == "asked")


@pytest.mark.parametrize("what", ["workspace/1", "user/ada", "pool/office", "global", "grant"])
def test_what_changed_while_a_device_did_not_wait_is_news_when_it_waits_again(
    server: Local, mine: Device, what: str
) -> None:
    """Between two waits nobody hears the bell, and a server of several processes has several bells."""
    since = mine.heartbeat()["time"] + 1
    assert mine.call("POST", "wait", {"seconds": 0, "since": since}).json()["news"] is False
    time.sleep(max(0.0, since - time.time()))
    if what == "grant":
        assert server.call("DELETE", "grants/1").status_code == 200
    else:
        assert server.call("PUT", f"policies/{what}", {"rules": {"usb": True}}).status_code == 200
        listed = server.call("GET", "policies").json()["policies"]
        assert [row["scope"] for row in listed] == [scope for scope in [what.partition("/")[0]] if scope != "workspace"]
    assert mine.call("POST", "wait", {"seconds": 0, "since": since}).json()["news"] is True


def test_the_policy_is_explained(server: Local, mine: Device) -> None:
    for scope, rules in (
        ("global", {"usb": True, "keep_days": 3}),
        ("pool/office", {"usb": False}),
        ("user/ada", {"defer": True}),
        ("user/bob", {"keep_days": 9}),
    ):
        assert server.call("PUT", f"policies/{scope}", {"rules": rules}).status_code == 200
    rows = {row["rule"]: row for row in server.call("GET", "workspaces/1/policy").json()["policy"]}
    assert rows["usb"] == {"rule": "usb", "value": False, "scope": "pool", "name": "office"}
    assert rows["keep_days"] == {"rule": "keep_days", "value": 3, "scope": "global", "name": ""}
    assert rows["defer"]["scope"] == "user"
    assert rows["sound_in"] == {"rule": "sound_in", "value": False, "scope": "", "name": ""}
    (renewed,) = [lease(server, row) for row in mine.heartbeat()["leases"]]
    assert renewed.policy.to_wire() == {name: row["value"] for name, row in rows.items()}, "at the next heartbeat"
    assert [(row["scope"], row["name"]) for row in server.call("GET", "policies").json()["policies"]] == [
        ("global", ""), ("pool", "office"), ("user", "ada"), ("user", "bob")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("scope", "rules"),
    [
        ("global", {"clipbord_to_work": True}),
        ("global", {"usb": 1}),
        ("user/ada", {"notifications": "all"}),
        ("pool/office", {"heartbeat_seconds": 10}),
        ("user/ada", {"offline_seconds": 200}),
        ("workspace/1", {"erase_failures": 2}),
    ],
)
def test_a_policy_that_is_off_is_refused_whole(server: Local, scope: str, rules: dict[str, Any]) -> None:
    grant_rules = {"rules": {"heartbeat_seconds": 400}}
    assert server.call("PUT", "policies/workspace/1", grant_rules).status_code == 200
    before = server.call("GET", "workspaces/1/policy").content, server.call("GET", "policies").content
    assert server.call("PUT", f"policies/{scope}", {"rules": rules | {"sound_in": True}}).status_code == 400
    assert (server.call("GET", "workspaces/1/policy").content, server.call("GET", "policies").content) == before


def test_rules_that_the_server_itself_keeps(server: Local, tmp_path: Path) -> None:
    assert server.call("PUT", "policies/user/ada", {"rules": {"devices": 1, "checkout": False}}).status_code == 200
    only = device(server, tmp_path / "a")
    assert only.check_out().status_code == 403
    with pytest.raises(AssertionError, match="has 1 devices"):
        device(server, tmp_path / "b")
    assert server.call("PUT", "policies/workspace/1", {"rules": {"checkout": True, "ends": 5}}).status_code == 200
    assert only.check_out().status_code == 403, "it has ended"


def test_what_a_person_may_not_an_administrator_can_ask_for(server: Local, mine: Device) -> None:
    head = mine.back_up()
    assert (
        server.call("PUT", "policies/pool/office", {"rules": {"checkin": False, "discard": False}}).status_code == 200
    )
    body = {"workspace": "work", "token": mine.token}
    assert mine.call("POST", "checkin", body | {"generation": head}).status_code == 403
    assert mine.call("POST", "discard", body).status_code == 403
    assert ask(server, "replicate-discard").status_code == 201
    assert mine.call("POST", "discard", body).status_code == 200
    assert server.call("GET", "workspaces/1").json()["status"] == "checked-in"


def test_the_same_key_gives_the_same_answer(server: Local) -> None:
    key = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json", "Idempotency-Key": "k" * 22}

    def post(body: bytes, **headers: str) -> Any:
        return server.raw("POST", f"{API}/invitations", body, key | headers)

    body = b'{"user":"ada"}'
    first, again = post(body), post(body)
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert post(b'{"user":"bob"}').status_code == 409, "another request"
    assert post(body, **{"Idempotency-Key": secrets.token_urlsafe(16)}).json()["code"] != first.json()["code"]
    assert post(body, **{"Idempotency-Key": "short"}).status_code == 400
    server.call("POST", "users", {"name": "eve", "password": "eve eve eve eve", "admin": True})
    other = {"Authorization": f"Bearer {server.login('eve', 'eve eve eve eve')}"}
    assert post(body, **other).json()["code"] != first.json()["code"], "an account's keys are its own"
    with server.database.engine.connect() as connection:
        from sqlalchemy import select

        from twofold.server.tables import Done

        assert first.json()["code"].encode() not in repr(connection.execute(select(Done.__table__)).all()).encode()


def test_what_was_checked_out_after_the_backup_goes_on(server: Local, tmp_path: Path) -> None:
    """The row is as it was before the device took the lease; the lease itself proves that it did."""
    made = device(server, tmp_path / "a")
    signed = made.check_out().json()["lease"]
    made.call("POST", "discard", {"workspace": "work", "token": 1})
    signed = made.check_out().json()["lease"]
    assert made.token == 2
    with server.database.write() as session:
        from sqlalchemy import delete

        from twofold.server.tables import Holder
        from twofold.server.tables import Lease as Row

        session.execute(delete(Holder).where(Holder.token == 2))
        row = session.get_one(Row, 1)
        row.token, row.device_id, row.version_id, row.custody = 1, None, None, "checked-in"
        session.add(Fact(name="token_floor", value=1 << 32))
    assert made.heartbeat()["lost"] == [{"workspace": "work", "token": 2, "why": "unknown"}]
    assert made.heartbeat(lease=signed)["lost"] == []
    assert server.call("GET", "workspaces/1").json()["device"] == made.who.device
    made.back_up()
    other = device(server, tmp_path / "b")
    loss = server.call("GET", "workspaces/1/loss").json()["loss"]
    assert server.call("POST", "workspaces/1/break", {"loss": loss}).status_code == 200
    assert other.check_out().status_code == 200
    assert other.token == 1 << 32, "far above what may have been given out"


def test_the_receipt_of_a_wipe_frees_no_lease_that_was_taken_since(server: Local, mine: Device) -> None:
    """The device died between the wipe and its receipt, gave the lease back when it came again, and took it anew."""
    asked = ask(server, "wipe").json()["command"]
    assert mine.call("POST", "discard", {"workspace": "work", "token": 1}).status_code == 200
    assert lease(server, mine.check_out().json()["lease"]).token == 2
    mine.call("POST", "heartbeat", {"speaks": SPEAKS, "receipts": [{"command": asked, "result": "done"}]})
    row = server.call("GET", "workspaces/1").json()
    hows = {each["token"]: each["how"] for each in row["holders"]}
    assert (row["device"], hows) == (mine.who.device, {1: "discarded", 2: ""})
    assert server.call("GET", "workspaces/1/commands").json()["commands"][0]["state"] == "done"


def test_what_is_being_wiped_is_not_taken_again_before_its_receipt(server: Local, mine: Device) -> None:
    """Else the receipt, which is on its way, would free the lease of what was just brought here."""
    asked = ask(server, "wipe").json()["command"]
    answer = mine.check_out()
    assert answer.status_code == 409
    assert "to be erased from this device" in answer.text
    mine.call("POST", "heartbeat", {"speaks": SPEAKS, "receipts": [{"command": asked, "result": "done"}]})
    assert lease(server, mine.check_out().json()["lease"]).token == 2


def test_a_wipe_is_of_the_lease_that_it_was_asked_for(server: Local, mine: Device) -> None:
    first = ask(server, "wipe").json()["command"]
    assert ask(server, "wipe").json()["command"] == first, "asked twice is asked once"
    assert mine.call("POST", "discard", {"workspace": "work", "token": 1}).status_code == 200
    assert mine.check_out().status_code == 200
    again = ask(server, "wipe").json()
    assert again["command"] != first, "what is there now is another"
    (waiting,) = [
        verify(Context.COMMAND, row, [server.home.signing.verify_key]) for row in mine.heartbeat()["commands"]
    ]
    assert (waiting["command"], waiting["token"]) == (again["command"], 2)
