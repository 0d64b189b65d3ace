"""The company's users, for administrators."""

from __future__ import annotations

from typing import Annotated

import typer

from twofold.cli import out
from twofold.cli.out import Form
from twofold.cli.session import admin, password

app = typer.Typer(no_args_is_help=True, help="Users (for administrators): create, list.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Small letters, digits and inner hyphens.")],
    as_admin: Annotated[bool, typer.Option("--admin", help="May manage the server.")] = False,
) -> None:
    """Create a user. The password (12 characters or more) is asked for, or read from standard input."""
    with admin() as server:
        server.create_user(name, password(f"Password of {name}", confirm=True), admin=as_admin)
    out.say(f"{name} is created.")


@app.command("list")
def list_(output: out.Output = Form.TABLE) -> None:
    """Users of the server."""
    with admin() as server:
        found = server.list_users()
    out.rows(output, "users", ["name", "admin"], found, "There is no user.")
