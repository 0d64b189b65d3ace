"""The agent API's wire: what a peer may send, what it gets back, and that no peer holds up another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.agent import api
from twofold.agent.api import Answer, Listener, Verb, arguments
from twofold.agent.client import Client, Watch
from twofold.model.errors import (
    ConflictError,
    NoRoomError,
    TimedOutError,
    TwofoldError,
    UnreachableError,
    UsageError,
)


class Served:
    """A listener on a loop in a thread of its own, with a few verbs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.thread.start()
        assert self.ready.wait(5)

    async def _run(self) -> None:
        async def echo(text: str, count: int) -> Answer:
            return Answer({"text": text * count})

        async def refuse() -> Answer:
            raise NoRoomError("The disk is full.", safe="Nothing was lost.", next="Free some space.")

        async def surprise() -> Answer:
            raise ZeroDivisionError("secret detail")

        async def slow() -> Answer:
            await asyncio.sleep(30)
            return Answer()

        async def give(workspace: str) -> Answer:
            del workspace
            ours, theirs = socket.socketpair()
            ours.sendall(b"hello")
            ours.close()
            return Answer({}, give=(theirs,))

        async def watch() -> Answer:
            return Answer()

        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
        self.listener = Listener(
            self.path,
            {
                "echo": Verb(echo, {"text": (str, ...), "count": (int, 1)}),
                "refuse": Verb(refuse), "surprise": Verb(surprise), "slow": Verb(slow),
                "display": Verb(give, {"workspace": (str, "")}),
                "watch": Verb(watch, stream=True),
            },
        )  # fmt: skip
        serving = self.loop.create_task(self.listener.serve())
        self.ready.set()
        await self.over.wait()
        serving.cancel()
        await self.listener.close()

    def tell(self, event: dict[str, Any]) -> None:
        self.loop.call_soon_threadsafe(self.listener.tell, event)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(tmp_path / "agent.sock")
    yield server
    server.close()


def raw(served: Served) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    sock.connect(str(served.path))
    return sock


def until_closed(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while block := sock.recv(65536):
            data += block
    return data


def test_a_call_is_answered_and_an_error_keeps_its_kind(served: Served) -> None:
    with Client(served.path) as client:
        assert client.call("echo", text="ab", count=2) == {"text": "abab"}
        with pytest.raises(NoRoomError) as failed:
            client.call("refuse")
        assert (failed.value.safe, failed.value.next) == ("Nothing was lost.", "Free some space.")
        with pytest.raises(UsageError, match="does not know"):
            client.call("run_command", command="id")
        with pytest.raises(TwofoldError) as surprise:
            client.call("surprise")
        assert "secret" not in str(surprise.value)
        assert client.call("echo", text="still") == {"text": "still"}


def test_a_descriptor_comes_with_its_answer_and_none_stays_behind(served: Served) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        with Client(served.path) as client, client.display("work") as stream:
            assert stream.recv(5) == b"hello"
    end = time.monotonic() + 5
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < end:  # noqa: PTH208
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_events_reach_watchers_in_order_and_callers_not_at_all(served: Served) -> None:
    with Client(served.path) as client, Watch(served.path) as watch:
        for number in range(50):
            served.tell({"event": "workspace", "n": number})
        seen = [watch.one(time.monotonic() + 5) for _ in range(50)]
        assert [event["n"] for event in seen if event] == list(range(50))
        assert watch.ready() == []
        assert client.call("echo", text="x") == {"text": "x"}
        assert client.event(time.monotonic()) is None


def test_a_slow_verb_holds_up_nobody_and_the_caller_gives_up_in_time(served: Served) -> None:
    with Client(served.path) as slow, Client(served.path) as other:
        with pytest.raises(TimedOutError):
            slow.call("slow", deadline=0.2)
        assert other.call("echo", text="x") == {"text": "x"}
        assert slow.call("echo", text="y") == {"text": "y"}


def test_the_client_says_when_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="not running"):
        Client(tmp_path / "nothing.sock")


@pytest.mark.parametrize(
    "line",
    [
        b"\n", b"{}\n", b"[]\n", b"null\n", b"not json\n", b'{"id":1}\n', b'{"id":true,"do":"echo"}\n',
        b'{"id":-1,"do":"echo"}\n', b'{"id":1e9,"do":"echo"}\n', b'{"id":1,"do":["echo"]}\n', b"\xff\xfe\n",
        b'{"id":1,"do":"echo","args":[]}\n', b"[" * 5000 + b"\n", b'{"id":1,"do":"echo","args":{"text":1}}\n',
        b'{"id":1,"do":"echo","args":{"text":"a\\u001bb"}}\n', b'{"id":1,"do":"echo","args":{"text":"a","count":1e400}}\n',
    ],
)  # fmt: skip
def test_a_malformed_line_is_answered_with_an_error_and_the_next_is_heard(served: Served, line: bytes) -> None:
    with raw(served) as sock:
        sock.sendall(line + b'{"id":7,"do":"echo","args":{"text":"x"}}\n')
        lines = sock.makefile("rb")
        answers = {(answer := json.loads(lines.readline()))["id"]: answer for _ in range(2)}
        lines.close()
    assert answers.pop(7)["ok"] == {"text": "x"}
    assert next(iter(answers.values()))["error"]["code"] in ("bad-input", "usage")


def test_a_peer_that_only_sends_rubbish_is_let_go(served: Served) -> None:
    with raw(served) as sock:
        with contextlib.suppress(OSError):
            for _ in range(api.MALFORMED * 4):
                sock.sendall(b"rubbish\n")
                time.sleep(0.001)
        assert until_closed(sock).count(b"bad-input") <= api.MALFORMED * 4
    with Client(served.path) as client:
        assert client.call("echo", text="x") == {"text": "x"}


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_past_the_limit_ends_the_connection(served: Served, end: bytes) -> None:
    with raw(served) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(b"x" * (api.LINE_LIMIT + 10) + end)
        said = until_closed(sock)
    assert b"at most" in said or said == b""
    with Client(served.path) as client:
        assert client.call("echo", text="x") == {"text": "x"}


def test_a_line_that_never_ends_is_not_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "LINE_SECONDS", 0.3)
    with raw(served) as sock:
        sock.sendall(b'{"id":1,')
        assert until_closed(sock) == b""
    with raw(served) as idle:  # but a peer that says nothing at all may stay: a switcher does
        time.sleep(0.6)
        idle.sendall(b'{"id":1,"do":"echo","args":{"text":"x"}}\n')
        assert b'"text": "x"' in idle.recv(4096)


def test_descriptors_that_a_peer_sends_along_are_dropped(served: Served) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with raw(served) as sock, Path("/dev/null").open() as null:
        for _ in range(20):
            socket.send_fds(sock, [b'{"id":1,"do":"echo","args":{"text":"x"}}\n'], [null.fileno()] * 200)
            assert sock.recv(4096)
        assert len(os.listdir("/proc/self/fd")) <= before + 4  # noqa: PTH208


def test_connections_are_bounded_and_one_that_ends_makes_room(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "CONNECTIONS", 3)
    with contextlib.ExitStack() as open_ones:
        clients = [open_ones.enter_context(Client(served.path)) for _ in range(3)]
        for client in clients:
            client.call("echo", text="x")
        with raw(served) as refused:
            assert until_closed(refused) == b""
        clients[0].close()
        time.sleep(0.2)
        with Client(served.path) as late:
            assert late.call("echo", text="x") == {"text": "x"}


def test_a_watcher_that_does_not_read_is_let_go(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "SEND_SECONDS", 0.5)
    with Watch(served.path) as watch:
        for number in range(api.OUTBOX * 3):
            served.tell({"event": "workspace", "n": number, "pad": "x" * 2000})
        time.sleep(1)
        with pytest.raises(UnreachableError):
            for _ in range(api.OUTBOX * 3):
                watch.one(time.monotonic() + 5)
    with Client(served.path) as client:
        assert client.call("echo", text="x") == {"text": "x"}


def test_another_user_is_refused_before_a_byte_is_read(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with raw(served) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(b'{"id":1,"do":"echo","args":{"text":"x"}}\n')
        assert until_closed(sock) == b""


_VERB = Verb(lambda: None, {"text": (str, ...), "count": (int, 1), "wait": (float, 0.0), "yes": (bool, False)})  # type: ignore[arg-type,return-value]


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=4))
def test_arguments_of_any_shape_are_taken_or_refused(untrusted_value: object) -> None:
    for name in ("text", "count", "wait", "yes", "more"):
        try:
            args = arguments(_VERB, {"text": "x", name: untrusted_value})
        except UsageError:
            continue
        assert {key: type(value) for key, value in args.items() if key != "wait"} == {
            "text": str,
            "count": int,
            "yes": bool,
        }
        assert isinstance(args["wait"], int | float) and args["wait"] == args["wait"]
    with pytest.raises(UsageError):
        arguments(_VERB, untrusted_value)


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(UsageError, match="text is missing"):
        arguments(_VERB, {})
    with pytest.raises(UsageError, match=r"Unknown arguments: more\."):
        arguments(_VERB, {"text": "x", "more": 1})


def test_an_operation_is_followed_to_its_end(tmp_path: Path) -> None:
    """`follow` against the real queue: it sees progress, and raises what the work failed with."""
    from twofold.agent.operations import Operation, Operations

    ready = threading.Event()
    ends: list[Any] = []

    async def run() -> None:
        holder: list[Listener] = []

        def tell(op: Operation) -> None:
            holder[0].tell({"event": "operation"} | op.to_wire())

        operations = Operations(tell)

        async def work(op: Operation) -> dict[str, Any]:
            for done in range(5):
                op.progress("copying", done, 4)
                await asyncio.sleep(0.02)
            if op.args["fail"]:
                raise ConflictError("It runs already.", safe="Nothing was changed.")
            return {"bytes": 4}

        async def start(fail: bool) -> Answer:
            return Answer(operations.submit("start", "a", {"fail": fail}, work).to_wire())

        async def job(operation: str) -> Answer:
            return Answer(operations.get(operation).to_wire())

        async def watch() -> Answer:
            return Answer()

        listener = Listener(
            tmp_path / "agent.sock",
            {
                "start": Verb(start, {"fail": (bool, False)}), "job": Verb(job, {"operation": (str, ...)}),
                "watch": Verb(watch, stream=True),
            },
        )  # fmt: skip
        holder.append(listener)
        over = asyncio.Event()
        ends.append((asyncio.get_running_loop(), over))
        serving = asyncio.create_task(listener.serve())
        ready.set()
        await over.wait()
        serving.cancel()
        await listener.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(5)
    try:
        with Client(tmp_path / "agent.sock") as client:
            seen = list(client.follow(client.call("start")))
            assert seen[-1]["state"] == "done"
            assert seen[-1]["result"] == {"bytes": 4}
            assert any(each["step"] == "copying" for each in seen)
            with pytest.raises(ConflictError, match="runs already"):
                client.finish("start", fail=True)
    finally:
        loop, over = ends[0]
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
