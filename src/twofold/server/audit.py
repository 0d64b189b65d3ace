"""The audit log: who did what, each entry holding the hash of the one before it."""

from __future__ import annotations

import hashlib
import time

from sqlalchemy import select
from sqlalchemy.orm import Session

from twofold.model.canonical import canonical
from twofold.model.errors import DamagedError
from twofold.server.tables import Audit

_FIRST = "0" * 64


def record(session: Session, actor: str, action: str, subject: str) -> None:
    """Append an entry in the caller's write transaction, so that there is no act without its entry and none without its act."""
    last = session.scalars(select(Audit).order_by(Audit.entry.desc()).limit(1)).first()
    entry = Audit(
        entry=last.entry + 1 if last else 1,
        at=int(time.time()),
        actor=actor,
        action=action,
        subject=subject[:200],
        previous=last.hash if last else _FIRST,
    )
    entry.hash = _hash(entry)
    session.add(entry)
    session.flush()


def verify(session: Session) -> int:
    """Check the whole chain; returns its length.

    Raises:
        DamagedError: an entry is missing, moved or changed; the error names the first.
    """
    previous, count = _FIRST, 0
    for entry in session.scalars(select(Audit).order_by(Audit.entry)):
        count += 1
        if entry.entry != count or entry.previous != previous or entry.hash != _hash(entry):
            raise DamagedError(
                f"The audit log was changed at entry {count}.",
                safe=f"The entries before {count} are as they were written.",
                next="Compare with a copy of the database.",
            )
        previous = entry.hash
    return count


def _hash(entry: Audit) -> str:
    fields = {name: getattr(entry, name) for name in ("entry", "at", "actor", "action", "subject", "previous")}
    return hashlib.sha256(canonical(fields)).hexdigest()
