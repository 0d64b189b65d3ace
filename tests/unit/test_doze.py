"""When a workspace's processors stand still, by its guest's word, its policy and what the person sees; and what has them run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_channel import _JSON
from twofold.agent import doze, untrusted
from twofold.agent.doze import Dozing
from twofold.agent.eyes import Eyes, Sight
from twofold.agent.workspace import Workspace
from twofold.model.errors import BadInputError, ConflictError
from twofold.model.policy import Policy
from twofold.model.workspace import DOZE_MOVES, Doze, RunState, move


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, seconds in (("LATEST", 0.25), ("GLANCE", 0.06), ("LINGER", 0.04), ("SOON", 0)):
        monkeypatch.setattr(doze, name, seconds)
    monkeypatch.setattr(Dozing.wake, "__defaults__", (0.04,))
    yield


class World:
    """A workspace whose machine writes down what it is told; `sight` is how it is seen."""

    def __init__(self, policy: str = "unseen") -> None:
        self.did: list[str] = []
        self.sight = Sight.UNSEEN
        self.refuses = False
        self.old = False
        self.guest: Any = SimpleNamespace(up=True, session_up=True, going=asyncio.Event(), asked=0, call=self._call)
        self.guest.set_time_when_up = lambda: self.did.append("clock")
        self.guest.going.set()
        self.ws: Any = SimpleNamespace(
            name="work", guest=self.guest, machine=SimpleNamespace(pause=self._pause, resume=self._resume), tell=lambda: None,
            lease=SimpleNamespace(policy=Policy(doze=policy)), record=SimpleNamespace(run=RunState.RUNNING),
        )  # fmt: skip
        self._tasks: set[Any] = set()
        self.doze = Dozing(cast("Workspace", self.ws), lambda name: self.sight, self._go)

    def _go(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, verb: str, **args: Any) -> dict[str, Any]:
        if self.old:
            raise BadInputError("unknown")
        self.did.append(f"{verb} {args['on']}")
        return {}

    async def _pause(self) -> None:
        await asyncio.sleep(0.002)
        if self.refuses:
            raise ConflictError("no")
        self.did.append("stop")

    async def _resume(self) -> None:
        await asyncio.sleep(0.002)
        self.did.append("go")

    def idle(self, due: int = 0) -> None:
        self.doze.heard({"event": "idle", "due": due})

    def busy(self) -> None:
        self.doze.heard({"event": "busy"})

    async def dozing(self) -> None:
        self.doze.follow()
        await asyncio.sleep(0)
        self.idle()
        await self.until(lambda: self.doze.state is Doze.DOZING)
        assert self.did[-1] == "stop" and not self.guest.going.is_set()

    async def until(self, seen: Callable[[], bool]) -> None:
        async with asyncio.timeout(2):
            while not seen():  # noqa: ASYNC110 - it looks at what no event tells
                await asyncio.sleep(0.002)


def run(act: Callable[[World], Any], policy: str = "unseen") -> None:
    async def main() -> None:
        await act(World(policy))

    asyncio.run(main())


@pytest.mark.parametrize("sight", Sight)
@pytest.mark.parametrize("policy", ["never", "dark", "unseen"])
def test_it_stands_still_only_where_its_company_lets_it_and_nobody_looks(policy: str, sight: Sight) -> None:
    may = sight in {"never": (), "dark": (Sight.DARK,), "unseen": (Sight.DARK, Sight.UNSEEN)}[policy]

    async def act(world: World) -> None:
        world.sight = sight
        world.doze.follow()
        await asyncio.sleep(0.01)
        assert world.did == (["doze True"] if may else []), "the guest is asked where it matters alone"
        world.idle()
        await asyncio.sleep(0.02)
        assert ("stop" in world.did) is may

    run(act, policy)


def test_who_comes_finds_it_running_and_its_clock_right() -> None:
    async def act(world: World) -> None:
        await world.dozing()
        world.sight = Sight.SEEN
        world.doze.follow()
        await world.until(lambda: world.doze.state is Doze.AWAKE)
        assert world.did[2:4] == ["go", "clock"] and world.guest.going.is_set()
        await world.until(lambda: world.did[-1] == "doze False")
        await asyncio.sleep(0.1)
        assert world.did.count("stop") == 1

    run(act)


def test_what_is_asked_of_the_guest_wakes_it_and_it_dozes_on_after_a_while() -> None:
    async def act(world: World) -> None:
        await world.dozing()
        await world.doze.wake()
        assert world.did[2:] == ["go", "clock"]
        await world.until(lambda: world.did[-1] == "stop")

    run(act)


def test_no_answer_that_is_on_its_way_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(world: World) -> None:
        world.guest.asked = 1
        world.doze.follow()
        world.idle()
        await asyncio.sleep(0.05)
        assert "stop" not in world.did

    run(act)


def test_now_and_then_it_runs_for_a_short_while() -> None:
    async def act(world: World) -> None:
        await world.dozing()
        await world.until(lambda: world.did.count("stop") == 3)
        assert world.did[2:] == ["go", "clock", "stop", "go", "clock", "stop"]
        assert world.doze.state is Doze.DOZING

    run(act)


def test_mail_that_comes_in_that_while_keeps_it_awake() -> None:
    async def act(world: World) -> None:
        await world.dozing()
        await world.until(lambda: world.doze.state is Doze.GLANCING)
        world.busy()
        await world.until(lambda: world.doze.state is Doze.AWAKE)
        await asyncio.sleep(0.1)
        assert world.did.count("stop") == 1
        world.idle()
        await world.until(lambda: world.doze.state is Doze.DOZING)

    run(act)


def test_it_runs_when_what_the_guest_named_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doze, "LATEST", 60.0)

    async def act(world: World) -> None:
        world.doze.follow()
        await asyncio.sleep(0)
        world.idle(due=1)
        await world.until(lambda: world.doze.state is Doze.DOZING)
        await asyncio.sleep(0.5)
        assert world.doze.state is Doze.DOZING
        await world.until(lambda: world.doze.state is Doze.GLANCING)

    run(act)


def test_what_is_due_at_once_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doze, "SOON", 30)

    async def act(world: World) -> None:
        world.doze.follow()
        world.idle(due=29)
        await asyncio.sleep(0.05)
        assert "stop" not in world.did

    run(act)


def test_a_guest_that_says_both_all_the_time_is_not_followed_all_the_time() -> None:
    async def act(world: World) -> None:
        world.doze.follow()
        began = time.monotonic()
        for _ in range(300):
            world.idle()
            await asyncio.sleep(0.0005)
            world.busy()
            await asyncio.sleep(0.0005)
        most = (time.monotonic() - began) / doze.LINGER + 2
        assert 1 < world.did.count("stop") <= most and world.did.count("go") <= most

    run(act)


@pytest.mark.parametrize("run_state", [RunState.PAUSED, RunState.SUSPENDING, RunState.STOPPING, RunState.OFF])
def test_where_its_own_state_changes_its_processors_are_not_ours(run_state: RunState) -> None:
    async def act(world: World) -> None:
        await world.dozing()
        world.ws.record.run = run_state
        world.doze.over()
        world.doze.follow()
        await asyncio.sleep(0.35)
        assert "go" not in world.did and world.doze.state is Doze.AWAKE and world.guest.going.is_set()

    run(act)


def test_a_suspend_that_begins_while_it_is_being_stopped() -> None:
    async def act(world: World) -> None:
        world.doze.follow()
        world.idle()
        await asyncio.sleep(0.001)
        world.ws.record.run = RunState.SUSPENDING
        world.doze.over()
        await asyncio.sleep(0.05)
        assert world.doze.state is Doze.AWAKE and "go" not in world.did and world.guest.going.is_set()

    run(act)


def test_a_session_that_ends_takes_its_word_back() -> None:
    async def act(world: World) -> None:
        world.doze.follow()
        world.idle()
        world.guest.session_up = False
        world.doze.follow()
        await asyncio.sleep(0.05)
        assert world.doze.state is not Doze.DOZING or world.did[-1] == "go"
        world.guest.session_up = True
        world.doze.follow()
        await asyncio.sleep(0.02)
        assert world.did[-1] == "doze True", "the next session is asked anew"

    run(act)


def test_an_older_image_and_an_engine_that_refuses_run_on() -> None:
    async def act(world: World) -> None:
        world.old = True
        world.doze.follow()
        await asyncio.sleep(0.02)
        world.refuses = True
        world.idle()  # it says so all the same
        await asyncio.sleep(0.05)
        assert world.doze.state is Doze.AWAKE and world.guest.going.is_set()

    run(act)


def test_the_table() -> None:
    for now, then in [(now, then) for now in Doze for then in Doze]:
        if then not in DOZE_MOVES[now]:
            with pytest.raises(ConflictError):
                move(DOZE_MOVES, now, then, "work")
    assert {then for moves in DOZE_MOVES.values() for then in moves} == set(Doze)


def test_what_the_person_sees() -> None:
    watched, changes = [True], [0]
    eyes = Eyes(lambda: watched[0], lambda: changes.__setitem__(0, changes[0] + 1))
    assert eyes.sight("work") is Sight.SEEN, "no switcher has said anything"
    eyes.look("work")
    assert (eyes.sight("work"), eyes.sight("other")) == (Sight.SEEN, Sight.UNSEEN)
    eyes.light(on=False)
    assert (eyes.sight("work"), eyes.sight("other")) == (Sight.DARK, Sight.DARK)
    eyes.light(on=True)
    eyes.look("")
    assert eyes.sight("work") is Sight.UNSEEN
    watched[0] = False
    assert eyes.sight("work") is Sight.SEEN, "the switcher has gone"
    watched[0] = True
    assert eyes.sight("work") is Sight.SEEN, "the next one has said nothing yet"
    assert changes == [4]


@given(st.fixed_dictionaries({"event": st.sampled_from(["idle", "busy"])}, optional={"due": _JSON, "more": _JSON}))
def test_a_guests_word_is_checked(untrusted_event: dict[str, Any]) -> None:
    try:
        said = untrusted.event(untrusted_event)
    except untrusted.Malformed:
        assert untrusted_event["event"] == "idle"
        return
    assert said == {"event": "busy"} or (said.keys() == {"event", "due"} and 0 <= said["due"] <= untrusted.MAX_DUE)


def test_the_rule_is_checked_and_an_older_device_is_not_shut_out_by_it() -> None:
    with pytest.raises(BadInputError):
        Policy.from_wire({"doze": "always"})
    assert "doze" not in Policy().to_wire_second()
    assert Policy(doze="unseen").to_wire_second()["doze"] == "unseen"
