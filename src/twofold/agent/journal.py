"""What an agent's operations came to, for the agent that follows it: `jobs.json` in the state directory.

It is replaced whole when a state changes, and not flushed: a killed agent loses nothing of it, a power cut may lose all of it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
FILE = "jobs.json"
SCHEMA = "twofold-jobs-1"
_RESULT = 4096  # bytes of a result that is worth keeping
_TEXTS = ("operation", "verb", "workspace", "state", "lane", "step")
_COUNTS = ("done", "total", "whole", "started", "ended")


class Journal:
    def __init__(self, folder: Path | None) -> None:
        """Without a folder nothing is kept."""
        self._path = None if folder is None else folder / FILE

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        if self._path is None:
            return
        body = json.dumps({"schema": SCHEMA, "operations": [_short(row) for row in rows]}).encode()
        fresh = self._path.with_name(f".{FILE}.new")
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(body)
            fresh.replace(self._path)
        except OSError as full:
            log.warning("the list of jobs was not written: %s", full.strerror)

    def read(self) -> list[dict[str, Any]]:
        """Nothing where it can't be read: then nobody knows what a former agent did last."""
        try:
            body = json.loads(b"" if self._path is None else self._path.read_bytes())
            rows = [row for row in body["operations"] if _sound(row)]
            return rows if body["schema"] == SCHEMA else []
        except (OSError, ValueError, KeyError, TypeError):
            return []


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    whole = len(json.dumps(row["result"])) <= _RESULT
    return dict(row) | ({} if whole else {"result": {}})


def _sound(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and all(type(row.get(name)) is str for name in _TEXTS)
        and all(type(row.get(name)) is int for name in _COUNTS)
        and isinstance(row.get("result"), dict)
        and isinstance(row.get("error"), dict | None)
    )
