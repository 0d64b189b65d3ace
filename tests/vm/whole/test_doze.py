"""A workspace that nobody looks at and in which nothing happens stands still, and is there at once when it is wanted."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from demo.stage import WORKSPACE
from tests.vm.whole.conftest import Whole, until
from twofold.agent.client import Watch
from twofold.model.policy import UNSEEN, Policy, Scope

pytestmark = [pytest.mark.vm, pytest.mark.long, pytest.mark.timeout(400)]


def worked(pid: int) -> float:
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_it_stands_still_while_nobody_looks_and_runs_for_whoever_wants_it(whole: Whole) -> None:
    def dozes() -> bool:
        return str(whole.info()["doze"]) == "dozing"

    with ExitStack() as undo:
        number = str(whole.number)
        undo.callback(whole.admin.set_policy, Scope.WORKSPACE, number, Policy().said())
        whole.admin.set_policy(Scope.WORKSPACE, number, Policy(doze=UNSEEN).said())
        until(lambda: whole.info()["policy"]["doze"] == UNSEEN, "the policy", 30)
        whole.client.finish("off", workspace=WORKSPACE)  # the probe draws all the time
        whole.client.finish("start", workspace=WORKSPACE)
        undo.callback(whole.launch, "twofold-probe")
        whole.up(WORKSPACE, "session_up")
        switcher = undo.enter_context(Watch(whole.client.path, switcher=True))
        switcher.say("looking", workspace=WORKSPACE)
        time.sleep(1)
        switcher.say("looking", workspace="")
        until(dozes, "rest", 180)
        pid = whole.info()["pid"]
        before = worked(pid)
        time.sleep(3)
        assert worked(pid) - before < 0.1 and whole.info()["run"] == "running" and dozes()

        began = time.monotonic()
        switcher.say("looking", workspace=WORKSPACE)
        until(lambda: not dozes(), "the person's coming noticed", 5, 0.005)
        print(f"awake {1000 * (time.monotonic() - began):.0f} ms after the switcher's word")
        told = whole.client.call("time", workspace=WORKSPACE)
        assert abs(told["guest_unix_ms"] - told["host_unix_ms"]) < 1500

        switcher.say("looking", workspace="")
        until(dozes, "rest again", 180)
        whole.launch("galculator")  # whatever is asked of the guest wakes it
        assert not dozes()
        until(lambda: whole.apps()[-1:] == ["galculator"], "the application", 60)

        until(dozes, "rest with an application open", 180)
        whole.client.finish("suspend", workspace=WORKSPACE)
        whole.client.finish("start", workspace=WORKSPACE)
        whole.up(WORKSPACE, "session_up")
        assert whole.apps() == ["galculator"]

        until(dozes, "rest after a resume", 180)
        switcher.close()
        until(lambda: not dozes(), "a switcher that has gone leaves nothing asleep", 20)
