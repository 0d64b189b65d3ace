"""What is asked of a guest just after a start waits a moment for it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from twofold.agent import guest
from twofold.agent.guest import Guest
from twofold.model.errors import ConflictError


async def _serve(path: Path, silent_for: float) -> asyncio.Server:
    """A guest that says nothing at first and then answers everything."""
    awake = asyncio.get_running_loop().time() + silent_for

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            assert await reader.readline() == b"\n"
            while line := await reader.readline():
                await asyncio.sleep(max(0, awake - asyncio.get_running_loop().time()))
                asked = json.loads(line)
                ok = {
                    "hello": {"agent": "1", "features": [], "boot": "b" * 36, "session": True},
                    "time": {"unix_ms": 5},
                }
                answer = {"v": 1, "id": asked["id"], "ok": ok.get(asked["do"], {})}
                writer.write(json.dumps(answer).encode() + b"\n")
        finally:
            writer.close()

    return await asyncio.start_unix_server(talk, path)


async def _ask_at_once(path: Path, silent_for: float) -> None:
    server = await _serve(path, silent_for)
    asked = Guest(path, lambda event: None)
    asked.start()
    try:
        assert await asked.call("time", unix_ms=0) == {"unix_ms": 5}
    finally:
        await asked.close()
        server.close()


def test_a_call_right_after_the_start_waits_for_the_first_answer(tmp_path: Path) -> None:
    asyncio.run(_ask_at_once(tmp_path / "s", 0.3))


def test_it_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "_PATIENCE", 0.1)
    with pytest.raises(ConflictError):
        asyncio.run(_ask_at_once(tmp_path / "s", 1.0))
