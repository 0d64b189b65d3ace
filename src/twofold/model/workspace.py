"""A workspace's states and the moves between them: one table each, nothing else may change a state."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeVar

from twofold.model.errors import ConflictError


class Custody(enum.StrEnum):
    """Who has the workspace: the life of a lease."""

    CHECKED_IN = "checked-in"
    CHECKING_OUT = "checking-out"
    CHECKED_OUT = "checked-out"
    CHECKING_IN = "checking-in"


class RunState(enum.StrEnum):
    """What the machine does on this device."""

    OFF = "off"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDING = "suspending"
    SUSPENDED = "suspended"
    RESUMING = "resuming"
    STOPPING = "stopping"
    BROKEN = "broken"


class Doze(enum.StrEnum):
    """What the processors of a machine that is `running` do by our own doing (`twofold.agent.doze`). Never written down: a new
    agent finds it in the machine, and lets it go on."""

    AWAKE = "awake"
    DOZING = "dozing"  # they stand still until somebody or something wants it
    GLANCING = "glancing"  # they run for a short while, so that what has come meanwhile is seen


_State = TypeVar("_State", bound=enum.StrEnum)

CUSTODY_MOVES: dict[Custody, frozenset[Custody]] = {
    Custody.CHECKED_IN: frozenset({Custody.CHECKING_OUT}),
    Custody.CHECKING_OUT: frozenset({Custody.CHECKED_OUT, Custody.CHECKED_IN}),
    Custody.CHECKED_OUT: frozenset({Custody.CHECKING_IN}),
    Custody.CHECKING_IN: frozenset({Custody.CHECKED_IN, Custody.CHECKED_OUT}),
}

RUN_MOVES: dict[RunState, frozenset[RunState]] = {
    RunState.OFF: frozenset({RunState.STARTING, RunState.BROKEN}),
    RunState.STARTING: frozenset({RunState.RUNNING, RunState.SUSPENDED, RunState.OFF, RunState.BROKEN}),
    RunState.RUNNING: frozenset(
        {RunState.PAUSED, RunState.SUSPENDING, RunState.STOPPING, RunState.OFF, RunState.BROKEN}
    ),
    RunState.PAUSED: frozenset(
        {RunState.RUNNING, RunState.SUSPENDING, RunState.STOPPING, RunState.OFF, RunState.BROKEN}
    ),
    RunState.SUSPENDING: frozenset({RunState.SUSPENDED, RunState.RUNNING, RunState.OFF, RunState.BROKEN}),
    RunState.SUSPENDED: frozenset({RunState.RESUMING, RunState.STARTING, RunState.OFF, RunState.BROKEN}),
    RunState.RESUMING: frozenset({RunState.RUNNING, RunState.SUSPENDED, RunState.OFF, RunState.BROKEN}),
    RunState.STOPPING: frozenset({RunState.OFF, RunState.RUNNING, RunState.BROKEN}),
    RunState.BROKEN: frozenset({RunState.OFF, RunState.STARTING}),
}

DOZE_MOVES: dict[Doze, frozenset[Doze]] = {
    Doze.AWAKE: frozenset({Doze.DOZING}),
    Doze.DOZING: frozenset({Doze.AWAKE, Doze.GLANCING}),
    Doze.GLANCING: frozenset({Doze.AWAKE, Doze.DOZING}),
}


def move(table: dict[_State, frozenset[_State]], now: _State, then: _State, what: str) -> _State:
    """Return `then` where the table allows it.

    Raises:
        ConflictError: the move is not in the table; nothing has changed.
    """
    if then not in table[now]:
        raise ConflictError(f"{what} is {now} and cannot become {then}.", safe="Nothing was changed.")
    return then


@dataclass(frozen=True)
class Whereabouts:
    """The three facts a person must never have to guess apart. Times are Unix seconds, 0 for never."""

    in_memory: bool
    on_disk_verified_at: int
    on_server_at: int
