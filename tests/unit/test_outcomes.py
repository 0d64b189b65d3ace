"""What a device says of its starts: what speaks of the image, once, and nothing of the person."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from twofold.agent.change import PATIENCE
from twofold.agent.operations import Operation
from twofold.agent.outcomes import Outcome, outcomes
from twofold.model.errors import ConflictError, DamagedError, NoRoomError, RefusedError, TwofoldError

NOW = 1_000_000


def start(
    state: str = "done", error: TwofoldError | None = None, verb: str = "start", ago: int = 5, **result: Any
) -> Operation:
    async def make() -> Operation:
        return Operation(verb, "work", {}, lambda _: None)

    made = asyncio.run(make())
    made.state, made.error, made.result, made.ended = state, error, result, NOW - ago
    made._ended.set()
    return made


def told(operation: Operation, *, up: bool = False, runs: bool = True, has_agent: bool = True) -> bool | None:
    ws: Any = SimpleNamespace(
        lease=SimpleNamespace(image="office", image_version=3),
        image=SimpleNamespace(has_agent=has_agent, version=3),
        guest=SimpleNamespace(session_up=up),
        machine=object() if runs else None,
    )
    found = list(outcomes([operation], lambda _: ws, set(), NOW))
    assert not list(outcomes([operation], lambda _: ws, {operation.id}, NOW)), "once"
    if not found:
        return None
    assert found == [Outcome(operation.id, "office", 3, found[0].good)]
    return found[0].good


def test_a_desktop_that_came_is_a_good_start() -> None:
    assert told(start(resumed=False), up=True) is True
    assert told(start(resumed=False)) is None, "it may still come"
    assert told(start(resumed=False, ago=PATIENCE + 1)) is False, "it did not"
    assert told(start(resumed=False, ago=PATIENCE + 1), has_agent=False) is True, "nothing in it could say so"
    assert told(start(resumed=False, ago=PATIENCE + 1), runs=False) is None, "somebody may have switched it off"


@pytest.mark.parametrize("error", [TwofoldError("QEMU ended."), DamagedError("The kernel does not open.")])
def test_a_machine_that_does_not_start_is_a_bad_one(error: TwofoldError) -> None:
    assert told(start("failed", error)) is False


@pytest.mark.parametrize("error", [RefusedError("x"), ConflictError("x"), NoRoomError("x")])
def test_what_the_image_has_no_part_in_is_not_told(error: TwofoldError) -> None:
    assert told(start("failed", error)) is None


def test_other_operations_and_resumes_say_nothing() -> None:
    assert told(start("cancelled", TwofoldError("x"))) is None
    assert told(start(resumed=True), up=True) is None
    assert told(start(already="running"), up=True) is None
    assert told(start(verb="suspend"), up=True) is None
    assert not list(outcomes([start(resumed=False)], lambda _: None, set(), NOW)), "the workspace is gone"
