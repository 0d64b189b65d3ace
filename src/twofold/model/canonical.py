"""One way to turn a document into bytes, so that a signature over it means one thing (RFC 8785's rules for our subset)."""

from __future__ import annotations

import json
from typing import Any


def canonical(document: Any) -> bytes:
    """Canonical JSON: sorted keys, no blanks, UTF-8, integers only. Floats are refused: their text is not unique."""
    _no_floats(document)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _no_floats(value: Any) -> None:
    if isinstance(value, float):
        raise TypeError("a signed document holds no floats")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a signed document's keys are text")
        for inner in value.values():
            _no_floats(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _no_floats(inner)
