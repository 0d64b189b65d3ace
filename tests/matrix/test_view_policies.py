"""View's policies and settings, row by row. See test_view_semantics.py."""

from __future__ import annotations

import os
import socket

import pytest

from tests.fault.test_moving import AT
from tests.fault.test_orders import later
from tests.matrix.deeds import proven, saved, written
from tests.matrix.stage import Stage, until
from tests.matrix.view import WORK, asked, done, long_ago, say
from twofold.agent.client import Client
from twofold.model.errors import RefusedError
from twofold.model.policy import DEFER_SECONDS, Policy, Scope

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(240)]


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


def test_3_1_target_replication_frequency(stage: Stage) -> None:
    """Instead of No replication: every twelve hours, from start to start."""
    assert Policy().replicate_seconds == 12 * 3600
    stage.checkout()
    data = written(stage)
    long_ago(stage)
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
