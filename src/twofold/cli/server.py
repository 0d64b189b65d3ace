"""The company's server: make one, run it, see whether it answers."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import typer

from twofold.cli import out
from twofold.cli.out import Form

app = typer.Typer(
    no_args_is_help=True, help="The company's server: init, run, status, backup, restore, verify, collect."
)
Home = Annotated[
    Path | None, typer.Option("--home", help="The server's folder, mode 0700. [default: ~/.local/share/twofold-server]")
]

Database = Annotated[
    str, typer.Option("--database", help="postgresql+psycopg://user@host/name; without one, a file in the folder.")
]
Objects = Annotated[
    str, typer.Option("--objects", help="s3://bucket/prefix?endpoint=URL; without one, a folder in the folder.")
]
Place = Annotated[Path, typer.Argument(help="A folder of its own; it holds the server's keys.")]


def default_home() -> Path:
    share = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return Path(os.environ.get("TWOFOLD_SERVER_HOME") or share / "twofold-server")


@app.command()
def init(
    company: Annotated[str, typer.Option("--company", help="The name that people see.")] = "Work",
    administrator: Annotated[str, typer.Option("--admin", help="The first administrator's name.")] = "admin",
    name: Annotated[
        list[str] | None, typer.Option("--name", help="A host name or address it answers to; repeatable.")
    ] = None,
    database: Database = "",
    objects: Objects = "",
    home: Home = None,
    output: out.Output = Form.TABLE,
) -> None:
    """Make a server in a folder. The administrator's password is asked for, or read from standard input."""
    from twofold.cli.session import password

    _require_parts()
    from twofold.server.run import init as make

    where = home or default_home()
    secret = password("The administrator's password", confirm=True)
    made = make(where, administrator, secret, company, name or (), database, objects)
    if output is not Form.TABLE:
        out.document(
            "server", {"home": str(where), "company": made.company, "pin": made.pin, "names": list(made.names)}
        )
        return
    out.say(f"The server of {made.company} is in {where}.")
    out.say(f"Its fingerprint (pin): {made.pin}")
    out.note("Run it:  twofold server run    then:  twofold login https://localhost:8443/")


@app.command()
def run(
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8443,
    home: Home = None,
) -> None:
    """Run the server until it is interrupted."""
    _require_parts()
    from twofold.server.run import serve

    serve(home or default_home(), host, port)


@app.command()
def status(
    url: Annotated[str, typer.Argument(help="By default the server that you are logged in at.")] = "",
    output: out.Output = Form.TABLE,
) -> None:
    """Whether a server answers, and proves to be the pinned one."""
    from twofold.cli.session import admin, known_pin
    from twofold.server.client import Admin

    if url:
        server = Admin(url, known_pin(url))
        server.wait_ready(0)
        server.close()
    else:
        with admin() as server:
            server.wait_ready(0)
    facts = {"server": server.place.origin, "answers": True, "pin": server.pin}
    if output is not Form.TABLE:
        out.document("server-status", facts)
    else:
        out.fields(output, "server", facts)


@app.command()
def backup(to: Place, home: Home = None, output: out.Output = Form.TABLE) -> None:
    """Copy the server, which may run meanwhile: database, signing keys, objects. The next time copies only what is new."""
    _require_parts()
    from twofold.server.backup import backup as copy
    from twofold.server.home import load

    made = copy(load(home or default_home()), to)
    out.fields(output, "backup", {"folder": str(to), **dataclasses.asdict(made)})


@app.command()
def restore(
    source: Place, home: Home = None, database: Database = "", objects: Objects = "", output: out.Output = Form.TABLE
) -> None:
    """Make a server of a backup in a new folder. Devices that are checked out go on."""
    _require_parts()
    from twofold.server.backup import restore as make

    made = make(source, home or default_home(), database, objects)
    out.fields(output, "server", {"home": str(made.folder), "company": made.company, "pin": made.pin})


@app.command()
def verify(
    backup: Annotated[Path | None, typer.Option("--backup", help="Read this backup instead of the server.")] = None,
    home: Home = None,
    output: out.Output = Form.TABLE,
) -> None:
    """Read every object and check every signature; names what is damaged, and whom it concerns."""
    _require_parts()
    from twofold.model.errors import DamagedError
    from twofold.server.checking import check_backup, check_server
    from twofold.server.home import load

    found = check_backup(backup) if backup else check_server(load(home or default_home()))
    out.fields(output, "verify", {"objects": found.objects, "bytes": found.bytes, "lost": len(found.lost)})
    if found.lost:
        raise DamagedError("\n".join(found.lost[:100]), safe="Everything else is as it was written.")


@app.command()
def collect(home: Home = None, output: out.Output = Form.TABLE) -> None:
    """Remove what no kept generation needs. A server that runs does this by itself every hour."""
    _require_parts()
    from twofold.server.collector import collect as remove
    from twofold.server.database import Database as Opened
    from twofold.server.home import load
    from twofold.server.objects import opened

    where = load(home or default_home())
    database = Opened(where.database)
    try:
        found = remove(where, database, opened(where.objects))
    finally:
        database.close()
    out.fields(output, "collected", dataclasses.asdict(found))


def _require_parts() -> None:
    """Raises: MissingError: this install has no server in it (a person's device needs none)."""
    from importlib.util import find_spec

    from twofold.model.errors import MissingError

    lacking = [name for name in ("fastapi", "granian", "sqlalchemy", "alembic") if find_spec(name) is None]
    if lacking:
        raise MissingError(
            f"This install has no server in it (it lacks {', '.join(lacking)}).",
            next="Install it with its server:  pipx install 'twofold[server]'",
        )
