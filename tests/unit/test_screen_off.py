"""A dark screen, and the light after it, in every order; which workspaces that concerns."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import pytest

from twofold.agent.operations import Operation
from twofold.agent.screen import Screen
from twofold.agent.workspace import Workspace
from twofold.model.errors import BadInputError
from twofold.model.policy import Policy
from twofold.model.workspace import RunState


@dataclass
class Asked:
    verb: str
    name: str
    over: bool = False


class Device:
    """Workspaces by name with their run state; `asked` is what was begun."""

    def __init__(self, screen_off: str = "suspend", **runs: RunState) -> None:
        lease = SimpleNamespace(policy=Policy(screen_off=screen_off))
        self.all = [SimpleNamespace(name=name, run=run, lease=lease) for name, run in runs.items()]
        self.asked: list[Asked] = []
        self._screen = Screen(lambda ws: self._ask("suspend", ws), lambda ws: self._ask("start", ws))

    def _ask(self, verb: str, ws: Workspace) -> Operation:
        self.asked.append(Asked(verb, ws.name))
        return cast("Operation", self.asked[-1])

    def turn(self, *, on: bool) -> list[str]:
        """What this has begun."""
        known = len(self.asked)
        self._screen.turn(cast("list[Workspace]", self.all), on=on)
        return [f"{each.verb} {each.name}" for each in self.asked[known:]]


@pytest.mark.parametrize("run", [RunState.RUNNING, RunState.PAUSED, RunState.STARTING, RunState.RESUMING])
def test_what_is_open_is_suspended_and_comes_back(run: RunState) -> None:
    device = Device(work=run)
    assert device.turn(on=False) == ["suspend work"]
    assert device.turn(on=False) == []
    device.all[0].run = RunState.SUSPENDED
    assert device.turn(on=True) == ["start work"]
    assert device.turn(on=True) == []


@pytest.mark.parametrize("run", [RunState.OFF, RunState.SUSPENDED, RunState.SUSPENDING, RunState.BROKEN])
def test_what_was_not_open_stays_as_the_person_left_it(run: RunState) -> None:
    device = Device(work=run)
    assert device.turn(on=False) == [] == device.turn(on=True)


def test_by_default_a_dark_screen_changes_nothing() -> None:
    device = Device(Policy().screen_off, work=RunState.RUNNING)
    assert device.turn(on=False) == [] == device.turn(on=True)


def test_light_while_it_is_still_being_suspended() -> None:
    device = Device(work=RunState.RUNNING)
    device.turn(on=False)
    device.all[0].run = RunState.SUSPENDING
    assert device.turn(on=True) == ["start work"]


def test_dark_before_the_start_has_begun() -> None:
    device = Device(work=RunState.RUNNING)
    device.turn(on=False)
    device.all[0].run = RunState.SUSPENDED
    device.turn(on=True)
    assert device.turn(on=False) == ["suspend work"], "it would run behind a dark screen"
    assert device.turn(on=True) == ["start work"]
    device.asked[-1].over = True
    assert device.turn(on=False) == [], "that start has ended, and it is suspended: by whom ever"


def test_each_workspace_by_itself() -> None:
    device = Device(one=RunState.RUNNING, two=RunState.OFF)
    assert device.turn(on=False) == ["suspend one"]
    device.all[0].run, device.all[1].run = RunState.SUSPENDED, RunState.RUNNING
    assert device.turn(on=False) == ["suspend two"]
    del device.all[0]  # it left meanwhile
    assert device.turn(on=True) == ["start two"]


def test_the_rule_has_two_values() -> None:
    assert Policy.from_wire({"screen_off": "suspend"}).screen_off == "suspend"
    with pytest.raises(BadInputError, match="screen_off"):
        Policy.from_wire({"screen_off": "sleep"})


def test_a_lease_names_the_rule_only_where_a_company_says_it() -> None:
    """A device that does not know it would refuse the whole policy."""
    assert "screen_off" not in Policy().to_wire_second()
    assert Policy(screen_off="suspend").to_wire_second()["screen_off"] == "suspend"
