"""JSON's types as YAML 1.2 in block style. Strings stay as JSON writes them, which YAML reads the same: nothing is guessed at,
and no text turns into a number, a date or a `no`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def text(body: Mapping[str, Any]) -> str:
    return "\n".join(_lines(body)) + "\n"


def _lines(value: Mapping[str, Any] | Sequence[Any]) -> Iterator[str]:
    rows = value.items() if isinstance(value, Mapping) else ((None, each) for each in value)
    for key, each in rows:
        head = "-" if key is None else f"{_one(key)}:"
        if not isinstance(each, Mapping | list | tuple) or not each:
            yield f"{head} {_one(each)}"
        elif key is None:
            first, *rest = _lines(each)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
        else:
            yield head
            yield from (f"  {line}" for line in _lines(each))


def _one(value: object) -> str:
    # A newline or a tab is escaped by JSON; what YAML does not allow raw is escaped too.
    return json.dumps(value, ensure_ascii=True) if not isinstance(value, tuple) else json.dumps(list(value))
