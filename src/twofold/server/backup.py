"""A server's whole memory in a folder, and a server made of it again on a fresh machine.

backup.json        what is here, with digests, signed by the server's key; written last: without it there is no backup
database.jsonl     every row of every table, one a line, the same from SQLite and from PostgreSQL
keys/              server.json, the signing keys, the authority
objects/           what the rows name, each under its key; a second backup into the same folder copies only what is new
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
from sqlalchemy import MetaData, func, insert, select, text
from sqlalchemy.orm import Session

from twofold import __version__
from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, ConflictError, DamagedError, NotFoundError
from twofold.model.progress import Progress, silent
from twofold.platform.dirs import private
from twofold.server import audit
from twofold.server.database import Database
from twofold.server.home import Home, load
from twofold.server.leases import FLOOR
from twofold.server.objects import Objects, chunk_key, opened
from twofold.server.tables import Base, Fact, Lease, Sealed, VersionChunk
from twofold.trust.keys import SigningKey, write_private
from twofold.trust.signed import Context, sign, verify

SCHEMA = "twofold-backup-1"
_KEYS = ("server.json", "signing.pem", "roles*.pem", "authority.der", "authority.key", "tls.crt", "tls.key")
_STEP, _ROWS, _TRIES = 1 << 20, 500, 5
_REVISION = "SELECT version_num FROM alembic_version"


@dataclass(frozen=True)
class Backup:
    """`objects` and `bytes` of all that the rows name; `copied` is how many were new to the folder."""

    rows: int
    objects: int
    bytes: int
    copied: int


def backup(home: Home, to: Path, progress: Progress = silent) -> Backup:
    """Copy a server, which may run meanwhile, into a folder of its own (mode 0700: it holds the server's keys).

    Raises:
        ConflictError: something else lies in the folder. DamagedError: an object that the rows name is gone.
    """
    if to.exists() and any(to.iterdir()) and not (to / "database.jsonl").exists():
        raise ConflictError(f"{to} is not empty and no backup.", safe="Nothing was changed.", next="Name a new folder.")
    private(to)
    keys, kept = private(to / "keys"), private(to / "objects")
    store, database, copied = opened(home.objects), Database(home.database), 0
    (to / "backup.json").unlink(missing_ok=True)
    try:
        for turn in range(_TRIES):
            rows, wanted = _dump(database, to / "database.jsonl")
            missing = []
            for done, key in enumerate(sorted(wanted)):
                progress("objects", done, len(wanted))
                if not (kept / key).exists():
                    try:
                        _fetch(store, key, kept / key)
                        copied += 1
                    except FileNotFoundError:
                        missing.append(key)
            if not missing:
                break
            # Collected between the rows and the copy: then newer rows do not name it.
            if turn == _TRIES - 1:
                raise DamagedError(
                    f"{len(missing)} objects are not there, {missing[0]} the first.",
                    safe="The server was not changed.",
                    next="See what is lost:  twofold server verify",
                )
    finally:
        database.close()
    for path in (path for name in _KEYS for path in home.folder.glob(name)):
        write_private(keys / path.name, path.read_bytes())
    size = sum((kept / key).stat().st_size for key in wanted)
    said = {
        "schema": SCHEMA, "version": __version__, "time": int(time.time()), "rows": rows, "objects": len(wanted), "bytes": size,
        "files": {str(path.relative_to(to)): _sha256(path) for path in (to / "database.jsonl", *sorted(keys.iterdir()))},
    }  # fmt: skip
    os.sync()
    write_private(to / "backup.json", canonical(sign(Context.BACKUP, said, home.signing)))
    return Backup(rows, len(wanted), size, copied)


def restore(source: Path, folder: Path, database: str = "", objects: str = "", progress: Progress = silent) -> Home:
    """Make a server of a backup in a new folder; `database` and `objects` say where they shall lie, whatever they were before.
    Devices that were checked out go on; tokens that are given out from now on are above every one that was.

    Raises:
        ConflictError: there is a server in the folder, or rows in the database. DamagedError: the backup is not whole.
    """
    said = whole(source)
    if (folder / "server.json").exists():
        raise ConflictError(f"There is a server in {folder} already.", safe="Nothing was changed.")
    private(folder)
    for name in ("objects", "uploads"):
        private(folder / name)
    for path in sorted((source / "keys").iterdir()):
        if path.name != "server.json":
            write_private(folder / path.name, path.read_bytes())
    held = Database(database or folder / "server.db")
    try:
        _load(held, source / "database.jsonl")
        with held.write() as session:
            _raise_floor(session)
            audit.record(session, "server", "restore", f"backup of {said['time']}")
        wanted = named(held)
    finally:
        held.close()
    store = opened(objects or folder / "objects")
    for done, key in enumerate(sorted(wanted)):
        progress("objects", done, len(wanted))
        staged = folder / "uploads" / "restored"
        try:
            shutil.copyfile(source / "objects" / key, staged)
        except FileNotFoundError as gone:
            raise DamagedError(f"The backup has lost {key}.", safe="No server was made of it.") from gone
        store.put(key, staged)
    settings = json.loads((source / "keys" / "server.json").read_bytes())
    elsewhere = {name: url for name, url in (("database", database), ("objects", objects)) if url}
    kept = {name: value for name, value in settings.items() if name not in ("database", "objects")}
    write_private(folder / "server.json", canonical(kept | elsewhere))
    return load(folder)


def whole(source: Path) -> dict[str, Any]:
    """Check what a backup says of itself: the digests of its rows and keys, under the signature of the key in it.

    Raises:
        NotFoundError: there is no backup. DamagedError: a file is missing or another.
    """
    if not (source / "backup.json").exists():
        raise NotFoundError(f"There is no backup in {source}, or it was not finished.")
    off = DamagedError(f"The backup in {source} is not what was written.", safe="Nothing was changed.")
    try:
        key = SigningKey.load(source / "keys" / "signing.pem").verify_key
        said = verify(Context.BACKUP, json.loads((source / "backup.json").read_bytes()), [key])
        if said["schema"] != SCHEMA or any(_sha256(source / name) != digest for name, digest in said["files"].items()):
            raise off
    except (OSError, ValueError, KeyError, BadInputError) as bad:
        raise off from bad
    return dict(said)


def named(database: Database) -> set[str]:
    """The keys of all objects that the rows name."""
    with database.read() as session:
        return _named(session)


def _named(session: Session) -> set[str]:
    chunks = {chunk_key(chunk) for chunk in session.scalars(select(VersionChunk.chunk).distinct())}
    return chunks | set(session.scalars(select(Sealed.key)))


def _dump(database: Database, to: Path) -> tuple[int, set[str]]:
    """All rows of one moment, and the objects that they name."""
    count, new = 0, to.with_suffix(".new")
    with database.read() as session, new.open("w") as file:
        new.chmod(0o600)
        file.write(json.dumps({"revision": session.scalar(text(_REVISION))}) + "\n")
        for table in Base.metadata.sorted_tables:
            for row in session.execute(select(table)).mappings():
                file.write(json.dumps({"table": table.name, "row": {name: _plain(row[name]) for name in row}}) + "\n")
                count += 1
        wanted = _named(session)
    new.replace(to)
    return count, wanted


def _plain(value: Any) -> Any:
    return {"hex": bytes(value).hex()} if isinstance(value, bytes | memoryview) else value


def _load(database: Database, source: Path) -> None:
    with source.open() as file:
        revision = json.loads(file.readline())["revision"]
        database.upgrade(revision)
        tables = MetaData()
        tables.reflect(database.engine)
        with database.write() as session:
            if any(
                session.scalar(select(func.count()).select_from(tables.tables[name])) for name in ("users", "audit")
            ):
                raise ConflictError("The database is not empty.", safe="Nothing was changed.", next="Name a new one.")
            for name, rows in _batches(file):
                session.execute(insert(tables.tables[name]), rows)
            if session.get_bind().dialect.name == "postgresql":
                _number_on(session, tables)
    database.upgrade()


def _batches(file: Any) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    name, rows = "", list[dict[str, Any]]()
    for line in file:
        read = json.loads(line)
        if rows and (read["table"] != name or len(rows) == _ROWS):
            yield name, rows
            rows = []
        name = read["table"]
        rows.append(
            {
                key: bytes.fromhex(value["hex"]) if isinstance(value, dict) else value
                for key, value in read["row"].items()
            }
        )
    if rows:
        yield name, rows


def _number_on(session: Session, tables: MetaData) -> None:
    """PostgreSQL numbers rows from a counter, which has not seen these."""
    for table in tables.sorted_tables:
        for column in table.primary_key.columns:
            counter = session.scalar(
                text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": column.name}
            )
            if counter:
                most = session.scalar(select(func.max(column)))
                session.execute(text("SELECT setval(:counter, :most, :used)"), _counted(counter, most))


def _counted(counter: str, most: int | None) -> dict[str, Any]:
    return {"counter": counter, "most": most or 1, "used": most is not None}


def _raise_floor(session: Session) -> None:
    fact = session.get(Fact, FLOOR) or Fact(name=FLOOR, value=0)
    highest = max(fact.value, session.scalar(select(func.max(Lease.token))) or 0)
    fact.value = ((highest >> 32) + 1) << 32
    session.add(fact)


def _fetch(store: Objects, key: str, to: Path) -> None:
    to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = to.with_name(f"{to.name}.new")
    with new.open("wb") as file:
        for part in obstore.get(store.store, key).stream(_STEP):
            file.write(part)
    new.replace(to)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
