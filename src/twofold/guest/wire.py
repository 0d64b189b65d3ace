"""The guest's end of the channel protocol (docs/protocol.md, chapter 1): lines in, lines out, all of them bounded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

VERSION = 1
MAX_LINE = 131_072
MAX_ID = 1 << 53


class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure of ours
    """A verb that cannot be done; `code` for programs, `text` for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


@dataclass(frozen=True)
class Request:
    id: int
    verb: str
    args: Mapping[str, Any]


class Lines:
    """Cuts a stream of bytes into lines. What is longer than a line may be is dropped up to its end, and counted."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._skipping = False
        self.dropped = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        for piece in _split(data):
            whole = piece.endswith(b"\n")
            if self._skipping:
                self._skipping = not whole
                continue
            self._rest += piece
            if len(self._rest) > MAX_LINE:
                self.dropped += 1
                self._rest.clear()
                self._skipping = not whole
            elif whole:
                line = bytes(self._rest)
                self._rest.clear()
                yield line

    def reset(self) -> None:
        """Forget a half line: its sender is gone."""
        self._rest.clear()
        self._skipping = False


def _split(data: bytes) -> list[bytes]:
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def parse(line: bytes) -> Request | None:
    """A request, or None for a line that is not one."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or message.get("v") != VERSION:
        return None
    number, verb = message.get("id"), message.get("do")
    if type(number) is not int or not 0 <= number < MAX_ID or not isinstance(verb, str) or len(verb) > 32:
        return None
    return Request(number, verb, {key: value for key, value in message.items() if key not in ("v", "id", "do")})


def answer(number: int, ok: Mapping[str, Any]) -> bytes:
    return _line({"v": VERSION, "id": number, "ok": ok})


def refusal(number: int, code: str, text: str) -> bytes:
    return _line({"v": VERSION, "id": number, "error": {"code": code, "text": text[:500]}})


def event(name: str, **fields: Any) -> bytes:
    return _line({"v": VERSION, "event": name, **fields})


def _line(message: Mapping[str, Any]) -> bytes:
    line = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    if len(line) > MAX_LINE:
        if "id" in message:
            return refusal(int(message["id"]), "too-large", "The answer is longer than a line may be.")
        raise ValueError("event too long")
    return line


def integer(args: Mapping[str, Any], name: str, low: int, high: int) -> int:
    """An argument that must be a whole number within bounds.

    Raises:
        Refusal: it is not.
    """
    value = args.get(name)
    if type(value) is not int or not low <= value <= high:
        raise Refusal("bad-argument", f"{name} must be a whole number from {low} to {high}.")
    return value


def text(args: Mapping[str, Any], name: str, limit: int) -> str:
    """An argument that must be short text.

    Raises:
        Refusal: it is not.
    """
    value = args.get(name)
    if not isinstance(value, str) or len(value) > limit:
        raise Refusal("bad-argument", f"{name} must be text of at most {limit} characters.")
    return value
