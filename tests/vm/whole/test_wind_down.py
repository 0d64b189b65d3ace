"""The last things that happen to the machine of these tests: shut down, discarded and wiped by the company."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from demo.stage import WORKSPACE
from tests.harness.belongings import belongings, settle
from tests.vm.whole.conftest import Whole, until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_stop_is_a_clean_shutdown_by_the_guests_agent(whole: Whole) -> None:
    done = whole.client.finish("stop", workspace=WORKSPACE)
    assert done["step"] == "asking the guest to shut down", "its agent did not; the power button had to"
    now = whole.client.call("info", workspace=WORKSPACE)
    assert now["run"] == "off" and not now["memory_stored"] and now["error"] is None


def test_discarded_by_the_company_while_it_boots(whole: Whole) -> None:
    whole.client.finish("start", workspace=WORKSPACE)
    machine = whole.info()["pid"]
    receipt = whole.receipt(whole.ask("discard"))
    assert receipt["result"] == "done" and "key was destroyed" in receipt["detail"]
    assert ended(machine)
    assert whole.client.call("list")["workspaces"] == []
    row = whole.admin.workspace(whole.number)
    assert (row["status"], row["device"]) == ("checked-in", "")


def test_wiped_by_the_company_while_it_runs(whole: Whole) -> None:
    came = whole.client.finish("checkout", workspace=WORKSPACE)["result"]
    assert came["from"] > 0, "the discard left the back up"
    mine, before = settle(whole.owner), len(verbs(whole))
    whole.client.finish("start", workspace=WORKSPACE)
    whole.up(WORKSPACE, "agent_up")
    folder, machine = whole.stage.dirs.workspace(WORKSPACE), whole.info()["pid"]
    began, key_gone = time.monotonic(), 0.0
    asked = whole.ask("wipe")
    until(lambda: not (folder / "key.wrapped").exists(), "the key's end", 20, 0.0005)
    # The key first: at this moment the rest is still there.
    assert (folder / "vault").exists() and (folder / "vault" / "head.a").exists()
    key_gone = time.monotonic() - began
    receipt = whole.receipt(asked)
    took = time.monotonic() - began
    print(f"\nasked to the key's end {key_gone:.2f} s, to the receipt {took:.2f} s")
    assert receipt["result"] == "done" and "Nothing else of this device was touched" in receipt["detail"]
    assert ended(machine)
    assert not folder.exists() and not list(whole.stage.dirs.state.rglob("*.sealed"))
    assert belongings(whole.owner) == mine
    assert key_gone < 30, "far below the five minutes between two heartbeats"
    since = verbs(whole)[before:]
    assert since.count("wipe") == 1 and "checkin" not in since, "somebody else began to take it away as well"


def verbs(whole: Whole) -> list[str]:
    """Of all jobs, as they were begun."""
    return [job["verb"] for job in whole.client.call("jobs")["operations"] if job["workspace"] == WORKSPACE]
