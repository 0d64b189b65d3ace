"""The guest's focus at the agent: who is asked, what switchers hear of it, and a guest that floods."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from twofold.agent import focus, untrusted
from twofold.agent.focus import Focus
from twofold.model.errors import RefusedError, TimedOutError, TwofoldError


def in_a_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def runs(*args: Any, **kwargs: Any) -> None:
        async def main() -> None:
            await test(*args, **kwargs)

        asyncio.run(main())

    return runs


class Inside:
    """What `Focus` knows of a guest."""

    def __init__(self, failing: TwofoldError | None = None) -> None:
        self.session_up = True
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.failing = failing

    async def call(self, verb: str, **args: Any) -> dict[str, Any]:
        self.asked.append((verb, args))
        if self.failing is not None:
            raise self.failing
        return {}


class World:
    def __init__(self, guest: Inside | None = None) -> None:
        self.guest: Any = guest
        self.heard: list[Mapping[str, Any]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.focus = Focus("work", lambda: self.guest, self.heard.append, self._go)

    def _go(self, work: Any) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    @property
    def kinds(self) -> list[str]:
        assert all(event["event"] == "focus" and event["workspace"] == "work" for event in self.heard)
        return [event["kind"] for event in self.heard]

    async def settle(self) -> None:
        await asyncio.sleep(0.01)


@in_a_loop
async def test_a_guest_is_asked_once_and_again_where_it_could_not_answer() -> None:
    world = World(Inside())
    world.guest.session_up = False
    world.focus.follow()
    world.guest.session_up = True
    for _ in range(3):
        world.focus.follow()
        await world.settle()
    assert world.guest.asked == [("focus", {"on": True})]
    world.guest = Inside(TimedOutError("late", safe="", next=""))
    world.focus.follow()
    await world.settle()
    world.focus.follow()
    await world.settle()
    assert len(world.guest.asked) == 2
    world.guest = Inside(RefusedError("an older image", safe="", next=""))
    for _ in range(3):
        world.focus.follow()
        await world.settle()
    assert len(world.guest.asked) == 1


@in_a_loop
async def test_the_newest_is_told_however_fast_it_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(focus, "EVERY", 0.05)
    world = World(Inside())
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(300):
        world.focus.heard({"event": "focus", "kind": "text" if number % 2 else ""})
        await asyncio.sleep(0.0005)
    await asyncio.sleep(0.06)
    assert world.kinds[-1] == "text" and 3 < len(world.kinds) <= (loop.time() - began) / 0.05 + 2


@in_a_loop
async def test_what_holds_is_told_to_who_comes_and_ends_with_the_session() -> None:
    world = World(Inside())
    world.focus.again()
    world.focus.heard({"event": "focus", "kind": "pin"})
    await world.settle()
    world.focus.again()
    assert world.kinds == ["pin", "pin"]
    world.guest.session_up = False
    world.focus.follow()
    await asyncio.sleep(focus.EVERY + 0.02)
    assert world.kinds[2:] == [""]
    world.guest = None
    world.focus.follow()
    await asyncio.sleep(focus.EVERY + 0.02)
    assert len(world.kinds) == 3, "nothing is said twice of a machine that is off"


@pytest.mark.parametrize("kind", [None, 1, "Text", "textarea", "text ", ["text"], "x" * 10_000])
def test_a_kind_that_is_none(kind: object) -> None:
    with pytest.raises(untrusted.Malformed):
        untrusted.event({"event": "focus", "kind": kind})
    assert untrusted.event({"event": "focus", "kind": "", "more": 1}) == {"event": "focus", "kind": ""}
