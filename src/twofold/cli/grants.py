"""Who may use what, under which policy, for administrators."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from twofold.cli import out
from twofold.cli.out import Form
from twofold.cli.session import admin

Channel = Annotated[str, typer.Option("--channel", help="Which of the image's releases its devices follow.")]
Rank = Annotated[
    int, typer.Option("--rank", min=0, max=1000, help="Of groups' grants of one name the highest decides.")
]
Number = Annotated[int, typer.Argument(help="Its number, as `twofold grant list` shows it.")]
app = typer.Typer(no_args_is_help=True, help="Grants (for administrators): add, list, show, change, remove.")


@app.command()
def add(
    who: Annotated[
        str, typer.Argument(help="The user who may use it; with --group a group, each of whose members may.")
    ],
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
    channel: Channel = "stable",
    group: Annotated[bool, typer.Option("--group", help="To a group.")] = False,
    rank: Rank = 0,
) -> None:
    """Let a user, or each member of a group, check a workspace out from an image."""
    from twofold.cli.policies import read
    from twofold.model.policy import Policy

    rules = read(policy) if policy else Policy()
    ends = ends_at(days, until)
    with admin() as server:
        if not group:
            number = server.add_grant(who, image, workspace, title, colour, rules, ends, channel=channel)
            out.say(f"Grant {number}: {who} may check out {workspace} ({title}) from {image}.")
            return
        made = server.grant_group(who, image, workspace, title, colour, rules, ends, channel, rank)
    reached, members = made["reached"], made["members"]
    out.say(f"Grant {made['grant']}: members of {who} may check out {workspace} ({title}) from {image}, {reached} now.")
    if reached < members:
        out.note(f"{members - reached} have it by another grant:  twofold grant show {made['grant']}")


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
    columns = ["grant", "to", "workspace", "title", "image", "channel", "colour", "ends"]
    if output is Form.TABLE:
        found = [_shown(row) for row in found]
    out.rows(output, "grants", columns, found, "There is no grant.")


@app.command()
def show(grant: Number, output: out.Output = Form.TABLE) -> None:
    """One grant, and for a group's what each member has by it."""
    with admin() as server:
        found = server.grant(grant)
    if output is not Form.TABLE:
        out.document("grant", found)
        return
    members = [f"{row['user']}: {row['why'] or 'number ' + str(row['number'])}" for row in found["members"]]
    shown = _shown(found) | {
        "policy": ", ".join(f"{key}={value}" for key, value in found["policy"].items()) or "defaults"
    }
    kept = ("grant", "to", "workspace", "title", "image", "channel", "rank", "colour", "pool", "policy", "ends")
    out.fields(output, "grant", {name: shown[name] for name in kept} | {"members": "; ".join(members) or "none"})


@app.command()
def change(
    grant: Number,
    channel: Annotated[str, typer.Option("--channel", help="Which of the image's releases its devices follow.")] = "",
    rank: Annotated[
        int | None, typer.Option("--rank", min=0, max=1000, help="Of groups' grants of one name the highest decides.")
    ] = None,
) -> None:
    """Have a grant follow another channel, or a group's come before others. What is out goes there by workspace upgrade."""
    with admin() as server:
        found = server.change_grant(grant, channel or None, rank)
    out.say(f"Grant {grant} follows {found['channel']}" + (f", rank {found['rank']}." if found["group"] else "."))
    if channel:
        out.note(f"What is out goes to it with:  twofold workspace upgrade {found['workspace']}")


@app.command()
def remove(
    grant: Number,
    yes: out.Yes = False,
) -> None:
    """End a grant now. A lease on it is not renewed."""
    with admin() as server:
        out.confirm(
            f"Remove grant {grant}?",
            lost="the right to check this workspace out, where no other grant gives it; of each member, for a group's.",
            safe="what lies on devices already, and all that was backed up.",
            yes=yes,
        )
        server.remove_grant(grant)
    out.say(f"Grant {grant} is removed.")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    to = f"group {row['group']}, rank {row['rank']}" if row["group"] else row["user"]
    return row | {"to": to, "ends": out.when(row["ends"])}
