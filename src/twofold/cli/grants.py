"""Who may use what, under which policy, for administrators."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from twofold.cli import out
from twofold.cli.out import Form
from twofold.cli.session import admin

app = typer.Typer(no_args_is_help=True, help="Grants (for administrators): add, list, remove.")


@app.command()
def add(
    user: Annotated[str, typer.Argument(help="Who may use it.")],
    image: Annotated[str, typer.Argument(help="A published image.")],
    workspace: Annotated[str, typer.Option("--workspace", help="The workspace's name for commands.")] = "work",
    title: Annotated[str, typer.Option("--title", help="The name that its user sees.")] = "Work",
    colour: Annotated[str, typer.Option("--colour", help="Its frame's colour, one of the palette.")] = "blue",
    policy: Annotated[
        Path | None, typer.Option("--policy", help="A JSON file; without one everything is denied.")
    ] = None,
    days: Annotated[int, typer.Option("--days", min=0, help="When it ends; 0 for never.")] = 0,
) -> None:
    """Let a user check a workspace out from an image."""
    from twofold.cli.policies import read
    from twofold.model.policy import Policy

    rules = read(policy) if policy else Policy()
    ends = int(time.time()) + days * 86400 if days else 0
    with admin() as server:
        number = server.add_grant(user, image, workspace, title, colour, rules, ends)
    out.say(f"Grant {number}: {user} may check out {workspace} ({title}) from {image}.")


@app.command("list")
def list_(output: out.Output = Form.TABLE) -> None:
    """Grants of the server."""
    with admin() as server:
        found = server.list_grants()
    out.rows(output, "grants", ["grant", "user", "workspace", "title", "image", "colour"], found, "There is no grant.")


@app.command()
def remove(
    grant: Annotated[int, typer.Argument(help="Its number, as `twofold grant list` shows it.")],
    yes: out.Yes = False,
) -> None:
    """End a grant now. A lease on it is not renewed."""
    with admin() as server:
        out.confirm(
            f"Remove grant {grant}?",
            lost="the user's right to check this workspace out.",
            safe="what lies on the user's device already.",
            yes=yes,
        )
        server.remove_grant(grant)
    out.say(f"Grant {grant} is removed.")
