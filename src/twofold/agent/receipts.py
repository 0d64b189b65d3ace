"""What has left this device, for the person who has it: which workspace, when, by whom, what was destroyed. The device's alone:
nothing of it is sent anywhere."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from twofold.agent.store import write_durably

FILE: Final = "receipts.json"
SCHEMA: Final = "twofold-receipts-1"
_KEPT: Final = 64  # the newest
_FIELDS: Final = {
    "workspace": str, "title": str, "colour": str, "verb": str, "company": bool, "token": int, "removed_at": int,
    "key_destroyed": bool, "sealed_bytes_removed": int,
}  # fmt: skip


class Receipts:
    """The file of them, oldest first. One that can't be read counts as empty: it is told, never acted upon."""

    def __init__(self, state: Path) -> None:
        self._path = state / FILE

    def all(self) -> list[dict[str, Any]]:
        with suppress(OSError, ValueError, KeyError, TypeError):
            body = json.loads(self._path.read_bytes())
            if body["schema"] == SCHEMA:
                return [each for each in body["receipts"] if _whole(each)]
        return []

    def add(self, receipt: dict[str, Any]) -> None:
        """A death between this and the last file's removal has the same lease's end told again; both are one."""
        known = self.all()
        last = known[-1] if known else None
        if last is not None and _same(last, receipt):
            receipt = receipt | {
                "key_destroyed": last["key_destroyed"] or receipt["key_destroyed"],
                "sealed_bytes_removed": max(last["sealed_bytes_removed"], receipt["sealed_bytes_removed"]),
            }
            known.pop()
        body = {"schema": SCHEMA, "receipts": [*known, receipt][-_KEPT:]}
        write_durably(self._path, json.dumps(body, indent=1).encode() + b"\n")


def _whole(receipt: Any) -> bool:
    known = isinstance(receipt, dict) and receipt.keys() == _FIELDS.keys()
    return known and all(type(receipt[name]) is kind for name, kind in _FIELDS.items())


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["token"]) and (one["workspace"], one["token"]) == (other["workspace"], other["token"])
