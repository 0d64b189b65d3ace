"""Where workspaces are and what became of them, for administrators."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from twofold.cli import out
from twofold.cli.out import Form
from twofold.cli.session import admin
from twofold.model.errors import NotFoundError

app = typer.Typer(
    no_args_is_help=True,
    help="Leases (for administrators): list, show, points, break, restore, ask, asked, withdraw.",
)
Number = Annotated[int, typer.Argument(help="The workspace's number, as `twofold lease list` shows it.")]
_COLUMNS = ["number", "user", "workspace", "status", "device_name", "contact", "backed_up", "lease_left", "branches"]


@app.command("list")
def list_(output: out.Output = Form.TABLE) -> None:
    """Every workspace: who has it, when it was last heard of and backed up, how long its lease lasts."""
    with admin() as server:
        found = server.list_workspaces()
    if output is Form.TABLE:
        found = [_shown(row) for row in found]
    out.rows(output, "workspaces", _COLUMNS, found, "There is no workspace.")


@app.command()
def show(number: Number, output: out.Output = Form.TABLE) -> None:
    """One workspace, and who held it."""
    with admin() as server:
        found = server.workspace(number)
    if output is not Form.TABLE:
        out.document("workspace", found)
        return
    holders = [f"{row['token']} {row['device_id'][:16]} {row['how'] or 'now'}" for row in found["holders"]]
    out.fields(output, "workspace", _shown(found) | {"holders": ", ".join(holders) or "none"})


@app.command()
def points(number: Number, output: out.Output = Form.TABLE) -> None:
    """What was backed up, newest first: the line, and branches of devices that came late."""
    with admin() as server:
        found = server.list_generations(number)
    if output is Form.TABLE:
        found = [
            row | {"id": row["id"][:16], "committed": out.when(row["committed"]), "bytes": out.size(row["bytes"])}
            for row in found
        ]
    columns = ["id", "kind", "number", "committed", "device_name", "bytes", "kept"]
    out.rows(output, "points", columns, found, "Nothing was backed up yet.")


@app.command("break")
def break_(
    number: Number,
    why: Annotated[str, typer.Option("--why", max=100, help="For the audit log.")] = "",
    yes: out.Yes = False,
) -> None:
    """Take a workspace away from the device that has it. What that device still sends is kept beside, as a branch."""
    with admin() as server:
        told = server.loss(number)
        backed_up = out.when(told["backed_up"])
        out.confirm(
            f"Take workspace {number} away from '{told['device_name']}'?",
            lost=f"what was done there since its last back up ({backed_up}), unless the device sends it later.",
            safe="all that was backed up. What the device sends later becomes a branch that you can restore. "
            f"It may go on running there until {out.when(told['may_run_until'])}, or until it hears of this.",
            yes=yes,
        )
        server.break_lease(number, told["loss"], why)
    out.say(f"Workspace {number} is free.")


@app.command()
def restore(
    number: Number,
    point: Annotated[str, typer.Argument(help="The beginning of a point's id, as `twofold lease points` shows it.")],
    yes: out.Yes = False,
) -> None:
    """Go back to an earlier point, or to a branch. What is newest now stays a point."""
    with admin() as server:
        row, chosen = server.workspace(number), _chosen(server.list_generations(number), point)
        out.confirm(
            f"Go back to point {chosen['id'][:16]} of {out.when(chosen['committed'])}?",
            lost="nothing: what is newest now can be restored in the same way.",
            safe="all points.",
            yes=yes,
        )
        made = server.restore(number, chosen["id"], row["head"])
    out.say(f"The next check-out begins from {chosen['id'][:16]} (point {made[:16]}).")


@app.command()
def ask(
    number: Number,
    verb: Annotated[str, typer.Argument(help="lock, unlock, wipe, replicate, discard or replicate-discard.")],
    device: Annotated[str, typer.Option("--device", help="A device that held it before; the holder otherwise.")] = "",
    yes: out.Yes = False,
) -> None:
    """Ask a device for something: at once where it is connected, at its next heartbeat otherwise."""
    with admin() as server:
        if verb in ("wipe", "discard"):
            out.confirm(
                f"Ask for {verb} of workspace {number}?",
                lost="what that device has of it and has not backed up.",
                safe="all that was backed up, and everything of the person's own.",
                yes=yes,
            )
        made = server.ask(number, verb, device)
    out.say(f"Request {made['command']} is {made['state']}.")


@app.command()
def asked(number: Number, output: out.Output = Form.TABLE) -> None:
    """What was asked of devices, and their receipts."""
    with admin() as server:
        found = server.list_asked(number)
    if output is Form.TABLE:
        found = [
            row | {"asked": out.when(row["asked"]), "receipt": (row["receipt"] or {}).get("detail", "")}
            for row in found
        ]
    out.rows(output, "requests", ["command", "verb", "state", "asked", "by", "receipt"], found, "Nothing was asked.")


@app.command()
def withdraw(number: Number, request: Annotated[int, typer.Argument(help="Its number, as `asked` shows it.")]) -> None:
    """Take back a request that no device has been told of."""
    with admin() as server:
        server.withdraw(number, request)
    out.say(f"Request {request} is withdrawn.")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    days, rest = divmod(int(row["lease_left"]), 86400)
    left = f"{days} d {rest // 3600} h" if row["device"] else ""
    times = {name: out.when(row[name]) for name in ("contact", "backed_up", "since")}
    return row | times | {"lease_left": left, "status": row["status"] + (", paused" if row["paused"] else "")}


def _chosen(points_: list[dict[str, Any]], start: str) -> dict[str, Any]:
    found = [row for row in points_ if len(start) >= 8 and row["id"].startswith(start)]
    if len(found) != 1:
        raise NotFoundError(
            f"There is no one point whose id begins with '{start[:20]}'.",
            next="Give at least 8 characters of one that `twofold lease points` shows.",
        )
    return found[0]
