"""The company's server: make one, run it, see whether it answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from twofold.cli import out
from twofold.cli.out import Form

app = typer.Typer(no_args_is_help=True, help="The company's server: init, run, status.")
Home = Annotated[
    Path | None, typer.Option("--home", help="The server's folder, mode 0700. [default: ~/.local/share/twofold-server]")
]


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
    home: Home = None,
    output: out.Output = Form.TABLE,
) -> None:
    """Make a server in a folder. The administrator's password is asked for, or read from standard input."""
    from twofold.cli.session import password

    _require_parts()
    from twofold.server.run import init as make

    where = home or default_home()
    made = make(where, administrator, password("The administrator's password", confirm=True), company, name or ())
    if output is Form.JSON:
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
    if output is Form.JSON:
        out.document("server-status", facts)
    else:
        out.fields(output, "server", facts)


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
