"""View's local mode, row by row: the operations and policies that its administrators had, and what Twofold does.

Each docstring begins with `As View`, or with `Instead` where a complaint of its users is mended; docs/view.md lists them all.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fault.test_moving import AT, Vault
from tests.fault.test_orders import later
from tests.matrix.deeds import SIZE, proven, saved, written
from tests.matrix.stage import Stage, until
from twofold.agent.client import Client
from twofold.agent.store import KEY
from twofold.image.catalogue import Catalogue
from twofold.image.export import export
from twofold.model.errors import ConflictError, NotFoundError, RefusedError, TwofoldError, UsageError
from twofold.model.policy import DEFER_SECONDS, Policy, Scope

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(240)]
WORK = "work"


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("view")) as made:
        yield made


@pytest.fixture
def stage(company: Stage) -> Stage:
    company.mend()
    company.people()
    return company


def say(stage: Stage, **rules: Any) -> None:
    """The administrator sets rules of this workspace; where it is out the device hears of them at once."""
    stage.company.admin.set_policy(Scope.WORKSPACE, str(stage.number), {"keys_leave": True} | rules)

    def heard() -> bool:
        policy = stage.client.call("info", workspace=WORK)["policy"]
        return all(policy[name] == value for name, value in rules.items())

    if stage.listed():
        assert until(heard, 30), "it never heard of it\n" + (stage.device.dirs.state / "agent.log").read_text()[-3000:]


def done(stage: Stage, verb: str, **args: Any) -> dict[str, Any]:
    found: dict[str, Any] = stage.client.finish(verb, workspace=WORK, limit=60, **args)["result"]
    return found


def meanwhile(stage: Stage, step: str, work: Callable[[], object]) -> None:
    """Have `work` done while an operation stands at that step."""
    stage.hand.begin(step, lambda: (work(), None)[1])


def met(stage: Stage) -> None:
    assert stage.hand.wait(), "it never came to that step"
    assert not stage.hand.failed, stage.hand.failed


def asked(stage: Stage, verb: str) -> dict[str, Any]:
    """An administrator asks; the request with its receipt."""
    number = stage.company.admin.ask(stage.number, verb)["command"]

    def row() -> dict[str, Any]:
        return next(row for row in stage.company.admin.list_asked(stage.number) if row["command"] == number)

    assert until(lambda: row()["receipt"] is not None, 60), "no receipt came"
    return row()


def test_2_1_states(stage: Stage) -> None:
    """As View: checking out, checked out, checking in; roll back and replicate are operations and no states."""
    seen: list[str] = []
    meanwhile(stage, "write base.chunks #1", lambda: seen.append(stage.row()["status"]))
    stage.checkout()
    met(stage)
    assert seen == ["checking-out"]
    assert until(lambda: stage.row()["status"] == "checked-out", 30)
    written(stage)

    def look() -> None:
        say(stage, replicate_metered=True)  # so that the device has a heartbeat now
        until(lambda: stage.row()["status"] == "checking-in", 20)
        seen.append(stage.row()["status"])

    meanwhile(stage, "server: PUT device/objects/work/N/* #1", look)
    done(stage, "checkin")
    met(stage)
    assert seen[1:] == ["checking-in"]
    assert stage.row()["status"] == "checked-in"


def test_2_1_columns(stage: Stage) -> None:
    """As View: user, desktop, status, check-out time, offline duration, last contact, last backup (the check-out's time if there
    is none). Instead of the client's host name and address: the name that the person gave the device, the lease that is left, and
    the last generation that was verified."""
    stage.checkout()
    row = stage.row()
    assert (row["user"], row["workspace"], row["device_name"]) == (stage.user, WORK, "laptop")
    assert row["since"] > 0 and row["backed_up"] == row["since"]
    assert 0 <= row["offline_for"] < 60 and row["contact"] >= row["since"]
    assert 6 * 86400 < row["lease_left"] <= 7 * 86400
    assert not [name for name in row if "address" in name or "host" in name or name == "ip"]
    stage.backup()
    say(stage, replicate_metered=True)
    assert stage.row()["backed_up"] >= row["since"]
    assert until(lambda: stage.row()["verified"] > 0, 30)


def test_2_2_check_out(stage: Stage) -> None:
    """As View: the lock is taken, by an entitled user, never by a second one; it can be cancelled while data moves. Instead of a
    whole download, drivers and a restart: the person works before the image is here."""

    def cancel() -> None:
        with stage.device.client() as beside:
            (operation,) = [op for op in beside.call("jobs")["operations"] if op["state"] == "running"]
            beside.call("cancel", operation=operation["operation"])

    meanwhile(stage, "progress: fetch #1", cancel)
    begun = stage.client.call("checkout", workspace=WORK)["operation"]
    assert stage.client.call("job", operation=begun, wait=30.0)["state"] == "cancelled"
    met(stage)
    assert (stage.listed(), stage.lease()) == (False, "")
    received = done(stage, "checkout")
    assert received["received"] < received["image"], "it may start before all of it is here"
    assert stage.lease() == stage.client.call("device")["device"]
    with pytest.raises(ConflictError, match="laptop"):
        stage.other().finish("checkout", workspace=WORK, limit=60)
    stage.people()  # somebody else
    stage.company.admin.set_policy(Scope.WORKSPACE, str(stage.number), {"checkout": False})
    with pytest.raises(RefusedError, match="does not let"):
        done(stage, "checkout")
    with pytest.raises(NotFoundError):
        stage.client.finish("checkout", workspace="another", limit=60)


def test_2_2_run_offline(stage: Stage) -> None:
    """As View: it is used without the network, by whoever checked it out; its files moved to another computer are of no use."""
    data = saved(stage)
    stage.relay.cut()
    proven(stage, data)
    assert done(stage, "disk_check", data=True)["devices"]
    assert stage.client.call("info", workspace=WORK)["error"] is None
    stage.relay.mend()
    stage.other()
    there = stage.spare.dirs.state / "workspaces" / WORK
    shutil.copytree(stage.vault.folder, there)
    with pytest.raises(TwofoldError):
        Vault(stage.spare, stage.vault.runtime).read(SIZE)


def test_2_2_replicate(stage: Stage) -> None:
    """As View: points in time, strictly in order; a request waits for the running one and never aborts it, twice is once; a
    pending one can be withdrawn, and starts at the next contact. Instead of everything that changed: only what is new travels."""
    stage.checkout()
    same: list[Any] = []
    written(stage)

    def again() -> None:
        with stage.device.client() as beside:
            same.append(beside.call("backup", workspace=WORK)["operation"])

    meanwhile(stage, "server: PUT device/objects/work/N/* #1", again)
    operation = stage.client.finish("backup", workspace=WORK, limit=60)
    met(stage)
    assert same == [operation["operation"]]
    stage.vault.write(os.urandom(4096))
    second = done(stage, "backup")
    assert second["sent_bytes"] < operation["result"]["bytes"] // 2
    rows = stage.company.admin.list_generations(stage.number)
    assert [row["parent"] for row in rows] == [operation["result"]["id"], ""]
    stage.device.kill()
    admin = stage.company.admin
    first, twice = (admin.ask(stage.number, "replicate")["command"] for _ in range(2))
    assert first == twice, "one pending request at most"
    admin.withdraw(stage.number, first)
    waiting = admin.ask(stage.number, "replicate")["command"]
    stage.again()
    assert until(lambda: admin.list_asked(stage.number)[0]["state"] == "done", 60)
    states = {row["command"]: row["state"] for row in admin.list_asked(stage.number)}
    assert states == {first: "withdrawn", waiting: "done"}


def test_2_2_defer(stage: Stage) -> None:
    """As View: the user puts backing up off by two hours, if the policy allows that, and none begins by itself meanwhile."""
    stage.checkout()
    with pytest.raises(RefusedError, match="put off"):
        stage.client.call("defer", workspace=WORK)
    say(stage, defer=True)
    until_ = stage.client.call("defer", workspace=WORK)["until"]
    assert abs(until_ - time.time() - 2 * 3600) < 60
    _long_ago(stage)
    say(stage, replicate_seconds=300)
    assert not until(lambda: bool(stage.row()["head"]), 2), "it was put off"


def test_2_2_check_in(stage: Stage) -> None:
    """As View: what is new is uploaded, the server's copy is the live one, the lock is released; not used here meanwhile. Instead
    of files that stay: nothing is left on the device."""
    saved(stage)
    data = written(stage)
    custody: list[str] = []

    def look() -> None:
        with stage.device.client() as beside:
            custody.append(beside.call("info", workspace=WORK)["custody"])

    meanwhile(stage, "server: POST device/checkin #1", look)
    result = done(stage, "checkin")
    met(stage)
    assert custody == ["checking-in"]
    assert 0 < result["sent_files"] < result["files"]
    assert (stage.listed(), stage.lease(), stage.row()["head"]) == (False, "", result["id"])
    assert not stage.vault.folder.exists()
    stage.checkout()
    proven(stage, data)


def test_2_2_roll_back(stage: Stage) -> None:
    """As View: what is only here is given up, the last back up is live again; refused while data moves, and not queued; by the
    administrator at any time. Instead of one who watches the clock: back up and roll back are one request."""
    data = saved(stage)
    written(stage)
    said: list[str] = []

    def now() -> None:
        with stage.device.client() as beside, pytest.raises(ConflictError) as refused:
            beside.finish("discard", workspace=WORK, yes=True)
        said.append(refused.value.next)

    meanwhile(stage, "server: PUT device/objects/work/N/* #1", now)
    stage.facts["saved"] = stage.facts["fresh"]
    stage.backup()
    met(stage)
    assert "Wait" in said[0]
    data = stage.facts["fresh"]
    written(stage)
    with pytest.raises(UsageError):
        done(stage, "discard")
    done(stage, "discard", yes=True)
    stage.checkout()
    proven(stage, data)
    written(stage)
    say(stage, discard=False, checkin=False)
    assert asked(stage, "discard")["state"] == "done"
    stage.checkout()
    proven(stage, data)
    data = written(stage)
    say(stage, discard=True, checkin=True)
    done(stage, "discard", yes=True, backup=True)
    stage.checkout()
    proven(stage, data)


def test_2_2_delete_local_files(stage: Stage) -> None:
    """Instead of files that a user must remove by hand: the key is destroyed first, then the files, and a receipt says so."""
    saved(stage)
    mine = stage.device.home / "mine"
    mine.write_bytes(b"mine")
    receipt = done(stage, "discard", yes=True)["receipt"]
    assert receipt["key_destroyed"] is True
    assert receipt["sealed_bytes_removed"] > 0
    state = stage.device.dirs.state
    assert not list(state.rglob(KEY)) and not list((state / "workspaces").iterdir())
    assert mine.read_bytes() == b"mine"


def test_2_2_remove_entitlement(stage: Stage) -> None:
    """As View: it does not run any more once the device has heard of it. Instead of a desktop that nobody can use: the person is
    told why, what is only here can still be sent, and the administrator can go on with it."""
    stage.checkout()
    data = written(stage)
    stage.company.admin.remove_grant(stage.number)
    assert until(lambda: stage.client.call("info", workspace=WORK)["error"] is not None, 30)
    with pytest.raises(RefusedError) as refused:
        done(stage, "start")
    assert refused.value.safe and refused.value.next
    done(stage, "backup")
    (row,) = stage.company.admin.list_generations(stage.number)
    assert stage.row()["head"] in (row["id"], "")
    assert row["kept"]
    proven(stage, data)


def test_2_2_local_mode_denied_while_out(stage: Stage) -> None:
    """As View: denying local mode stops it at the next contact. Instead of leaving it locked with no way out: it can be given
    back with all that is in it."""
    stage.checkout()
    data = written(stage)
    say(stage, checkout=False)
    with pytest.raises(RefusedError, match="any more") as refused:
        done(stage, "start")
    assert "checkin" in refused.value.next
    done(stage, "checkin")
    assert stage.lease() == ""
    stage.company.admin.set_policy(Scope.WORKSPACE, str(stage.number), {})
    stage.checkout()
    proven(stage, data)


def test_2_2_sneakernet_check_out(stage: Stage) -> None:
    """As View: the image is carried on a stick, and the device finishes the check-out. Instead of trust in the stick: every piece
    is verified, and opens with the company's key alone."""
    company, stick = stage.company, stage.folder / f"stick{os.getpid()}{time.monotonic_ns()}"
    catalogue = Catalogue(company.publisher, company.admin)
    export(company.publisher, catalogue, company.admin, "tiny", 1, stick)
    shutil.rmtree(stage.device.dirs.cache / "chunks", ignore_errors=True)
    result = done(stage, "checkout", stick=str(stick))
    assert result["brought"] > result["image"] // 2
    assert result["received"] == 0
    proven(stage, bytes(SIZE))


def test_2_2_admin_edits(stage: Stage) -> None:
    """Instead of edits that wait for a check-in: a rule reaches a workspace that is out at once, and it stays out."""
    stage.checkout()
    began = time.monotonic()
    say(stage, clipboard_to_work=True)
    assert time.monotonic() - began < 30, "far below the five minutes between two heartbeats"
    assert stage.here()


def test_3_1_local_mode(stage: Stage) -> None:
    """Instead of Deny (5.2's guide; older ones say Allow): whoever is granted a workspace may take it out."""
    assert Policy().checkout is True
    stage.company.admin.set_policy(Scope.WORKSPACE, str(stage.number), {"checkout": False})
    with pytest.raises(RefusedError):
        done(stage, "checkout")
    assert stage.lease() == ""


def test_3_1_user_initiated_rollback(stage: Stage) -> None:
    """As View: Allow."""
    assert Policy().discard is True
    stage.checkout()
    say(stage, discard=False)
    with pytest.raises(RefusedError, match="discarded"):
        done(stage, "discard", yes=True)
    assert stage.here()


def test_3_1_max_time_without_server_contact(stage: Stage) -> None:
    """As View: seven days, counted anew at each contact, then it is locked. Instead of no word before: the person is warned a day
    and an hour before; turning the clock back gains nothing."""
    assert Policy().offline_seconds == 7 * 86400
    stage.checkout()
    stage.client.close()
    stage.device.kill()
    stage.relay.cut()
    for seconds, warned, shut in ((6 * 86400 + 7200, True, False), (7 * 86400 + 60, False, True)):
        later(stage.device, seconds)
        stage.again()
        found = stage.client.call("info", workspace=WORK)
        assert (found["warning"] is not None) == warned
        if shut:
            with pytest.raises(RefusedError, match="no contact"):
                done(stage, "start")
        stage.client.close()
        stage.device.kill()
    stage.relay.mend()
    stage.again()
    assert until(lambda: stage.client.call("info", workspace=WORK)["error"] is None, 60), "contact is all it takes"


def _long_ago(stage: Stage) -> None:
    """The last back up by itself began a day ago."""
    stage.client.close()
    stage.device.kill()
    path = stage.vault.folder / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"backup_at": int(time.time()) - 86400}))
    stage.again()


def test_3_1_target_replication_frequency(stage: Stage) -> None:
    """Instead of No replication: every twelve hours, from start to start."""
    assert Policy().replicate_seconds == 12 * 3600
    stage.checkout()
    data = written(stage)
    _long_ago(stage)
    assert until(lambda: bool(stage.row()["head"]), 60), "nobody had to ask"
    stage.settled()
    done(stage, "discard", yes=True)
    stage.checkout()
    proven(stage, data)


def test_3_1_user_deferred_replication(stage: Stage) -> None:
    """As View: Deny; where it is allowed, two hours."""
    assert (Policy().defer, DEFER_SECONDS) == (False, 2 * 3600)


def test_3_1_disks_replicated(stage: Stage) -> None:
    """Instead of a choice that is fixed at check-out: one point in time holds all disks or none."""
    stage.checkout()
    ends = os.urandom(4096), os.urandom(4096)
    stage.vault.write(ends[0], 4 << 20)
    stage.vault.write(ends[1], AT)
    done(stage, "backup")
    done(stage, "discard", yes=True)
    stage.checkout()
    assert (stage.vault.read(4096, 4 << 20), stage.vault.read(4096, AT)) == ends


def test_3_1_user_initiated_check_in(stage: Stage) -> None:
    """As View: Allow."""
    assert Policy().checkin is True
    stage.checkout()
    say(stage, checkin=False)
    with pytest.raises(RefusedError, match="checked in"):
        done(stage, "checkin")
    assert stage.here()


def test_3_1_user_initiated_replication(stage: Stage) -> None:
    """Instead of Deny: Allow. As View: where the user may not ask, the schedule goes on, and an administrator may."""
    assert Policy().replicate is True
    stage.checkout()
    say(stage, replicate=False)
    with pytest.raises(RefusedError, match="on demand"):
        done(stage, "backup")
    assert asked(stage, "replicate")["state"] == "done"


def test_3_2_usb_access(stage: Stage) -> None:
    """Instead of Allow: nothing crosses unless the company says so, each direction on its own."""
    closed = ("usb", "clipboard_to_work", "clipboard_from_work", "files_to_work", "files_from_work", "screenshots")
    assert not any(getattr(Policy(), name) for name in closed)
    stage.checkout()
    policy = stage.client.call("info", workspace=WORK)["policy"]
    assert not any(policy[name] for name in closed)


def test_3_3_heartbeat(stage: Stage) -> None:
    """As View: five minutes. Instead of one number for the whole company: a rule like others, and news come at once."""
    assert Policy().heartbeat_seconds == 300
    stage.checkout()
    say(stage, heartbeat_seconds=120)


def test_3_3_tls(stage: Stage) -> None:
    """Instead of three switches: always, to the server that was pinned, and nothing is said in the clear."""
    with socket.create_connection(("127.0.0.1", stage.company.port), 5) as plain:
        plain.sendall(b"GET /api/v1/authority HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        plain.settimeout(5)
        try:
            assert b"200" not in plain.recv(100)
        except OSError:
            pass  # it hung up


def test_3_3_deduplication_and_compression(stage: Stage) -> None:
    """Instead of off by default: always, both ways, and progress says bytes before and after."""
    first = saved(stage)
    stage.vault.write(first)  # the same once more
    operation: Client = stage.client
    result = operation.finish("backup", workspace=WORK, limit=60)
    assert result["whole"] == result["result"]["bytes"] > result["result"]["sent_bytes"] == result["total"]
