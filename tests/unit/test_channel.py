"""The host's end of the guest channel against a guest that lies, mumbles, floods and dies."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import struct
import tempfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.agent import untrusted
from twofold.agent.channel import MAX_LINE, MAX_MALFORMED, GuestChannel
from twofold.model.errors import (
    BadInputError,
    ConflictError,
    NotFoundError,
    TimedOutError,
    TwofoldError,
    UnreachableError,
)

Guest = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def talk(guest: Guest, events: list[Mapping[str, Any]] | None = None) -> AsyncIterator[GuestChannel]:
    """A channel to `guest`, which speaks over a real socket."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await guest(reader, writer)
        writer.close()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c")
        server = await asyncio.start_unix_server(serve, path, limit=1 << 20)
        channel = await GuestChannel.connect(path, (events if events is not None else []).append)
        try:
            yield channel
        finally:
            await channel.close()
            server.close()


def says(make: Callable[[dict[str, Any]], bytes]) -> Guest:
    """A guest that answers every request with the bytes of `make(request)`."""

    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"\n"  # ends what a former host may have left in the middle of a line
        while line := await reader.readline():
            writer.write(make(json.loads(line)))
            await writer.drain()

    return guest


def ok(answer: object) -> Guest:
    return says(lambda request: json.dumps({"v": 1, "id": request["id"], "ok": answer}).encode() + b"\n")


def png(width: int = 16, height: int = 16) -> bytes:
    head = struct.pack(">II5B", width, height, 8, 6, 0, 0, 0)
    chunk = b"IHDR" + head
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def test_a_good_answer_comes_through() -> None:
    async def run() -> None:
        async with talk(ok({"width": 412, "height": 915, "extra": "left behind"})) as channel:
            assert await channel.call("display", timeout=5, width=412, height=915, scale=100) == {
                "width": 412, "height": 915,
            }  # fmt: skip

    asyncio.run(run())


def test_an_answer_to_another_question_is_never_taken() -> None:
    async def run() -> None:
        def stale(request: dict[str, Any]) -> bytes:
            old = {"v": 1, "id": request["id"] ^ 1, "ok": {"unix_ms": 1}}
            new = {"v": 1, "id": request["id"], "ok": {"unix_ms": 2}}
            return json.dumps(old).encode() + b"\n" + json.dumps(new).encode() + b"\n"

        async with talk(says(stale)) as channel:
            assert await channel.call("time", timeout=5, unix_ms=0) == {"unix_ms": 2}
            assert (channel.stale, channel.malformed) == (1, 0)

    asyncio.run(run())


def test_a_silent_guest_ends_in_time_and_the_channel_goes_on() -> None:
    async def run() -> None:
        async with talk(says(lambda request: b"")) as channel:
            with pytest.raises(TimedOutError):
                await channel.call("ping", timeout=0.05)
            assert not channel.closed

    asyncio.run(run())


def test_a_guest_that_goes_ends_what_waits_for_it() -> None:
    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await reader.readline()
        writer.write(b'{"v":1,"id":')  # gone in the middle of a line

    async def run() -> None:
        async with talk(guest) as channel:
            with pytest.raises(UnreachableError):
                await channel.call("ping", timeout=5)
            with pytest.raises(UnreachableError):
                await channel.call("ping", timeout=5)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("not-found", NotFoundError),
        ("no-session", ConflictError),
        ("bad-argument", BadInputError),
        ("odd", TwofoldError),
    ],
)
def test_a_refusal_is_an_error_of_its_kind(code: str, kind: type[TwofoldError]) -> None:
    refuse = says(
        lambda request: (
            json.dumps({"v": 1, "id": request["id"], "error": {"code": code, "text": "No."}}).encode() + b"\n"
        )
    )

    async def run() -> None:
        async with talk(refuse) as channel:
            with pytest.raises(kind, match="No\\."):
                await channel.call("launch", timeout=5, app="x")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("verb", "answer"),
    [
        ("hello", {"agent": "0.1.0", "features": [], "boot": "b", "session": 1}),
        ("apps", {"apps": [{"id": "../x", "name": "X", "comment": "", "keywords": "", "icon": ""}]}),
        ("apps", {"apps": [{"id": "x", "name": "\u202egpj.exe", "comment": "", "keywords": "", "icon": ""}]}),
        ("apps", {"apps": [{"id": "x", "name": "a\nb", "comment": "", "keywords": "", "icon": ""}]}),
        ("apps", {"apps": [{"id": "x", "name": "X", "comment": "", "keywords": "", "icon": "../../etc/passwd"}]}),
        ("apps", {"apps": [{"id": "x", "name": "X" * 121, "comment": "", "keywords": "", "icon": ""}]}),
        ("apps", {"apps": [{"id": "x", "name": "X", "comment": "", "keywords": "", "icon": ""}] * 513}),
        ("apps", {"apps": {}}),
        ("display", {"width": True, "height": 5}),
        ("display", {"width": 0, "height": 5}),
        ("display", {"width": 5}),
        ("windows", {"windows": [{"id": -1, "app": "", "title": "", "active": False}]}),
        ("launch", {"launch": "<script>"}),
        ("time", {"unix_ms": 1e18}),
        ("freeze", {"frozen": ["a\x1b[2J"]}),
        ("ping", None),
    ],
)
def test_an_answer_that_is_not_valid_is_refused_and_counted(verb: str, answer: object) -> None:
    async def run() -> None:
        async with talk(ok(answer)) as channel:
            with pytest.raises(BadInputError):
                await channel.call(verb, timeout=5)
            assert channel.malformed == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    "picture", [png(257, 1), png(1, 0), b"<svg/>", png() + bytes(65_536), png()[:20], b"GIF89a" + bytes(40)]
)
def test_an_icon_is_a_small_png_or_nothing(picture: bytes) -> None:
    with pytest.raises(untrusted.Malformed):
        untrusted.icon({"png": base64.b64encode(picture).decode()}, hashlib.sha256(picture).hexdigest())


def test_an_icon_is_the_one_that_was_asked_for() -> None:
    wire = {"png": base64.b64encode(png()).decode()}
    assert untrusted.icon(wire, hashlib.sha256(png()).hexdigest()) == wire
    with pytest.raises(untrusted.Malformed):
        untrusted.icon(wire, "0" * 64)


def test_events_come_through_checked() -> None:
    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b'{"v":1,"event":"session","up":true}\n{"v":1,"event":"session","up":"yes"}\n{"v":1,"event":"evil"}\n'
        )
        writer.write(b'{"v":1,"event":"window","launch":"ab","app":"x","title":"T","ms":7,"html":"<b>"}\n')
        await writer.drain()
        await reader.read()

    async def run() -> None:
        events: list[Mapping[str, Any]] = []
        async with talk(guest, events) as channel:
            async with asyncio.timeout(5):
                while len(events) < 2:  # noqa: ASYNC110 - the listener is a plain call
                    await asyncio.sleep(0.01)
            assert events == [
                {"event": "session", "up": True},
                {"event": "window", "launch": "ab", "app": "x", "title": "T", "ms": 7},
            ]
            assert channel.malformed == 2

    asyncio.run(run())


@pytest.mark.parametrize("line", [b"garbage\n", b"[" * 100_000 + b"\n", b'{"v":2}\n', b"x" * (MAX_LINE + 5) + b"\n"])
def test_a_guest_that_only_mumbles_is_cut_off(line: bytes) -> None:
    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(line)
            await writer.drain()

    async def run() -> None:
        async with talk(guest) as channel:
            assert channel._task is not None
            await asyncio.wait({channel._task}, timeout=20)
            assert channel.closed
            assert channel.malformed == MAX_MALFORMED

    asyncio.run(run())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.binary(max_size=300) | st.sampled_from([b"\n", b"\xff\xfe\n", b'{"v":1,"id":1,"ok":{}}\n']), max_size=30
    )
)
def test_no_bytes_break_it(pieces: list[bytes]) -> None:
    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
        writer.write(b"\n")
        assert await reader.readline() == b"\n"
        while line := await reader.readline():
            writer.write(json.dumps({"v": 1, "id": json.loads(line)["id"], "ok": {}}).encode() + b"\n")

    async def run() -> None:
        async with talk(guest) as channel:
            if b"".join(pieces).count(b"\n") < MAX_MALFORMED - 1:
                assert await channel.call("ping", timeout=5) == {}
            assert channel.malformed <= MAX_MALFORMED

    asyncio.run(run())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from([*untrusted.ANSWERS, "icon"]), _JSON)
def test_any_document_is_checked_or_refused(verb: str, document: object) -> None:
    try:
        checked = untrusted.answer(verb, document, {"icon": "0" * 64})
    except untrusted.Malformed:
        return
    assert checked.keys() == untrusted.ANSWERS[verb].keys()


def test_an_answer_given_twice_counts_once() -> None:
    def twice(request: dict[str, Any]) -> bytes:
        return (json.dumps({"v": 1, "id": request["id"], "ok": {}}).encode() + b"\n") * 2

    async def run() -> None:
        async with talk(says(twice)) as channel:
            for _ in range(3):
                assert await channel.call("ping", timeout=5) == {}
            assert (channel.closed, channel.malformed) == (False, 0)

    asyncio.run(run())


def test_a_guest_gets_no_clipboard_by_sending_or_by_asking() -> None:
    """Whatever the policy says, there is no such path: what it sends goes nowhere, what it asks is not answered."""
    answered: list[bytes] = []

    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"\n"
        for body in (
            {"v": 1, "event": "clipboard", "text": "from work"},
            {"v": 1, "event": "session", "up": True, "clipboard": "from work"},
            {"v": 1, "id": 1, "do": "clipboard"},
            {"v": 1, "id": 2, "do": "clipboard", "text": "from work"},
        ):
            writer.write(json.dumps(body).encode() + b"\n")
        await writer.drain()
        with contextlib.suppress(TimeoutError):
            answered.append(await asyncio.wait_for(reader.read(1), 0.5))

    async def run() -> None:
        events: list[Mapping[str, Any]] = []
        async with talk(guest, events) as channel:
            await asyncio.sleep(0.7)
            assert channel.malformed + channel.stale >= 3
        assert "from work" not in json.dumps(events, default=str)
        assert answered in ([], [b""])

    asyncio.run(run())
