"""Groups of people, for administrators. What they give is said by grants:  twofold grant add GROUP IMAGE --group"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from twofold.cli import out
from twofold.cli.out import Form
from twofold.cli.session import admin

app = typer.Typer(
    no_args_is_help=True, help="Groups of people (for administrators): create, list, show, join, leave, delete."
)
Group = Annotated[str, typer.Argument(metavar="GROUP", help="A group's name.")]
Users = Annotated[list[str], typer.Argument(metavar="USER", help="Who; several at once if you like.")]
_SAFE = "all that was backed up, and what lies on devices; who joins again has the same workspaces again."


@app.command()
def create(name: Annotated[str, typer.Argument(help="Small letters, digits and inner hyphens.")]) -> None:
    """Make a group, with nobody in it."""
    with admin() as server:
        server.create_group(name)
    out.say(f"{name} is created. Let people in:  twofold group join {name} USER")


@app.command("list")
def list_(output: out.Output = Form.TABLE) -> None:
    """Groups, and how many workspaces are there by each."""
    with admin() as server:
        found = server.list_groups()
    out.rows(output, "groups", ["name", "members", "grants", "workspaces", "out"], found, "There is no group.")


@app.command()
def show(group: Group, output: out.Output = Form.TABLE) -> None:
    """Who is in a group, and what it gives."""
    with admin() as server:
        found = server.group(group)
    if output is not Form.TABLE:
        out.document("group", found)
        return
    given = [f"{row['grant']} {row['workspace']} from {row['image']}, {row['channel']}" for row in found["given"]]
    people = [row["user"] for row in found["people"]]
    shown = {"name": group, "members": ", ".join(people) or "nobody", "grants": "; ".join(given) or "none"}
    out.fields(output, "group", shown | {"workspaces": f"{found['workspaces']}, {found['out']} on a device now"})


@app.command()
def join(group: Group, users: Users) -> None:
    """Let users in. They may check out what the group's grants give."""
    with admin() as server:
        for user in users:
            server.join_group(group, user)
            out.say(f"{user} is in {group}.")


@app.command()
def leave(group: Group, users: Users, yes: out.Yes = False) -> None:
    """Put users out. A lease on what they have by this group alone is not renewed."""
    with admin() as server:
        out.confirm(
            f"Put {', '.join(users)} out of {group}?",
            lost="their right to what this group alone gives them; devices that have it go on until their lease ends.",
            safe=_SAFE,
            yes=yes,
        )
        for user in users:
            server.leave_group(group, user)
            out.say(f"{user} is no longer in {group}.")


@app.command()
def delete(group: Group, yes: out.Yes = False) -> None:
    """End a group and its grants. Shows first what is lost."""
    with admin() as server:
        out.confirm(f"Delete {group}?", lost=_lost(server.group(group)), safe=_SAFE, yes=yes)
        server.delete_group(group)
    out.say(f"{group} is deleted.")


def _lost(found: dict[str, Any]) -> str:
    names = ", ".join(sorted({row["workspace"] for row in found["given"]})) or "nothing"
    there = f"{found['workspaces']} workspaces are there by it, {found['out']} of them on a device"
    return (
        f"the right of {found['members']} members to {names}, where no other grant gives it ({there}); "
        "their leases are not renewed."
    )
