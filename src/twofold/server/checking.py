"""Whether a server, or a backup of it, is what it was: rows, signatures, and every object by its digest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import obstore
from blake3 import blake3
from sqlalchemy import select
from sqlalchemy.orm import Session

from twofold.model.errors import DamagedError, TwofoldError
from twofold.model.progress import Progress, silent
from twofold.server import audit
from twofold.server.backup import whole
from twofold.server.database import Database
from twofold.server.history import RESTORE
from twofold.server.home import Home
from twofold.server.objects import Objects, chunk_key, opened
from twofold.server.tables import Generation, Grant, Image, Needed, Sealed, Version, VersionChunk
from twofold.trust.keys import VerifyKey
from twofold.trust.signed import Context, verify

_STEP = 1 << 20


@dataclass(frozen=True)
class Checked:
    """`objects` were looked at, `bytes` of them read; `lost` says in whole sentences what is damaged and whom it concerns."""

    objects: int
    bytes: int
    lost: tuple[str, ...]


def check_server(home: Home, progress: Progress = silent) -> Checked:
    """Read everything. The server may run meanwhile."""
    database = Database(home.database)
    try:
        with database.read() as session:
            said = list(_rows(session, home))
            wanted = dict(_wanted(session))
        objects, size, lost = _objects(opened(home.objects), wanted, progress)
        with database.read() as session:
            return Checked(objects, size, (*said, *(_told(session, key, why) for key, why in lost)))
    finally:
        database.close()


def check_backup(source: Path, progress: Progress = silent) -> Checked:
    """Read everything of a backup.

    Raises:
        NotFoundError, DamagedError: it is none, or its rows or keys are not what was written.
    """
    whole(source)
    wanted: dict[str, tuple[str, int | None]] = {}
    with (source / "database.jsonl").open() as file:
        for line in file:
            row = json.loads(line)
            if row.get("table") == "version_chunks":
                chunk = bytes.fromhex(row["row"]["chunk"]["hex"])
                wanted[chunk_key(chunk)] = (chunk.hex(), None)
            elif row.get("table") == "sealed":
                wanted[row["row"]["key"]] = (row["row"]["digest"], row["row"]["size"])
    objects, size, lost = _objects(opened(source / "objects"), wanted, progress)
    return Checked(objects, size, tuple(f"{key} {why}." for key, why in lost))


def _rows(session: Session, home: Home) -> Iterator[str]:
    try:
        audit.verify(session)
    except DamagedError as off:
        yield off.happened
    for row in session.scalars(select(Generation)):
        key = home.signing.verify_key if row.kind == RESTORE else _maker(row)
        try:
            verify(Context.GENERATION, json.loads(row.document), [key] if key else [])
        except (TwofoldError, ValueError):
            yield f"The record of generation {row.id[:16]} is not what its device signed."
    held = {(row.grant_id, row.digest) for row in session.scalars(select(Sealed))}
    needed = select(Needed.digest, Generation.grant_id, Generation.id).join(
        Generation, Generation.id == Needed.generation
    )
    for digest, grant, generation in session.execute(needed):
        if (grant, digest) not in held:
            yield f"Generation {generation[:16]} needs a file that no row names: {digest[:16]}."


def _maker(row: Generation) -> VerifyKey | None:
    return VerifyKey.from_hex(row.device.public) if row.device else None


def _wanted(session: Session) -> Iterator[tuple[str, tuple[str, int | None]]]:
    for chunk in session.scalars(select(VersionChunk.chunk).distinct()):
        yield chunk_key(chunk), (chunk.hex(), None)
    for row in session.scalars(select(Sealed)):
        yield row.key, (row.digest, row.size)


def _objects(
    store: Objects, wanted: dict[str, tuple[str, int | None]], progress: Progress
) -> tuple[int, int, list[tuple[str, str]]]:
    """Count, bytes, and what is off with which key."""
    read, lost = 0, []
    for done, (key, (digest, size)) in enumerate(sorted(wanted.items())):
        progress("objects", done, len(wanted))
        try:
            found, length = _digest(obstore.get(store.store, key).stream(_STEP))
        except FileNotFoundError:
            lost.append((key, "is not there"))
            continue
        read += length
        if found != digest or size not in (None, length):
            lost.append((key, "is not what was written"))
    return len(wanted), read, lost


def _digest(parts: Iterable[object]) -> tuple[str, int]:
    hashed, length = blake3(), 0
    for part in parts:
        body = bytes(part)  # type: ignore[call-overload]
        hashed.update(body)
        length += len(body)
    return str(hashed.hexdigest()), length


def _told(session: Session, key: str, why: str) -> str:
    """A damaged object by what it means to people."""
    row = session.scalar(select(Sealed).where(Sealed.key == key))
    if row is not None:
        grant = session.get_one(Grant, row.grant_id)
        of = select(Generation).join(Needed, Needed.generation == Generation.id)
        concerned = session.scalars(of.where(Needed.digest == row.digest, Generation.grant_id == grant.id)).all()
        points = ", ".join(f"{each.number} ({each.id[:16]})" for each in concerned) or "none"
        whose = f"a file of '{grant.title}' of {grant.user.name}; generations that need it: {points}"
    else:
        chunk = bytes.fromhex(key.rpartition("/")[2])
        of_image = select(Image.name, Version.version).join(Version).join(VersionChunk)
        images = session.execute(of_image.where(VersionChunk.chunk == chunk)).all()
        whose = f"a chunk of {', '.join(f'{name} {version}' for name, version in images)}; publishing it again brings it back"
    return f"{key} {why}: {whose}."
