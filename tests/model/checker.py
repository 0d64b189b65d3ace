"""A small explicit-state model checker: breadth first, so that the trace it prints is a shortest one (docs/decisions/0010).

A model's states are hashable values. Every state that its steps reach is looked at once, up to renaming (`same` gives the names a
state also has); `broken` says in words what is wrong with one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)


class Step(NamedTuple):
    """What happens, in words; `does` is for whoever replays it."""

    words: str
    does: object = None


class Model(Protocol[S]):
    def initial(self) -> S: ...

    def steps(self, state: S) -> Iterable[tuple[Step, S]]:
        """What can happen next, and the state after it."""

    def broken(self, state: S) -> str | None: ...

    def same(self, state: S) -> Iterable[S]:
        """The state under every other naming of what is alike (devices)."""


@dataclass(frozen=True)
class Found(Generic[S]):
    """`wrong` is empty where every state held. `trace` leads to the first that did not: what happened, and the state then.
    `whole` says whether all reachable states were seen, `depth` how many steps the farthest of them takes."""

    states: int
    steps: int
    depth: int
    seconds: float
    whole: bool
    wrong: str
    trace: tuple[tuple[Step, S], ...]

    def __str__(self) -> str:
        size = f"{self.states} states, {self.steps} steps, depth {self.depth}, {self.seconds:.1f} s"
        if not self.wrong:
            return f"holds in {'all' if self.whole else 'the first'} {size}"
        lines = [f"  {number:2} {step.words}" for number, (step, _) in enumerate(self.trace, 1)]
        return "\n".join([f"VIOLATED after {size}: {self.wrong}", *lines])


def explore(model: Model[S], most: int = 1 << 62, seconds: float = 1e9) -> Found[S]:
    """Look at every reachable state, or at the first `most` of them, for at most so many seconds."""
    began, first = time.monotonic(), model.initial()
    came: dict[S, tuple[S, Step] | None] = {first: None}
    queue: deque[tuple[S, int]] = deque([(first, 0)])
    steps = depth = 0
    whole = True
    while queue:
        state, depth = queue.popleft()
        wrong = model.broken(state)
        if wrong:
            took = time.monotonic() - began
            return Found(len(came), steps, depth, took, whole, wrong, tuple(reversed(list(_back(came, state)))))
        if len(came) >= most or time.monotonic() - began > seconds:
            whole = False
            continue  # what is known already is still looked at
        for step, after in model.steps(state):
            steps += 1
            if after not in came and not any(other in came for other in model.same(after)):
                came[after] = (state, step)
                queue.append((after, depth + 1))
    return Found(len(came), steps, depth, time.monotonic() - began, whole, "", ())


def _back(came: dict[S, tuple[S, Step] | None], state: S) -> Iterator[tuple[Step, S]]:
    while (before := came[state]) is not None:
        yield before[1], state
        state = before[0]
