"""Making and running a server."""

from __future__ import annotations

import functools
import logging
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from sqlalchemy import select
from starlette.types import ASGIApp
from structlog.tracebacks import ExceptionDictTransformer

from twofold.model.errors import ConflictError, RefusedError
from twofold.model.names import slug
from twofold.server import audit
from twofold.server.accounts import password_hash
from twofold.server.certificates import ensure_certificate
from twofold.server.collector import keep_house
from twofold.server.database import Database
from twofold.server.home import Home, load, make
from twofold.server.objects import opened
from twofold.server.tables import User

# Without local variables: they hold passwords and tokens.
_TRACES = ExceptionDictTransformer(show_locals=False, max_frames=12)


def init(
    folder: Path,
    admin: str,
    password: str,
    company: str = "Work",
    names: Sequence[str] = (),
    database: str = "",
    objects: str = "",
) -> Home:
    """Make a server in `folder` with one administrator. `names` are further host names or addresses that it answers to,
    `database` and `objects` URLs of where they lie if not in the folder.

    Raises:
        ConflictError: there is one already.
        BadInputError: a name or URL is off, or the password has fewer than 12 characters.
        DamagedError: the database cannot be used.
    """
    user, hashed = slug(admin, "a user"), password_hash(password)
    if (folder / "server.json").exists():
        raise ConflictError(f"There is a server in {folder} already.", safe="Nothing was changed.")
    if objects:
        opened(objects)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    held_in = Database(database or folder / "server.db")
    held_in.upgrade()
    with held_in.write() as session:
        # A former try may have come as far as this; the configuration, written last, is what makes it a server.
        held = session.scalar(select(User).where(User.name == user))
        if held is None:
            session.add(User(name=user, admin=True, password=hashed, created=int(time.time())))
            audit.record(session, "init", "create user", f"{user}, administrator")
        else:
            held.password = hashed
    held_in.close()
    return make(folder, company, names, database, objects)


def serve(folder: Path, host: str = "127.0.0.1", port: int = 8443) -> None:
    """Run the server until SIGINT or SIGTERM.

    Raises:
        NotFoundError: there is no server in `folder`. ConflictError: the port is taken.
        RefusedError: the address is not this machine's, or the port is not ours to take.
    """
    home = load(folder)
    ensure_certificate(folder, home.names)
    _check_free(host, port)
    database = Database(home.database)
    database.upgrade()
    database.close()
    _logging()
    Granian(
        "twofold.server.run:worker",
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=True,
        log_level=LogLevels.warning,
        log_dictconfig=_granian_log(),
        ssl_cert=folder / "tls.crt",
        ssl_key=folder / "tls.key",
        workers_kill_timeout=5,
        respawn_failed_workers=True,
    ).serve(target_loader=functools.partial(worker, str(folder)), wrap_loader=False)


def worker(folder: str) -> ASGIApp:
    """What each of granian's processes runs."""
    from twofold.server.app import application

    _logging()
    home = load(Path(folder))
    database = Database(home.database)
    keep_house(home, database, opened(home.objects))
    return application(home, database)


def _check_free(host: str, port: int) -> None:
    # granian shares its port between workers (SO_REUSEPORT) and would share it with a second server as well.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except PermissionError as no:
            raise RefusedError(f"Port {port} is reserved by this system.", next="Choose one above 1023.") from no
        except OSError as taken:
            raise ConflictError(
                f"Port {port} of {host} cannot be used: {taken.strerror}.",
                safe="Nothing was started.",
                next=f"Choose another with --port, or see who has it:  ss -ltnp 'sport = :{port}'",
            ) from taken


def _logging() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(_TRACES),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )


def _granian_log() -> dict[str, Any]:
    handler = {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "formatter": "json"}
    pre = [structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "processor": structlog.processors.JSONRenderer(),
        "foreign_pre_chain": pre,
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": formatter},
        "handlers": {"stderr": handler},
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {"_granian": {"handlers": ["stderr"], "level": "WARNING", "propagate": False}, "granian.access": {}},
    }
