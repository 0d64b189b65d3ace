"""The database: SQLite in WAL mode, or PostgreSQL by URL. One transaction at a time writes, and says so when it begins."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, Insert, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError
from sqlalchemy.orm import Session

from twofold.model.errors import BadInputError, DamagedError
from twofold.server.tables import Base

_FULL = ("SQLITE_FULL", "53100")  # SQLite's name of it; PostgreSQL's state `disk_full`
_MIGRATIONS = Path(__file__).parent / "migrations"
_WRITER = 0x74776F666F6C6431  # the name of the writers' lock in PostgreSQL: "twofold1"


def locate(where: Path | str) -> URL:
    """A database's URL: a file is SQLite.

    Raises:
        BadInputError: neither a path nor `sqlite:///…` nor `postgresql+psycopg://…`. The URL, which may hold a password, is not
        repeated.
    """
    if isinstance(where, Path):
        return URL.create("sqlite", database=str(where))
    try:
        url = make_url(where)
    except ArgumentError:
        url = None
    if url is None or url.drivername not in ("sqlite", "postgresql+psycopg") or not url.database:
        raise BadInputError(
            "This is not the URL of a database that the server can use.",
            next="It looks like postgresql+psycopg://user@host/database; without one the server keeps a file.",
        )
    return url


def is_full(error: BaseException) -> bool:
    """Whether a disk of the server's or of its database's had no room."""
    if isinstance(error, DatabaseError):
        cause = error.orig
        return getattr(cause, "sqlite_errorname", getattr(cause, "sqlstate", "")) in _FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class Database:
    """Sessions over one database. `read` sees a snapshot; `write` holds the write lock from its start, so that what it has read
    is still so when it writes."""

    def __init__(self, where: Path | str) -> None:
        self.url = locate(where)
        self.path = Path(self.url.database or "") if self.url.drivername == "sqlite" else None
        if self.path is not None:
            self.engine = create_engine(self.url, connect_args={"timeout": 15})
            event.listen(self.engine, "connect", _connect)
            event.listen(self.engine, "begin", _begin)
        else:
            # Connections that the server's side has closed (a restart) are noticed before they are used.
            self.engine = create_engine(self.url, pool_pre_ping=True, isolation_level="REPEATABLE READ")
        self._writer = _writer(self.engine)

    def upgrade(self, revision: str = "head") -> None:
        """Bring the tables to this version's form (or an older one's); all migrations are one transaction.

        Raises:
            DamagedError: it is no database, or a newer version's.
        """
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        try:
            with self._writer.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, revision)
        except (DatabaseError, CommandError) as off:
            shown = self.url.render_as_string(hide_password=True)
            raise DamagedError(
                f"The database {self.path or shown} cannot be used by this version: {off}",
                safe="It was left as it is.",
                next="Start the version that wrote it, or restore it from a copy.",
            ) from off
        if self.path is not None:
            self.path.chmod(0o600)

    @contextmanager
    def read(self) -> Iterator[Session]:
        with Session(self.engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Commits at the end, rolls back on any error."""
        with Session(self._writer) as session, session.begin():
            yield session

    def close(self) -> None:
        self.engine.dispose()


def insert_new(session: Session, table: type[Base]) -> Any:
    """An INSERT that also asks: with `.values(…).on_conflict_do_nothing()` it returns no row for one that was there."""
    made: Insert
    made = sqlite.insert(table) if session.get_bind().dialect.name == "sqlite" else postgresql.insert(table)
    return made


def _writer(engine: Engine) -> Engine:
    if engine.dialect.name == "sqlite":
        return engine.execution_options(twofold_writes=True)
    # Each statement must see what was committed while it waited for the lock, which a snapshot would hide.
    writer = engine.execution_options(isolation_level="READ COMMITTED")
    event.listen(writer, "begin", _lock)
    return writer


def _lock(connection: Connection) -> None:
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_WRITER,))


def _connect(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late; ours is in _begin
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(
        "BEGIN IMMEDIATE" if connection.get_execution_options().get("twofold_writes") else "BEGIN"
    )
