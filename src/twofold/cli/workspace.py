"""What administrators have done to workspaces wherever they are: another version of their image, their system anew."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from twofold.cli import out
from twofold.cli.session import admin
from twofold.model.errors import NotFoundError

app = typer.Typer(no_args_is_help=True, help="Workspaces wherever they are (for administrators): upgrade, reset.")
Name = Annotated[str, typer.Argument(metavar="WORKSPACE", help="Its name, or its number as `lease list` shows it.")]
User = Annotated[str, typer.Option("--user", help="Of this user alone; of everybody who has it otherwise.")]
Group = Annotated[str, typer.Option("--group", help="Of those alone who have it by this group.")]
_SAFE = "the user's own disk, and all that was backed up."


@app.command()
def upgrade(
    workspace: Name,
    user: User = "",
    group: Group = "",
    version: Annotated[
        int, typer.Option("--image-version", min=0, help="What its channel has, if not given; an older one goes back.")
    ] = 0,
    yes: out.Yes = False,
) -> None:
    """Have workspaces go to another version of their image at their next start, also while they are checked out."""
    with admin() as server:
        found = _meant(server.list_workspaces(), workspace, user, group)
        _confirm(f"Upgrade {_counted(found)} of {workspace}?", "at its next start: ", yes)
        for row in found:
            _ask(server, row, "upgrade", version)


@app.command()
def reset(workspace: Name, user: User = "", yes: out.Yes = False) -> None:
    """Have workspaces' systems begin anew at their next start: what was changed in them is dropped."""
    with admin() as server:
        found = _meant(server.list_workspaces(), workspace, user)
        _confirm(f"Reset {_counted(found)} of {workspace}?", "at its next start: ", yes)
        for row in found:
            _ask(server, row, "reset")


def _confirm(question: str, when: str, yes: bool) -> None:
    lost = (
        f"{when}what was changed or installed in the system outside the user's own disk; everything where the image has "
        "no such disk; and memory that is suspended where it is booted."
    )
    out.confirm(question, lost=lost, safe=_SAFE, yes=yes)


def _meant(rows: list[dict[str, Any]], workspace: str, user: str, group: str = "") -> list[dict[str, Any]]:
    """
    Raises:
        NotFoundError: there is none.
    """
    found = [row for row in rows if workspace in (row["workspace"], str(row["number"])) and user in ("", row["user"])]
    found = [row for row in found if group in ("", row.get("group"))]
    if not found:
        whose = (f" of {user}" if user else "") + (f" by group {group}" if group else "")
        raise NotFoundError(f"There is no workspace {workspace}{whose}.", next="See what there is:  twofold lease list")
    return found


def _counted(found: list[dict[str, Any]]) -> str:
    return f"the one of {found[0]['user']}" if len(found) == 1 else f"{len(found)} workspaces"


def _ask(server: Any, row: dict[str, Any], verb: str, version: int = 0) -> None:
    """One after the other: what one of them refuses keeps none of the others from it."""
    from twofold.model.errors import ConflictError

    whose = f"{row['workspace']} of {row['user']} ({row['number']})"
    try:
        made = server.ask(row["number"], verb, version=version)
    except ConflictError as no:
        out.note(f"{whose}: {no.happened}")
        return
    if not made["command"]:
        out.say(f"{whose}: nobody has it; whoever takes it next is asked.")
        return
    where = f" to version {made['version']}" if made["version"] else ""
    out.say(f"{whose}: asked{where}, request {made['command']}. Its receipt:  twofold lease asked {row['number']}")
