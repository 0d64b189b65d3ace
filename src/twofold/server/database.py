"""The database: SQLite in WAL mode. One transaction at a time writes, and says so when it begins."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from twofold.model.errors import DamagedError

_MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """Sessions over one file. `read` sees a snapshot; `write` holds the write lock from its start, so that what it has read
    is still so when it writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 15})
        event.listen(self.engine, "connect", _connect)
        event.listen(self.engine, "begin", _begin)
        self._writer = self.engine.execution_options(twofold_writes=True)

    def upgrade(self) -> None:
        """Bring the tables to this version's form; each migration is one transaction.

        Raises:
            DamagedError: the file is no database, or a newer version's.
        """
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        try:
            with self._writer.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except (DatabaseError, CommandError) as off:
            raise DamagedError(
                f"The database {self.path} cannot be used by this version: {off}",
                safe="It was left as it is.",
                next="Start the version that wrote it, or restore it from a copy.",
            ) from off
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


def _connect(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late; ours is in _begin
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(
        "BEGIN IMMEDIATE" if connection.get_execution_options().get("twofold_writes") else "BEGIN"
    )
