"""A real PostgreSQL of Debian's, in a folder of its own, on a Unix socket alone, ended with the tests."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from twofold.platform.run import run, spawn

_USER = "twofold"


def programs() -> Path:
    """The folder of the newest PostgreSQL here (`tools/setup-apt test` installs Debian's)."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    assert found, "PostgreSQL is not installed: tools/setup-apt test"
    return found[-1].parent


class Postgres:
    """`folder` holds its socket. Databases are made and dropped by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = (f"t{number}" for number in itertools.count())

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://{_USER}@/{name}?host={self.folder}"

    def make(self, template: str = "template0") -> str:
        """A new database, as a copy of another that nobody is connected to; returns its URL."""
        name = next(self._names)
        self._do("CREATE DATABASE {} TEMPLATE {}", name, template)
        return self.url(name)

    def drop(self, url: str) -> None:
        self._do("DROP DATABASE {} WITH (FORCE)", name_of(url))

    def _do(self, statement: str, *names: str) -> None:
        with self.connect() as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(host=str(self.folder), user=_USER, dbname="postgres", autocommit=True)


def name_of(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A cluster of its own. A power cut is not what these tests are about, so it does not wait for the disk."""
    if os.geteuid() == 0:
        pytest.skip("PostgreSQL does not run as root: tools/as-person")
    # A socket's path has at most 107 characters, which pytest's own folders may pass.
    folder = Path(tempfile.mkdtemp(prefix="tf-pg-"))
    process = None
    try:
        data, bin_ = folder / "data", programs()
        run(
            [bin_ / "initdb", "-D", data, "-U", _USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            timeout=60,
        )
        settings = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off", "max_connections": "200"}
        argv: list[str | Path] = [
            bin_ / "postgres",
            "-D",
            data,
            *(part for row in settings.items() for part in ("-c", "=".join(map(str, row)))),
        ]
        with (folder / "log").open("wb") as log:
            process = spawn(argv, stderr=log)
        server = Postgres(folder)
        deadline = time.monotonic() + 30
        while True:
            try:
                server.connect().close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, "PostgreSQL did not start"
                time.sleep(0.05)
        yield server
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # hangs up on everybody
            process.wait(20)
        shutil.rmtree(folder)
