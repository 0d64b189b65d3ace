"""What a vault process asks its agent for, pieces of the image that no folder has, and what it is told of them
(docs/protocol.md, chapter 4)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence

from twofold.vault.process import SOCKET, Process

_LINE = 1 << 20
_ID = 32


class Supplied:
    """The part of `twofold.vault.seam.OpenVault` that is about its base."""

    _talk: Process

    async def wants(self) -> AsyncIterator[list[bytes]]:
        try:
            reader, writer = await asyncio.open_unix_connection(self._talk.runtime / SOCKET, limit=_LINE)
        except OSError:
            return
        try:
            writer.write(b'{"id":1,"do":"watch"}\n')
            with contextlib.suppress(OSError, ValueError):  # gone, or a line without an end
                while line := await reader.readline():
                    event = json.loads(line)
                    if event.get("event") == "want":
                        ids = [bytes.fromhex(text) for text in event["ids"]]
                        yield [chunk for chunk in ids if len(chunk) == _ID]
        finally:
            writer.close()

    def arrived(self, ids: Sequence[bytes]) -> None:
        self._talk.call("arrived", {"ids": [chunk.hex() for chunk in ids]})

    def absent(self, ids: Sequence[bytes], why: str) -> None:
        self._talk.call("absent", {"ids": [chunk.hex() for chunk in ids], "why": why})

    def touched(self) -> list[tuple[str, int, int]]:
        found: list[tuple[str, int, int]] = []
        after: int | None = 0
        while after is not None:
            answer, _ = self._talk.call("touched", {"from": after})
            found += [(str(device), int(offset), int(length)) for device, offset, length in answer["ranges"]]
            after = answer["next"]
        return found
