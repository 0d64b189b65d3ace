"""A guest that was stopped for want of what is with the server: said, and let go on when that answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from twofold.agent.rest import Rest
from twofold.agent.store import Record
from twofold.model.errors import UnreachableError
from twofold.model.workspace import Custody, RunState


class Stopped:
    """A workspace whose QEMU says that a disk has failed it."""

    def __init__(self) -> None:
        self.name, self.title, self.guest, self.wrong, self.folder = "work", "Work", None, None, Path("/none")
        self.record = Record(custody=Custody.CHECKED_OUT, run=RunState.RUNNING)
        self.error: dict[str, str] | None = None
        self.status, self.left = "io-error", 2
        self.failed: UnreachableError | None = UnreachableError("The server does not answer.")
        self.machine = self
        self.vault = SimpleNamespace(away=lambda: self.failed, fill=self.fill)
        self.rooms = SimpleNamespace(vault=SimpleNamespace(afar=lambda _: (1, 2) if self.left else None))
        self.told: list[object] = []

    def fill(self, _: object) -> bool:
        if self.failed is not None:
            raise self.failed
        self.left -= 1
        return self.left > 0

    async def stats(self) -> Any:
        return SimpleNamespace(status=self.status)

    async def resume(self) -> None:
        self.status = "running"

    def become(self, run: RunState, error: dict[str, str] | None) -> None:
        self.record, self.error = Record(custody=Custody.CHECKED_OUT, run=run), error

    def awaited(self, rest: object) -> None:
        self.told.append(rest)


async def _whole() -> None:
    ws = Stopped()
    rest = Rest(lambda: cast("Any", [ws]))
    assert await rest.stopped(cast("Any", ws))
    assert ws.record.run is RunState.PAUSED
    assert ws.error is not None
    assert "a part of it is not on this device yet. The server does not answer." in ws.error["happened"]
    running = asyncio.ensure_future(rest.run())
    await asyncio.sleep(0.3)
    assert ws.status == "io-error", "the server is away still"
    ws.failed = None
    async with asyncio.timeout(10):
        while ws.left or ws.told[-1] is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert [ws.status, str(ws.record.run), ws.error] == ["running", "running", None]
    assert ws.told[-1] is None, "all of it is here"
    assert not await rest.stopped(cast("Any", ws)), "what stops it now is something else"
    running.cancel()


def test_it_is_paused_and_goes_on_by_itself() -> None:
    asyncio.run(_whole())
