"""Operations: one queue a workspace, once is once, cancel undoes, and an end is always told."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from twofold.agent.journal import FILE, Journal
from twofold.agent.operations import TRANSFER, Operation, Operations
from twofold.model.errors import ConflictError, NoRoomError, NotFoundError


def test_one_workspace_does_one_thing_at_a_time_and_two_do_not_wait_for_each_other() -> None:
    order: list[str] = []

    async def body() -> None:
        operations = Operations(lambda _: None)
        go = asyncio.Event()

        def work(name: str) -> Any:
            async def done(_: Operation) -> dict[str, Any]:
                order.append(f"{name} begins")
                if name == "first":
                    await go.wait()
                order.append(f"{name} ends")
                return {}

            return done

        first = operations.submit("start", "a", {}, work("first"))
        second = operations.submit("stop", "a", {}, work("second"))
        other = operations.submit("start", "b", {}, work("other"))
        await other.wait(5)
        assert (first.state, second.state, other.state) == ("running", "queued", "done")
        go.set()
        await second.wait(5)

    asyncio.run(body())
    assert order == ["first begins", "other begins", "other ends", "first ends", "second begins", "second ends"]


def test_asking_twice_is_asking_once_until_it_has_ended() -> None:
    async def body() -> None:
        operations, runs, go = Operations(lambda _: None), [], asyncio.Event()

        async def work(_: Operation) -> dict[str, Any]:
            runs.append(1)
            await go.wait()
            return {}

        once = operations.submit("start", "a", {"boot": False}, work)
        assert operations.submit("start", "a", {"boot": False}, work) is once
        other = operations.submit("start", "a", {"boot": True}, work)
        assert other is not once
        go.set()
        await other.wait(5)
        assert operations.submit("start", "a", {"boot": False}, work) is not once
        await operations.settle(5)
        assert len(runs) == 3

    asyncio.run(body())


def test_a_lane_runs_beside_the_other_and_takes_its_turn_where_it_must() -> None:
    async def body() -> None:
        operations, order = Operations(lambda _: None), list[str]()
        go, sent = asyncio.Event(), asyncio.Event()

        async def send(_: Operation) -> dict[str, Any]:
            await sent.wait()
            async with operations.turn("a"):
                order.append("sent")
            return {}

        async def work(_: Operation) -> dict[str, Any]:
            order.append("begins")
            await go.wait()
            order.append("ends")
            return {}

        sending = operations.submit("backup", "a", {}, send, "transfer")
        queued = operations.submit("checkin", "a", {}, work, "transfer")
        starting = operations.submit("start", "a", {}, work)
        await asyncio.sleep(0)
        assert operations.under_way("a", "transfer") == [sending, queued]
        assert (sending.state, queued.state, starting.state) == ("running", "queued", "running")
        sent.set()
        await asyncio.sleep(0.01)
        assert order == ["begins"], "it waits for its turn"
        go.set()
        await queued.wait(5)
        assert order == ["begins", "ends", "sent", "begins", "ends"]
        assert operations.under_way("a", "transfer") == []

    asyncio.run(body())


def test_how_fast_and_how_long_is_said_of_a_step() -> None:
    async def body() -> None:
        operations = Operations(lambda _: None)

        async def work(op: Operation) -> dict[str, Any]:
            op.whole = 5000
            op.progress("sending", 1000, 4000)
            assert (op.rate, op.left) == (0, 0), "nothing can be said yet"
            await asyncio.sleep(0.6)
            op.progress("sending", 2000, 4000)
            assert 1000 < op.rate < 1700
            assert 1 <= op.left <= 2
            return {}

        operation = operations.submit("backup", "a", {}, work)
        await operation.wait(5)
        assert operation.error is None, operation.error
        said = operation.to_wire()
        assert (said["whole"], said["rate"], said["left"]) == (5000, 0, 0)

    asyncio.run(body())


def test_cancel_in_a_thread_undoes_what_was_done() -> None:
    async def body() -> None:
        operations = Operations(lambda _: None)
        undone: list[str] = []
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def blocking(op: Operation) -> None:
            while True:
                op.progress("copying", 1, 10)
                loop.call_soon_threadsafe(begun.set)

        async def work(op: Operation) -> dict[str, Any]:
            async with AsyncExitStack() as undo:
                undo.callback(undone.append, "folder removed")
                await asyncio.to_thread(blocking, op)
            return {}

        op = operations.submit("checkout", "a", {}, work)
        await begun.wait()
        op.cancel()
        await op.wait(5)
        assert op.state == "cancelled"
        assert undone == ["folder removed"]
        op.cancel()  # twice is once

    asyncio.run(body())


def test_a_queued_operation_that_is_cancelled_never_runs() -> None:
    async def body() -> None:
        operations, go = Operations(lambda _: None), asyncio.Event()

        async def first(_: Operation) -> dict[str, Any]:
            await go.wait()
            return {}

        async def never(_: Operation) -> dict[str, Any]:
            raise AssertionError("it ran")

        operations.submit("start", "a", {}, first)
        second = operations.submit("stop", "a", {}, never)
        second.cancel()
        go.set()
        await second.wait(5)
        assert second.state == "cancelled"

    asyncio.run(body())


def test_past_the_point_of_no_return_cancel_is_refused_and_the_work_ends() -> None:
    async def body() -> None:
        operations, go, committed = Operations(lambda _: None), asyncio.Event(), asyncio.Event()

        async def work(op: Operation) -> dict[str, Any]:
            op.commit("The key is destroyed already.")
            committed.set()
            await op.or_cancelled(go.wait())
            return {"receipt": 1}

        op = operations.submit("remove", "a", {}, work)
        await committed.wait()
        with pytest.raises(ConflictError, match="key is destroyed"):
            op.cancel()
        go.set()
        await op.wait(5)
        assert (op.state, op.result) == ("done", {"receipt": 1})

    asyncio.run(body())


def test_a_wait_on_another_peer_ends_with_the_cancel() -> None:
    async def body() -> None:
        operations, waiting = Operations(lambda _: None), asyncio.Event()

        async def work(op: Operation) -> dict[str, Any]:
            waiting.set()
            await op.or_cancelled(asyncio.sleep(3600))
            return {}

        op = operations.submit("stop", "a", {}, work)
        await waiting.wait()
        op.cancel()
        await op.wait(5)
        assert op.state == "cancelled"

    asyncio.run(body())


def test_errors_are_kept_in_words_and_surprises_do_not_stop_the_queue() -> None:
    async def body() -> None:
        told: list[tuple[str, str]] = []
        operations = Operations(lambda op: told.append((op.verb, op.state)))

        async def short(_: Operation) -> dict[str, Any]:
            raise NoRoomError("The disk is full.", safe="Nothing was received.", next="Free some space.")

        async def surprise(_: Operation) -> dict[str, Any]:
            raise ZeroDivisionError

        async def fine(_: Operation) -> dict[str, Any]:
            return {"ok": True}

        a, b, c = (
            operations.submit(verb, "a", {}, work) for verb, work in (("x", short), ("y", surprise), ("z", fine))
        )
        await c.wait(5)
        assert a.error is not None and a.error.code == "no-room"
        assert a.to_wire()["error"] == {
            "code": "no-room", "happened": "The disk is full.", "safe": "Nothing was received.",
            "next": "Free some space.",
        }  # fmt: skip
        assert b.error is not None and "ZeroDivisionError" in b.error.happened
        assert c.result == {"ok": True}
        assert told.count(("x", "failed")) == told.count(("y", "failed")) == told.count(("z", "done")) == 1
        with pytest.raises(NotFoundError):
            operations.get("no such id")

    asyncio.run(body())


def test_ended_operations_do_not_pile_up() -> None:
    async def body() -> None:
        operations = Operations(lambda _: None)

        async def work(_: Operation) -> dict[str, Any]:
            return {}

        for number in range(150):
            op = operations.submit("start", "a", {"n": number}, work)
            await op.wait(5)
        assert len(operations.all()) <= 101
        assert operations.get(op.id) is op

    asyncio.run(body())


def test_what_is_paused_stands_still_and_goes_on_where_it_was(tmp_path: Path) -> None:
    async def body() -> None:
        operations = Operations(lambda _: None, Journal(tmp_path))
        sent = 0

        def send(operation: Operation) -> dict[str, Any]:
            nonlocal sent
            while sent < 400:
                sent += 1
                operation.progress("sending", sent, 400)
                time.sleep(0.005)
            return {"sent": sent}

        async def work(operation: Operation) -> dict[str, Any]:
            return await asyncio.to_thread(send, operation)

        async def other(_: Operation) -> dict[str, Any]:
            return {}

        moving = operations.submit("backup", "a", {}, work, TRANSFER)
        behind = operations.submit("upgrade", "a", {}, other, TRANSFER)
        await asyncio.sleep(0.1)
        assert [each.to_wire()["place"] for each in (moving, behind)] == [0, 1]
        moving.pause()
        moving.pause()
        await asyncio.sleep(0.1)
        stood = sent
        await asyncio.sleep(0.3)
        assert 0 < stood == sent < 400
        assert (moving.state, behind.state) == ("paused", "queued"), "its queue keeps its order"
        assert Journal(tmp_path).read()[0]["state"] == "paused"
        behind.pause()
        moving.resume()
        await moving.wait(20)
        assert (moving.state, moving.result) == ("done", {"sent": 400})
        await asyncio.sleep(0.1)
        assert behind.state == "paused", "what is paused in the queue does not begin"
        behind.resume()
        await behind.wait(5)
        assert behind.state == "done"
        third = operations.submit("backup", "b", {}, work, TRANSFER)
        third.pause()
        third.cancel()
        await third.wait(5)
        assert third.state == "cancelled", "what is paused can be cancelled"
        start = operations.submit("start", "a", {}, other)
        with pytest.raises(ConflictError, match="sends or fetches"):
            start.pause()
        await start.wait(5)

    asyncio.run(body())


def test_the_next_agent_lists_what_became_of_them_and_goes_on_under_the_same_id(tmp_path: Path) -> None:
    async def work(_: Operation) -> dict[str, Any]:
        return {"long": "x" * 5000}

    async def never(_: Operation) -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    async def refused(_: Operation) -> dict[str, Any]:
        raise NoRoomError("The disk is full.")

    async def first() -> list[dict[str, Any]]:
        operations = Operations(lambda _: None, Journal(tmp_path))
        ended = [operations.submit("start", "a", {}, work), operations.submit("stop", "a", {}, refused)]
        for each in ended:
            await each.wait(5)
        held, cut = operations.submit("backup", "a", {}, never, TRANSFER), operations.submit("suspend", "b", {}, never)
        await asyncio.sleep(0.05)
        held.pause()
        for name in ("copy", "kept"):
            (tmp_path / name).write_bytes((tmp_path / FILE).read_bytes())
        return [each.to_wire() for each in (*ended, held, cut)]

    async def second(before: list[dict[str, Any]]) -> None:
        operations = Operations(lambda _: None, Journal(tmp_path))
        operations.restore(lambda each: each.verb == "backup")
        now = [each.to_wire() for each in operations.all()]
        assert [each["operation"] for each in now] == [each["operation"] for each in before]
        assert [each["state"] for each in now] == ["done", "failed", "paused", "failed"]
        assert now[1]["error"]["code"] == "no-room"
        assert "agent ended" in now[3]["error"]["happened"]
        assert operations.under_way("a", TRANSFER) == [], "nobody does it yet"
        again = operations.submit("backup", "a", {"why": "schedule"}, work, TRANSFER)
        assert again.id == before[2]["operation"]
        await asyncio.sleep(0.05)
        assert again.state == "paused", "a person paused it"
        again.resume()
        await again.wait(5)
        assert again.state == "done"
        assert len(operations.all()) == 4

    before = asyncio.run(first())
    (tmp_path / "kept").rename(tmp_path / FILE)  # as if it had been killed at that moment
    asyncio.run(second(before))

    async def given_up() -> None:
        (tmp_path / "copy").rename(tmp_path / FILE)
        operations = Operations(lambda _: None, Journal(tmp_path))
        operations.restore(lambda each: True)
        operations.get(before[2]["operation"]).cancel()
        assert operations.get(before[2]["operation"]).state == "cancelled"
        for spoilt in (b"", b"[1]", b'{"schema":"twofold-jobs-1","operations":[{"verb":1}]}'):
            (tmp_path / FILE).write_bytes(spoilt)
            assert Journal(tmp_path).read() == []

    asyncio.run(given_up())
