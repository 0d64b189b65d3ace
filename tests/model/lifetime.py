"""How long a device may run on its lease, as a model: time passes, heartbeats are lost, late or repeated, the lease is broken,
the clock is turned back or forward, the device is switched off and on. Times are whole steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.checker import Step

NEVER = -1


class Moment(NamedTuple):
    """`now` is the true time, `clock` what the device's own is wrong by, `since` when it was last switched on, `seen` the highest
    time that it knows of (durable; while it is on, its boot clock adds to it). `issued` is its lease's, `net` holds answers on
    their way: when signed, and how long under way by the device's boot clock. `locked`: it has stopped under the lease that it
    holds. `tricks`: what is left of them."""

    now: int = 0
    clock: int = 0
    on: bool = True
    since: int = 0
    seen: int = 0
    issued: int = 0
    locked: bool = False
    broken: int = NEVER
    net: frozenset[tuple[int, int]] = frozenset()
    tricks: int = 3


@dataclass(frozen=True)
class Rules:
    """Each can be taken away to see that it is needed."""

    highest: bool = True  # the highest time counts, not the clock of now
    durable: bool = True  # it outlives being switched off
    boot: bool = True  # time passes while the clock stands still
    absolute: bool = True  # a lease ends when it says, not so long after it came
    answer: bool = True  # the time that an answer took counts as passed since it was signed


@dataclass(frozen=True)
class Lifetime:
    """A lease lasts `life` steps; the world is looked at for `horizon`."""

    life: int = 2
    horizon: int = 7
    rules: Rules = Rules()

    def initial(self) -> Moment:
        return Moment()

    def same(self, state: Moment) -> Iterator[Moment]:
        return iter(())

    def ends(self, state: Moment) -> int:
        return state.issued + self.life

    def runs(self, state: Moment) -> bool:
        """Whether the vault process keeps the key: by what the device can know."""
        known = state.seen if self.rules.highest else state.now + state.clock
        return state.on and known < self.ends(state)

    def steps(self, state: Moment) -> Iterator[tuple[Step, Moment]]:
        for said, after in self._steps(state):
            stopped = after.on and not self.runs(after)
            yield Step(said), after._replace(locked=stopped or (after.locked and after.issued == state.issued))

    def _steps(self, state: Moment) -> Iterator[tuple[str, Moment]]:
        if state.now < self.horizon:
            later = state._replace(now=state.now + 1)
            if state.on:
                counted = state.seen + 1 if self.rules.boot else state.seen
                net = frozenset((lease, way + 1) for lease, way in state.net)
                later = later._replace(seen=max(counted, later.now + later.clock), net=net)
            yield "time passes", later
        if state.tricks:
            for by in (-3, 3):
                turned = _spent(state)._replace(clock=state.clock + by)
                if state.on:
                    turned = turned._replace(seen=max(state.seen, turned.now + turned.clock))
                yield f"the clock is turned {'back' if by < 0 else 'on'}", turned
        if state.on:
            yield "the device is switched off", state._replace(on=False, net=frozenset())  # its connections are gone
            if state.broken == NEVER and len(state.net) < 2:
                yield "the server answers a heartbeat", state._replace(net=state.net | {(state.now, 0)})
            for answer in state.net:
                after = self._arrived(state, *answer)
                yield f"the lease of time {answer[0]} arrives", after._replace(net=state.net - {answer})
                if state.tricks:
                    yield f"the lease of time {answer[0]} arrives, and will again", _spent(after)
        elif state.tricks:
            seen = state.seen if self.rules.durable else 0
            on = state._replace(
                on=True, since=state.now, seen=max(seen, state.now + state.clock), tricks=state.tricks - 1
            )
            yield "the device is switched on", on
        if state.broken == NEVER:
            yield "the lease is broken", state._replace(broken=state.now)

    def _arrived(self, state: Moment, lease: int, way: int) -> Moment:
        if not self.rules.absolute:
            lease = max(state.seen, lease)
        if lease <= state.issued:
            return state  # an older one says nothing
        # What the server says of the time counts more than a clock that was once too far ahead.
        known = lease + way if self.rules.answer else max(state.seen, lease)
        return state._replace(issued=lease, seen=known)

    def broken(self, state: Moment) -> str | None:
        if state.since <= state.issued and self.runs(state):
            if state.now >= state.issued + self.life:
                return "a device that was on all the time runs after its lease's end"
            if state.broken != NEVER and state.now >= state.broken + self.life:
                return "a device that was on all the time runs longer than a lease after the break"
        if state.locked and self.runs(state):
            return "a device that had stopped runs again without a new lease"
        return None


def _spent(state: Moment) -> Moment:
    return state._replace(tricks=state.tricks - 1)
