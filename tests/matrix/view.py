"""What the rows of View's tables are shown with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from tests.matrix.stage import Stage, until
from twofold.model.policy import Scope

WORK = "work"
SENDING = f"server: PUT device/objects/{WORK}/N/* #1"


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


def long_ago(stage: Stage) -> None:
    """The last back up by itself began a day ago."""
    stage.client.close()
    stage.device.kill()
    path = stage.vault.folder / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"backup_at": int(time.time()) - 86400}))
    stage.again()
