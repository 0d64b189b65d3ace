"""The matrix: every step of every operation, met by every failure. Steps are found by doing the operation once and listening."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.harness.tape import Cut
from tests.matrix.deeds import Deed, Ended, attempt, looked
from tests.matrix.stage import Stage, until
from twofold.model.errors import TwofoldError

_LASTS = 0.5  # seconds that a failure lasts where the operation does not end of it
_LIMIT = 75.0
_KEPT = 10.0  # in which what was said to be done shows
_TRIES = 4
_SOON = 0.6  # seconds in which it is done by itself, once nothing is under way any more
NOT_COME = "the step did not come this time"


@dataclass(frozen=True)
class Failure:
    """`strike` happens at the step, while the operation waits there; `heal` later, so that it may go on."""

    name: str
    strike: Callable[[Stage, str], None]
    heal: Callable[[Stage], None]


def _server_killed(stage: Stage, _: str) -> None:
    stage.company.kill()


def _full(stage: Stage, step: str) -> None:
    (stage.company.tape if on_server(step) else stage.device.tape).fill()


def _free(stage: Stage) -> None:
    stage.company.tape.free()
    stage.device.tape.free()


def _power(stage: Stage, step: str) -> None:
    dice = random.Random(step)
    stage.device.lose_power(dice.choice(list(Cut)), dice)


def _server_power(stage: Stage, step: str) -> None:
    dice = random.Random(step)
    stage.company.lose_power(dice.choice(list(Cut)), dice)


FAILURES = (
    Failure("server killed", _server_killed, lambda stage: stage.company.mend()),
    Failure("agent killed", lambda stage, _: stage.device.kill(), lambda stage: stage.again()),
    Failure("vaultd killed", lambda stage, _: _none(stage.device.kill_vaultds()), lambda _: None),
    Failure("network cut", lambda stage, _: stage.relay.cut(), lambda stage: stage.relay.mend()),
    Failure("disk full", _full, _free),
    Failure("power cut", _power, lambda stage: stage.again()),
    Failure("server's power cut", _server_power, lambda stage: stage.company.mend()),
)


def _none(_: object) -> None:
    return


def on_server(step: str) -> bool:
    return step.startswith(("server: asked", "server: answers", "server: kept", "server: about"))


@dataclass(frozen=True)
class Step:
    name: str
    vaultds: int  # that live then


@dataclass(frozen=True)
class Cell:
    deed: str
    step: Step
    failure: Failure

    @property
    def names(self) -> tuple[str, str, str]:
        return self.deed, self.step.name, self.failure.name

    @property
    def key(self) -> str:
        return " | ".join(self.names)

    def skipped(self) -> str:
        """Why it can't be."""
        if self.failure.name == "vaultd killed" and not self.step.vaultds:
            return "no vault process lives at that step"
        return ""


@dataclass(frozen=True)
class Outcome:
    """result: `by itself`, `asked again`, `skipped` or `FAILED`."""

    deed: str
    step: str
    failure: str
    result: str
    why: str = ""
    seconds: float = 0.0
    tries: int = 1  # how often it was run

    @property
    def key(self) -> str:
        return f"{self.deed} | {self.step} | {self.failure}"


def discovered(deed: Deed, stage: Stage) -> list[Step]:
    """Do it once, undisturbed."""
    found: list[Step] = []
    deed.before(stage)
    stage.hear_beats(on=deed.beats)
    stage.hand.begin(see=lambda step: found.append(Step(step, len(stage.device.vaultds()))))
    _, ended = _through(deed, stage, None)
    stage.hand.begin()
    assert deed.done(stage, ended), (deed.name, ended)
    deed.after(stage)
    return thinned(found)


def thinned(steps: Sequence[Step]) -> list[Step]:
    """Of a step that comes often, the first and the last."""
    often = Counter(step.name.rpartition(" #")[0] for step in steps)

    def kept(step: Step) -> bool:
        name, _, nth = step.name.rpartition(" #")
        return int(nth) == 1 or int(nth) == often[name]

    return [step for step in steps if kept(step)]


def cells(deed: str, steps: Iterable[Step]) -> list[Cell]:
    return [Cell(deed, step, failure) for step in steps for failure in FAILURES]


def _through(deed: Deed, stage: Stage, failure: Failure | None) -> tuple[bool, Ended]:
    """Ask for it and wait for its end; the failure is healed on the way. Returns whether that was so."""
    number, ended = attempt(deed, stage)
    healed, began, struck = False, time.monotonic(), 0.0
    while ended is None:
        ended = looked(deed, stage, number)
        if ended is not None:
            stage.hand.wait()
        now = time.monotonic()
        if failure is not None and stage.hand.struck.is_set() and not healed:
            struck = struck or now
            if now - struck > _LASTS or ended is not None:
                failure.heal(stage)
                healed = True
        assert now - began < _LIMIT, f"{deed.name} has not ended after {_LIMIT:g} s"
    return healed, ended


def run(deed: Deed, stage: Stage, cell: Cell) -> Outcome:
    """One cell. Raises AssertionError where something is lost, stuck or unsaid."""
    began = time.monotonic()

    def outcome(result: str, why: str = "") -> Outcome:
        seconds = round(time.monotonic() - began, 2)
        return Outcome(*cell.names, result, why, seconds)

    if why := cell.skipped():
        return outcome("skipped", why)
    deed.before(stage)
    stage.hear_beats(on=deed.beats)
    tape = {"power cut": stage.device.tape, "server's power cut": stage.company.tape}.get(cell.failure.name)
    if tape is not None:
        tape.begin()
    stage.hand.begin(cell.step.name, lambda: cell.failure.strike(stage, cell.step.name))
    healed, ended = _through(deed, stage, cell.failure)
    struck, failed = stage.hand.wait(), list(stage.hand.failed)
    stage.hand.begin()
    if struck and not healed:
        cell.failure.heal(stage)
    if tape is not None:
        tape.end()
    assert not failed, failed
    stage.again()
    stage.settled()
    how = "by itself"
    patience = {"failed": 0, "done": _KEPT}.get(ended.state, _SOON)
    if not until(lambda: deed.done(stage, ended), patience, 0.05):
        assert ended.state != "done", "it was said to be done, and is not"
        how = "asked again"
        if ended.state == "failed":
            _said(ended.error)
        _again(deed, stage)
    _history(deed, stage)
    deed.after(stage)
    stage.again()
    stage.company.lives()
    # One that brings the rest of a back up, or closes after it, is none that is left; one that waits for pieces waits 10 s.
    assert until(lambda: not stage.device.vaultds(), 15), "a vault process is left"
    if not struck:
        return outcome("skipped", NOT_COME)
    said = f"{ended.error.code}: {ended.error.happened}" if ended.error is not None and how != "by itself" else ""
    return outcome(how, said)


def _said(error: TwofoldError | None) -> None:
    assert error is not None and error.happened, "it failed without a word"
    assert error.code != "failed", f"nobody foresaw this: {error}"
    assert error.safe, f"it does not say what is safe: {error}"
    assert error.next, f"it does not say what to do: {error}"


def _again(deed: Deed, stage: Stage) -> None:
    """Whoever asks again gets it."""
    said: list[str] = []
    for _ in range(_TRIES):
        number, ended = attempt(deed, stage)
        while ended is None:
            ended = looked(deed, stage, number)
        stage.settled()
        if until(lambda ended=ended: deed.done(stage, ended), 1.0, 0.1):  # type: ignore[misc]
            return
        said.append(f"{ended.state} {ended.error}")
    raise AssertionError(f"asked again, it still is not done: {said}")


def _history(deed: Deed, stage: Stage) -> None:
    """There is one line, and nothing beside it but what came late."""
    rows = stage.company.admin.list_generations(stage.number)
    by_id = {row["id"]: row for row in rows}
    at, line = stage.row()["head"], []
    while at:
        line.append(at)
        at = by_id[at]["parent"]
    beside = [row for row in rows if row["id"] not in line]
    assert {row["kind"] for row in beside} <= {"branch"}, "two lines"
    assert len(beside) == deed.branches(stage), "a generation beside the line"
