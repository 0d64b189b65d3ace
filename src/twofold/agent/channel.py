"""The host's end of the guest channel (docs/protocol.md, chapter 1). The guest is untrusted: nothing it says gets through
unchecked, nothing it sends grows without bound, and after MAX_MALFORMED lines that are not the protocol it is cut off."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twofold.agent import untrusted
from twofold.model.errors import (
    BadInputError,
    ConflictError,
    NotFoundError,
    TimedOutError,
    TwofoldError,
    UnreachableError,
)

VERSION = 1
MAX_LINE = 131_072
MAX_MALFORMED = 64
MAX_ID = 1 << 53
_READ = 65_536

log = logging.getLogger(__name__)
OnEvent = Callable[[Mapping[str, Any]], None]

_KINDS: dict[str, type[TwofoldError]] = {
    "not-found": NotFoundError,
    "no-session": ConflictError,
    "bad-argument": BadInputError,
    "bad-layout": BadInputError,
}


class GuestChannel:
    """One conversation with a guest's agent, over the Unix socket that QEMU listens on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_event: OnEvent) -> None:
        self._reader, self._writer, self._on_event = reader, writer, on_event
        self._asked: dict[int, tuple[str, Mapping[str, Any], asyncio.Future[dict[str, Any]]]] = {}
        self._task: asyncio.Task[None] | None = None
        self.malformed = 0
        self.stale = 0

    @classmethod
    async def connect(cls, path: Path, on_event: OnEvent, *, timeout: float = 5) -> GuestChannel:  # noqa: ASYNC109
        """Connect to the socket at `path`. `on_event` gets each checked event as `{"event": name, …}`.

        Raises:
            UnreachableError: nobody listens there.
        """
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_unix_connection(str(path), limit=MAX_LINE)
        except (OSError, TimeoutError) as why:
            raise UnreachableError(
                "The machine's channel cannot be reached.",
                safe="Its disks are safe.",
                next="See whether it still runs.",
            ) from why
        writer.write(b"\n")  # ends what a former host may have left in the middle of a line
        channel = cls(reader, writer, on_event)
        channel._task = asyncio.get_running_loop().create_task(channel._listen())
        return channel

    @property
    def closed(self) -> bool:
        return self._task is None or self._task.done()

    async def call(self, verb: str, *, timeout: float, **args: Any) -> dict[str, Any]:  # noqa: ASYNC109
        """Ask the guest and return its checked answer. `timeout` in seconds always holds.

        Raises:
            TimedOutError: no answer in time. UnreachableError: the channel is or was closed. BadInputError: the answer, or an
            argument, is not valid. NotFoundError, ConflictError, TwofoldError: the guest refuses.
        """
        if self.closed:
            raise _closed()
        number = secrets.randbelow(MAX_ID)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = (verb, args, future)
        try:
            async with asyncio.timeout(timeout):
                line = (
                    json.dumps({"v": VERSION, "id": number, "do": verb, **args}, separators=(",", ":")).encode() + b"\n"
                )
                if len(line) > MAX_LINE:
                    raise BadInputError("That is more than a guest can be told at once.")
                self._writer.write(line)
                await self._writer.drain()
                return await future
        except TimeoutError as late:
            raise TimedOutError(f"The system inside did not answer '{verb}' within {timeout:g} s.") from late
        except ConnectionError as gone:
            raise _closed() from gone
        finally:
            del self._asked[number]
            if future.done() and not future.cancelled():
                future.exception()  # seen, even where a deadline came first

    async def close(self) -> None:
        """End the conversation; calls under way end with UnreachableError. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _listen(self) -> None:
        rest = bytearray()
        skipping = False
        try:
            while self.malformed < MAX_MALFORMED:
                untrusted_bytes = await self._reader.read(_READ)
                if not untrusted_bytes:
                    return
                *whole, last = untrusted_bytes.split(b"\n")
                for piece in whole:
                    if not skipping:
                        self._line(bytes(rest + piece))
                    rest.clear()
                    skipping = False
                if not skipping:
                    rest += last
                if len(rest) >= MAX_LINE:
                    self._bad("a line without end")
                    rest.clear()
                    skipping = True
            log.warning("guest channel closed: %d malformed lines", self.malformed)
        except ConnectionError:
            pass  # as an end of file: the machine is gone
        finally:
            self._writer.close()
            for _, _, future in self._asked.values():
                if not future.done():
                    future.set_exception(_closed())

    def _line(self, untrusted_line: bytes) -> None:
        if self.malformed >= MAX_MALFORMED or not untrusted_line.strip():
            return
        if len(untrusted_line) >= MAX_LINE:
            self._bad("too long")
            return
        try:
            untrusted_message = json.loads(untrusted_line)
        except (ValueError, RecursionError):
            self._bad("not JSON")
            return
        if not isinstance(untrusted_message, dict) or untrusted_message.get("v") != VERSION:
            self._bad("not a message of ours")
        elif "event" in untrusted_message:
            self._event(untrusted_message)
        else:
            self._answer(untrusted_message)

    def _event(self, untrusted_message: dict[str, Any]) -> None:
        try:
            event = untrusted.event(untrusted_message)
        except untrusted.Malformed as why:
            self._bad(str(why))
            return
        try:
            self._on_event(event)
        except Exception:
            log.exception("an event's listener failed")

    def _answer(self, untrusted_message: dict[str, Any]) -> None:
        number = untrusted_message.get("id")
        if type(number) is not int:
            self._bad("an answer without id")
            return
        asked = self._asked.get(number)
        if asked is None or asked[2].done():
            self.stale += 1  # of a former conversation, or too late
            return
        verb, args, future = asked
        try:
            if "error" in untrusted_message:
                code, text = untrusted.error(untrusted_message["error"])
                future.set_exception(_KINDS.get(code, TwofoldError)(f"The system inside says: {text}"))
            else:
                future.set_result(untrusted.answer(verb, untrusted_message.get("ok"), args))
        except untrusted.Malformed as why:
            self._bad(str(why))
            future.set_exception(BadInputError(f"The system inside answered '{verb}' with something not valid: {why}."))

    def _bad(self, why: str) -> None:
        self.malformed += 1
        log.info("guest channel: malformed line %d: %s", self.malformed, why)


def _closed() -> UnreachableError:
    return UnreachableError("The channel to the system inside is closed.", safe="What it wrote to its disks is safe.")
