"""View's local mode, row by row: the operations and policies that its administrators had, and what Twofold does.

Each docstring begins with `As View`, or with `Instead` where a complaint of its users is mended; docs/view.md lists them all.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import Any

import pytest

from tests.fault.test_moving import Vault
from tests.matrix.deeds import SIZE, proven, saved, written
from tests.matrix.stage import Stage, until
from tests.matrix.view import SENDING, WORK, asked, done, long_ago, meanwhile, met, say
from twofold.agent.store import KEY
from twofold.image.catalogue import Catalogue
from twofold.image.export import export
from twofold.model.errors import ConflictError, NotFoundError, RefusedError, TwofoldError, UsageError
from twofold.model.policy import Scope

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(240)]


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

    meanwhile(stage, SENDING, look)
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

    meanwhile(stage, SENDING, again)
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
    long_ago(stage)
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

    meanwhile(stage, SENDING, now)
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
