"""Notifications at the agent: what the policy of this moment lets through, from a guest that says more, floods, or lies."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.test_channel import _JSON
from twofold.agent import untrusted
from twofold.agent.guest import Guest
from twofold.agent.notices import BURST, EVENTS, MAX_OPEN, Notices
from twofold.model.errors import TwofoldError
from twofold.model.lease import Lease
from twofold.model.policy import Policy

APPS = [{"id": "org.xfce.mousepad", "name": "Mousepad", "comment": "", "keywords": "", "icon": ""}]
SECRET = "the merger is on Friday"


class World:
    """A workspace's notifications between a lease, a guest on a real socket, and what a switcher hears."""

    def __init__(self) -> None:
        self.policy = Policy()
        self.heard: list[Mapping[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.apps = APPS
        self.old = False
        self.naming = asyncio.Event()  # clear it: the guest takes its time to name its applications
        self.naming.set()
        self.guest: Guest | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None
        self.notices = Notices("work", self._lease, lambda: self.guest, self.heard.append, self._go)

    def _lease(self) -> Any:
        return dataclasses.replace(_LEASE, policy=self.policy)

    def _go(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @asynccontextmanager
    async def up(self, path: Path) -> AsyncIterator[World]:
        server = await asyncio.start_unix_server(self._talk, path)
        self.guest = Guest(path, self._says)
        self.guest.start()
        try:
            await self.until(lambda: self.levels() != [] or self.old)
            yield self
        finally:
            await self.guest.close()
            server.close()

    def _says(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "state":
            self.notices.follow()
        elif event["event"] in EVENTS:
            self.notices.heard(event)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        try:
            await reader.readline()
            while line := await reader.readline():
                asked = json.loads(line)
                self.asked.append(asked)
                if asked["do"] == "apps":
                    await self.naming.wait()
                ok = {"hello": {"agent": "1", "features": [], "boot": "b" * 36, "session": True}, "time": {"unix_ms": 5},
                      "apps": {"apps": self.apps}}  # fmt: skip
                answer: dict[str, Any] = {"v": 1, "id": asked["id"], "ok": ok.get(asked["do"], {})}
                if self.old and asked["do"] == "notices":
                    answer = {"v": 1, "id": asked["id"], "error": {"code": "unknown-verb", "text": "No."}}
                writer.write(json.dumps(answer).encode() + b"\n")
        finally:
            writer.close()

    def levels(self) -> list[str]:
        """Which levels the guest was told."""
        return [asked["level"] for asked in self.asked if asked["do"] == "notices"]

    def post(self, number: int = 1, **fields: Any) -> None:
        """As a guest that does not keep to what it was told."""
        assert self._writer is not None
        words = {"app": "org.xfce.mousepad", "summary": SECRET, "body": SECRET}
        event = {"v": 1, "event": "notice", "notice": number} | words | fields
        self._writer.write(json.dumps(event).encode() + b"\n")

    async def until(self, check: Any) -> None:
        async with asyncio.timeout(5):
            while not check():  # noqa: ASYNC110 - the listener is a plain call
                await asyncio.sleep(0.005)

    async def settle(self) -> None:
        """All that was sent has been heard."""
        assert self.guest is not None
        await self.guest.call("ping")
        while self._tasks:
            await asyncio.wait(set(self._tasks), timeout=5)


_LEASE = Lease.__new__(Lease)  # nothing of it is looked at but its policy
for _each in dataclasses.fields(Lease):
    object.__setattr__(_LEASE, _each.name, 0)


def go(path: Path, level: str, steps: Any, *, old: bool = False) -> World:
    async def run() -> World:
        world = World()
        world.policy, world.old = Policy(notifications=level), old
        async with world.up(path / "s"):
            await steps(world)
        return world

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("level", "told"),
    [("none", []), ("app", [("Mousepad", "", "")]), ("full", [("Mousepad", SECRET, SECRET)])],
)
def test_no_more_gets_through_than_the_policy_says(
    tmp_path: Path, level: str, told: list[tuple[str, str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    async def steps(world: World) -> None:
        world.post()
        await world.settle()

    caplog.set_level(logging.DEBUG)
    world = go(tmp_path, level, steps)
    assert [(each["name"], each["summary"], each["body"]) for each in world.heard] == told
    assert world.levels() == [level], "the guest is told"
    assert SECRET not in caplog.text and "merger" not in str(caplog.records)
    assert (SECRET in json.dumps(world.heard)) is (level == "full")


def test_an_application_is_named_by_what_the_guest_called_it_first(tmp_path: Path) -> None:
    async def steps(world: World) -> None:
        world.post(1)
        await world.settle()
        world.apps = [APPS[0] | {"name": SECRET}]
        world.post(2)
        world.post(3, app="the.merger.is.on.Friday")
        await world.settle()

    world = go(tmp_path, "app", steps)
    assert [(each["app"], each["name"]) for each in world.heard] == [("org.xfce.mousepad", "Mousepad")] * 2 + [("", "")]
    assert "riday" not in json.dumps(world.heard)


def test_a_policy_that_lets_less_through_takes_back_what_is_shown_and_the_guest_hears_of_it(tmp_path: Path) -> None:
    async def steps(world: World) -> None:
        world.post(1)
        await world.settle()
        world.policy = Policy(notifications="app")
        world.post(2)  # before anybody has looked: the policy of now holds all the same
        await world.settle()
        assert (world.heard[1]["notice"], world.heard[1]["summary"]) == (2, "")
        world.notices.follow()
        await world.settle()
        world.policy = Policy()
        world.post(3)
        world.notices.follow()
        world.post(4)
        await world.settle()

    world = go(tmp_path, "full", steps)
    assert world.levels() == ["full", "app", "none"]
    gone = [each["notice"] for each in world.heard if each["event"] == "notice-gone"]
    assert gone == [1, 2]
    assert [each["notice"] for each in world.heard if each["event"] == "notice"] == [1, 2]


def test_a_policy_that_changes_while_a_name_is_asked_for_holds(tmp_path: Path) -> None:
    async def steps(world: World) -> None:
        world.naming.clear()
        world.post()
        await world.until(lambda: any(asked["do"] == "apps" for asked in world.asked))
        world.policy = Policy()
        world.naming.set()
        await world.settle()

    assert go(tmp_path, "full", steps).heard == []


def test_a_guest_that_floods_is_heard_a_little(tmp_path: Path) -> None:
    async def steps(world: World) -> None:
        for number in range(1, 2000):
            world.post(number)
        await world.settle()
        assert world.guest is not None and world.guest.up, "too much is no offence"

    world = go(tmp_path, "full", steps)
    assert BURST <= len(world.heard) <= BURST + 5


def test_only_so_many_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps(world: World) -> None:
        monkeypatch.setattr(world.notices, "_spend", lambda: True)
        for number in range(1, MAX_OPEN + 4):
            world.post(number)
            await world.settle()

    world = go(tmp_path, "full", steps)
    assert [each["notice"] for each in world.heard if each["event"] == "notice-gone"] == [1, 2, 3]


def test_an_older_guest_that_knows_nothing_of_it_is_asked_once(tmp_path: Path) -> None:
    async def steps(world: World) -> None:
        await world.until(lambda: world.levels() == ["full"])
        for _ in range(3):
            await world.settle()
            world.notices.follow()
        await world.settle()

    assert go(tmp_path, "full", steps, old=True).levels() == ["full"]


def test_a_switcher_that_comes_later_is_told_and_nobody_is_told_twice(tmp_path: Path) -> None:
    async def steps(world: World) -> None:
        for number in (1, 2, 1):
            world.post(number)
            await world.settle()
        assert [each["notice"] for each in world.heard] == [1, 2], "the same words are no news"
        world.notices.again()
        world.post(1, summary="other")
        await world.settle()

    world = go(tmp_path, "full", steps)
    assert [(each["notice"], each["summary"]) for each in world.heard[2:]] == [(2, SECRET), (1, SECRET), (1, "other")]


def test_a_session_that_ends_takes_its_notifications_along(tmp_path: Path) -> None:
    async def steps(world: World) -> None:
        world.post(7)
        await world.settle()
        assert world._writer is not None
        world._writer.write(b'{"v":1,"event":"session","up":false}\n')
        await world.until(lambda: len(world.heard) == 2)

    assert go(tmp_path, "full", steps).heard[1]["event"] == "notice-gone"


def test_a_machine_that_ends_takes_its_notifications_along(tmp_path: Path) -> None:
    async def steps(world: World) -> None:
        world.post(7)
        await world.settle()
        guest, world.guest = world.guest, None
        world.notices.follow()
        world.guest = guest

    world = go(tmp_path, "full", steps)
    assert [each["event"] for each in world.heard] == ["notice", "notice-gone"]


def test_a_tap_and_its_answer_go_through(tmp_path: Path) -> None:
    async def steps(world: World) -> None:
        assert world.guest is not None
        with pytest.raises(TwofoldError):
            await world.guest.call("tapped", notice=7)  # this guest's answer lacks the token
        assert await world.guest.call("dismissed", notice=7) == {}

    assert [each["notice"] for each in go(tmp_path, "full", steps).asked if "notice" in each] == [7, 7]


@given(st.sampled_from(sorted(untrusted.EVENTS)), _JSON)
def test_any_event_is_checked_or_refused(name: str, document: object) -> None:
    fields = document if isinstance(document, dict) else {"notice": document, "app": document, "summary": document}
    try:
        checked = untrusted.event({"v": 1, **fields, "event": name})
    except untrusted.Malformed:
        return
    assert checked.keys() == untrusted.EVENTS[name].keys() | {"event"}


@given(st.text(max_size=500), st.text(max_size=500), st.integers())
@example("s" * 121, "", 1)
@example("", "b" * 401, 1)
@example("s", "a\u202eb\n\x1b[31m", 1)
@example("s", "b", 1 << 32)
def test_words_are_short_and_printable_or_refused(summary: str, body: str, number: int) -> None:
    try:
        event = untrusted.event({"event": "notice", "notice": number, "app": "", "summary": summary, "body": body})
    except untrusted.Malformed:
        assert len(summary) > 120 or len(body) > 400 or not 0 < number < 1 << 32
        return
    assert event["summary"].isprintable() and event["body"].isprintable()
    assert len(event["summary"]) <= 120 and len(event["body"]) <= 400
