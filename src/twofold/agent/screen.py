"""The device's screen goes dark and lights up: what the company's policy makes of that (`screen_off`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twofold.agent.operations import Operation
from twofold.agent.workspace import Workspace
from twofold.model.policy import SUSPEND
from twofold.model.workspace import RunState

_OPEN = (RunState.STARTING, RunState.RESUMING, RunState.RUNNING, RunState.PAUSED)  # its keys are with the vault process


class Screen:
    """`suspend` and `start` submit an operation; those of one workspace run one after another. What a dark screen suspended, and
    nothing else, comes back with the light. An agent that was begun anew meanwhile leaves that to the person."""

    def __init__(self, suspend: Callable[[Workspace], Operation], start: Callable[[Workspace], Operation]) -> None:
        self._suspend, self._start = suspend, start
        self._asleep: set[str] = set()
        self._waking: dict[str, Operation] = {}

    def turn(self, workspaces: Iterable[Workspace], *, on: bool) -> list[Operation]:
        """Tell that the screen is on now, or off; saying it twice is saying it once. Returns what was begun."""
        return self._light(workspaces) if on else self._dark(workspaces)

    def _dark(self, workspaces: Iterable[Workspace]) -> list[Operation]:
        begun = []
        for ws in workspaces:
            if ws.lease is None or ws.lease.policy.screen_off != SUSPEND or ws.name in self._asleep:
                continue
            waking = self._waking.pop(ws.name, None)
            # One that has yet to begin would come up behind a dark screen.
            if ws.run in _OPEN or (waking is not None and not waking.over):
                self._asleep.add(ws.name)
                begun.append(self._suspend(ws))
        return begun

    def _light(self, workspaces: Iterable[Workspace]) -> list[Operation]:
        asleep, self._asleep = self._asleep, set()
        begun = {ws.name: self._start(ws) for ws in workspaces if ws.name in asleep}
        self._waking |= begun
        return list(begun.values())
