"""`make model`: what must hold does in every state that can be reached, and no check that it rests on can be taken away; what the
model's server answers, the real one does, and the trace that it gives without its fence is real."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from tests.model.checker import Step, explore
from tests.model.history import Fences, History
from tests.model.lifetime import Lifetime, Rules
from tests.model.records import Left, World
from tests.model.replay import Replay, prepared
from twofold.server import history, leases

EVERYDAY = {
    "a lease is broken": Left(write=2, breaks=1),
    "a lease is broken, messages come twice": Left(write=1, breaks=1, repeat=1),
    "a device is given up": Left(write=2, give_up=1),
    "a device that was given the key is given up": Left(write=1, give=1, give_up=1),
    "somebody leaves, and a lease is broken": Left(write=1, breaks=1, leave=1),
    "somebody leaves, and a disk is put back": Left(write=2, leave=1, put_back=1),
}
DEEP = {
    "three devices": (History(3, Left(write=2, breaks=1), flying=2), 900),
    "everything once": (History(2, Left(2, 1, 1, 1, 1, 1), flying=2), 1800),
    "two breaks, three messages under way": (History(2, Left(write=2, breaks=2, leave=1), flying=3), 1800),
}


@pytest.mark.parametrize("left", EVERYDAY.values(), ids=EVERYDAY.keys())
def test_one_history_nothing_lost_late_writers_branch(left: Left) -> None:
    found = explore(History(2, left, flying=2))
    print(found)
    assert found.whole
    assert not found.wrong, str(found)


@pytest.mark.long
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("what", DEEP.values(), ids=DEEP.keys())
def test_the_same_deeper(what: tuple[History, int]) -> None:
    model, seconds = what
    found = explore(model, most=4_000_000, seconds=seconds)
    print(found)
    assert not found.wrong, str(found)


WITHOUT = {
    "holder": (Left(write=1, breaks=1), "a late writer ends as a branch"),
    "head": (Left(write=2, put_back=1), "two generations of the line have one parent"),
    "known": (Left(write=1, breaks=1), "nothing acknowledged is lost"),
    "epoch": (Left(write=2, breaks=1), "a new holder writes under a new key"),
    "members": (Left(write=2, give_up=1), "a wiped device never has a later key"),
    "asks": (Left(write=1, give=1, give_up=1), "what is written once a device is known to be given up"),
}


@pytest.mark.parametrize("fence", WITHOUT)
def test_no_fence_can_be_taken_away(fence: str) -> None:
    left, wrong = WITHOUT[fence]
    found = explore(History(2, left, Fences(**{fence: False}), flying=2))
    print(found)
    assert wrong in found.wrong


def test_a_device_stops_when_its_lease_ends_whatever_its_clock_says() -> None:
    found = explore(Lifetime())
    print(found)
    assert found.whole
    assert not found.wrong, str(found)


@pytest.mark.parametrize("rule", [field.name for field in dataclasses.fields(Rules)])
def test_no_rule_of_time_can_be_taken_away(rule: str) -> None:
    found = explore(Lifetime(rules=Rules(**{rule: False})))
    print(found)
    assert found.wrong


# Against the server.


@pytest.fixture
def stage(tmp_path: Path) -> Replay:
    tmp_path.chmod(0o700)
    return Replay(*prepared(tmp_path, 2))


def unfenced() -> tuple[tuple[Step, World], ...]:
    """The trace of the model without its fence."""
    found = explore(History(2, Left(write=1, breaks=1), Fences(holder=False), flying=2))
    assert found.wrong
    print(found)
    return found.trace


def test_the_server_refuses_the_trace(stage: Replay) -> None:
    said = stage.run(unfenced())
    assert said[-1][1:] == ("answer branch", "answer branch"), said
    assert [row["kind"] for row in stage.line()] == ["branch"]
    assert stage.local.call("GET", "workspaces/1").json()["head"] == ""


def test_the_servers_last_word_is_one_statement(stage: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although all that it looks at before says yes."""
    monkeypatch.setattr(leases, "held", credulous())
    said = stage.run(unfenced())
    assert said[-1][2] == "stale", said
    assert stage.line() == []


def test_without_its_fence_the_server_does_what_the_model_does(stage: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "held", credulous())
    monkeypatch.setattr(history, "update", _Unfenced)
    stage.fences = Fences(holder=False)
    said = stage.run(unfenced())
    assert said[-1][1:] == ("answer line", "answer line"), said
    (row,) = stage.line()
    now = stage.local.call("GET", "workspaces/1").json()
    assert (row["kind"], row["token"], now["token"], now["head"]) == ("line", 1, 2, row["id"]), "the violation is real"


def test_the_server_asks_for_the_key_epoch_that_the_model_wants(stage: Replay) -> None:
    """The trace that the model gives without it: a holder who gave its key away writes on under that."""
    found = explore(History(2, Left(write=1, give=1, give_up=1), Fences(asks=False), flying=2))
    said = stage.run(found.trace)
    assert [real for _, _, real in said] == ["lease", "fresh", "answer line"], said
    assert [expected for _, expected, _ in said] == [real for _, _, real in said]


@pytest.mark.parametrize("seed", range(6))
def test_the_server_answers_as_the_model_does(stage: Replay, seed: int) -> None:
    """Random ways through the model, over the real server."""
    dice = random.Random(seed)
    model = History(2, Left(write=4, breaks=2, leave=2, repeat=2, put_back=1), flying=3)
    state, trace = model.initial(), []
    for _ in range(60):
        steps = list(model.steps(state))
        if not steps:
            break
        asked = [one for one in steps if one[0].does is not None]
        step, state = dice.choice(asked if asked and dice.random() < 0.5 else steps)
        trace.append((step, state))
    said = stage.run(trace)
    assert len(said) > 5
    for words, expected, real in said:
        assert expected == real, (
            "\n".join(f"{one[0]}: {one[2]}" for one in said) + f"\n{words}: the model says {expected}"
        )


def credulous() -> Any:
    """`leases.held` that takes every token that was ever given for the one of now."""
    honest = leases.held

    def held(*words: Any, **named: Any) -> leases.Held:
        return dataclasses.replace(honest(*words, **named), now=True)

    return held


class _Unfenced:
    """`sqlalchemy.update` whose conditions on token and device are left out."""

    def __init__(self, table: Any) -> None:
        self._update = sqlalchemy.update(table)

    def where(self, *conditions: Any) -> Any:
        kept = [each for each in conditions if each.left.key not in ("token", "device_id")]
        assert len(kept) == len(conditions) - 2
        return self._update.where(*kept)
