"""What may go: points that the policy does not keep, and files that no kept generation needs. Branches always stay."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import structlog
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from twofold.server import audit, objects, policies
from twofold.server.database import Database
from twofold.server.history import BRANCH
from twofold.server.home import Home
from twofold.server.objects import Objects
from twofold.server.tables import Generation, Grant, Lease, Needed, Sealed

UNFINISHED = 14 * 86400  # seconds that an upload waits for the generation that names it
_FIRST, _EVERY = 300.0, 3600.0  # seconds
_YOUNG = 86400  # an object without a row may belong to an upload that is about to write one


_log = structlog.get_logger("twofold.server")


@dataclass(frozen=True)
class Collected:
    """`points` dropped, `files` and `bytes` removed, `strays` of former kills among them."""

    points: int
    files: int
    bytes: int
    strays: int


def collect(home: Home, database: Database, store: Objects, now: float | None = None) -> Collected:
    """One pass over everything. It may be killed anywhere and be run twice at once; what a kept generation or a branch needs
    stays. `now` in Unix seconds."""
    moment = time.time() if now is None else now
    points, files, size = 0, 0, 0
    with database.read() as session:
        grants = list(session.scalars(select(Lease.grant_id)))
    for grant in grants:
        with database.write() as session:
            dropped = _drop(session, grant, moment)
            doomed = _doomed(session, grant, moment)
            if dropped:
                audit.record(session, "server", "drop points", f"number {grant}: {dropped}")
        # Only now: a crash before this leaves strays, never a row without its object.
        objects.remove(store, [row[0] for row in doomed])
        points, files, size = points + dropped, files + len(doomed), size + sum(row[1] for row in doomed)
    strays = _strays(database, store, moment)
    for path in home.uploads.iterdir():
        if path.stat().st_mtime < moment - UNFINISHED:
            path.unlink(missing_ok=True)
    return Collected(points, files + len(strays), size + sum(strays.values()), len(strays))


def _drop(session: Session, grant_id: int, now: float) -> int:
    """Retention, by the policy of now."""
    grant, lease = session.get_one(Grant, grant_id), session.get_one(Lease, grant_id)
    policy, _ = policies.of(session, grant)
    rows = session.scalars(
        select(Generation)
        .where(Generation.grant_id == grant_id, Generation.kind != BRANCH, Generation.dropped == 0)
        .order_by(Generation.committed.desc(), Generation.number.desc())
    ).all()
    old = [row for row in rows[policy.keep_points :] if row.committed < now - policy.keep_days * 86400]
    gone = [row.id for row in old if row.id != lease.head]
    for generation in gone:
        session.execute(update(Generation).where(Generation.id == generation).values(dropped=int(now)))
        session.execute(delete(Needed).where(Needed.generation == generation))
    return len(gone)


def _doomed(session: Session, grant_id: int, now: float) -> list[tuple[str, int]]:
    """Take away the rows of files that nothing needs, and return key and size of what they named."""
    needed = select(Needed.digest).join(Generation, Generation.id == Needed.generation)
    unneeded = (
        Sealed.grant_id == grant_id,
        Sealed.digest.not_in(needed.where(Generation.grant_id == grant_id)),
        Sealed.created < now - UNFINISHED,
    )
    return [
        (key, size) for key, size in session.execute(delete(Sealed).where(*unneeded).returning(Sealed.key, Sealed.size))
    ]


def _strays(database: Database, store: Objects, now: float) -> dict[str, int]:
    """Objects that no row names, left by a kill between the object and its row."""
    found = {
        key: size
        for key, size, changed in objects.names(store, "workspaces")
        if changed < now - _YOUNG and key.count("/") == 3
    }
    with database.read() as session:
        for key in session.scalars(select(Sealed.key)):
            found.pop(key, None)
    objects.remove(store, found)
    return found


def keep_house(home: Home, database: Database, store: Objects) -> threading.Thread:
    """Collect every hour for as long as the process lives, first after a few minutes, so that a start is quick."""

    def work() -> None:
        time.sleep(_FIRST)
        while True:
            try:
                found = collect(home, database, store)
                _log.info("collected", points=found.points, files=found.files, bytes=found.bytes, strays=found.strays)
            except Exception as off:  # noqa: BLE001 - the next hour may do better; the server goes on
                _log.error("not collected", kind=type(off).__name__, exc_info=off)
            time.sleep(_EVERY)

    thread = threading.Thread(target=work, name="collector", daemon=True)
    thread.start()
    return thread
