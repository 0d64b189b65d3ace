"""The loop that looks after everything by the clock."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from twofold.agent.registry import Registry
from twofold.agent.rooms import Rooms
from twofold.agent.supervision import IDLE, Supervision
from twofold.agent.workspace import Workspace
from twofold.model.errors import NotFoundError
from twofold.model.lease import Lease
from twofold.model.policy import Policy
from twofold.platform.dirs import Dirs


class _Asking:
    """Contact that wants another heartbeat while it is still at one, as a receipt does that is ready at once."""

    wanted = True

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.beats, self._meanwhile = 0, meanwhile
        self.twice = asyncio.Event()
        self.supervision: Supervision | None = None

    async def beat(self) -> int:
        self.beats += 1
        if self.beats == 1 and self.supervision is not None:
            self.supervision.beat_soon()
        if self.beats == 2:
            self.twice.set()
        self._meanwhile()
        return int(time.time())


async def _beats(contact: _Asking, here: list[Workspace]) -> int:
    async def none(_: Workspace) -> bool:
        return False

    async def erase(_: Workspace) -> None: ...

    contact.supervision = Supervision(lambda: here, lambda _: None, contact, none, erase)
    loop = asyncio.create_task(contact.supervision.run())
    contact.supervision.beat_soon()
    async with asyncio.timeout(IDLE / 2):
        twice = asyncio.create_task(contact.twice.wait())
        await asyncio.wait({loop, twice}, return_when=asyncio.FIRST_COMPLETED)
        if loop.done():
            loop.result()
    loop.cancel()
    return contact.beats


@pytest.fixture
def leaving(tmp_path: Path) -> tuple[Workspace, list[Any]]:
    """A workspace, and what is told of it."""
    dirs = Dirs(tmp_path / "state", tmp_path / "cache", tmp_path / "runtime")
    for folder in (dirs.state, dirs.cache, dirs.runtime):
        folder.mkdir()
    told: list[Any] = []
    registry = Registry(dirs, Rooms(dirs), told.append)
    ws = registry.make("work")
    registry.store.create("work")
    ws.lease = Lease("work", "Acme", "blue", "alex", "a" * 64, 3, "business", 2, int(time.time()), 0, Policy())
    ws.note(contacted_at=1)
    registry.add(ws)
    return ws, told


def test_a_heartbeat_outlives_a_workspace_that_leaves_meanwhile(leaving: tuple[Workspace, list[Any]]) -> None:
    ws, told = leaving

    def leave() -> None:
        ws.store.destroy("work")  # it is still listed: who removes it takes it from the list next
        told.clear()

    assert asyncio.run(_beats(_Asking(leave), [ws])) == 2
    assert not told, "nothing more is told of what has left"
    with pytest.raises(NotFoundError, match="no workspace work"):
        ws.keep(contacted_at=2)
    assert not ws.folder.exists()


def test_a_disk_that_fails_at_a_heartbeat_does_not_end_the_agent() -> None:
    def fails() -> None:
        if contact.beats == 1:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    contact = _Asking(fails)
    assert asyncio.run(_beats(contact, [])) == 2


def test_what_is_asked_for_during_a_heartbeat_is_not_forgotten() -> None:
    assert asyncio.run(_beats(_Asking(), [])) == 2
