"""Who may use what, under which policy, for administrators."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
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
    until: Annotated[
        datetime | None,
        typer.Option(
            "--until", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M"], help="The day, or the minute, on which it ends."
        ),
    ] = None,
) -> None:
    """Let a user check a workspace out from an image."""
    from twofold.cli.policies import read
    from twofold.model.policy import Policy

    rules = read(policy) if policy else Policy()
    ends = ends_at(days, until)
    with admin() as server:
        number = server.add_grant(user, image, workspace, title, colour, rules, ends)
    out.say(f"Grant {number}: {user} may check out {workspace} ({title}) from {image}.")


def ends_at(days: int, until: datetime | None) -> int:
    """Unix seconds, 0 for never. A day without a time is over at its end, here.

    Raises:
        UsageError: both are given, or it is over already.
    """
    from twofold.model.errors import UsageError

    if until is None:
        return int(time.time()) + days * 86400 if days else 0
    whole_day = (until.hour, until.minute) == (0, 0)
    ends = int((until + timedelta(days=1 if whole_day else 0)).timestamp())
    if days or ends <= time.time():
        raise UsageError("A grant ends after --days or --until, one of them, and not in the past.")
    return ends


@app.command("list")
def list_(output: out.Output = Form.TABLE) -> None:
    """Grants of the server."""
    with admin() as server:
        found = server.list_grants()
    columns = ["grant", "user", "workspace", "title", "image", "colour", "ends"]
    if output is Form.TABLE:
        found = [row | {"ends": out.when(row["ends"])} for row in found]
    out.rows(output, "grants", columns, found, "There is no grant.")


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
