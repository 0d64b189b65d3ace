"""A workspace's back ups on the company's server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from twofold.cli import ask, names, out
from twofold.cli.out import Form

if TYPE_CHECKING:
    from twofold.agent.client import Client

For = Annotated[
    str, typer.Option("--for", metavar="DEVICE-KEY", help="Let this device open it: what 'disk key' says there.")
]


Defer = Annotated[bool, typer.Option("--defer", help="Put backing up by itself off by two hours instead.")]


def backup(workspace: ask.Workspace = "", key: For = "", defer: Defer = False, output: out.Output = Form.TABLE) -> None:
    """Send what is new of a workspace to the server, sealed. It may run meanwhile, and goes on after a cut."""
    with ask.agent() as client:
        name = ask.named(client, workspace)
        if defer:
            until = client.call("defer", workspace=name)["until"]
            out.say(f"{name} is not backed up by itself before {out.when(until)}.")
            return
        found = ask.work(client, "backup", output, workspace=name, key=key)["result"]
    if output is Form.TABLE:
        where = "is on the server" if found["kind"] == "line" else "is on the server, beside what another device wrote"
        out.say(f"{name} as it was {out.when(found['time'])} {where}: {out.size(found['bytes'])}, sealed.")
        out.say(f"Sent: {found['sent_files']} of {found['files']} files, {out.size(found['sent_bytes'])}.")


def backups(workspace: ask.Workspace = "", output: out.Output = Form.TABLE) -> None:
    """A workspace's back ups on the server, newest first; branches are of devices that came late."""
    with ask.agent() as client:
        found = client.call("backups", workspace=ask.named(client, workspace))["backups"]
    if output is not Form.TABLE:
        out.document("backups", {"backups": found})
        return
    lines = [
        [
            out.when(each["time"]),
            each["kind"],
            each["device_name"] or "the company",
            out.size(each["bytes"]),
            each["id"][:16],
        ]
        for each in found
    ]
    if lines:
        out.table(["of", "kind", "by", "size", "id"], lines)
    else:
        out.note("Nothing is on the server yet. Back up:  twofold backup")


def checkin(workspace: ask.Workspace = "", yes: out.Yes = False, output: out.Output = Form.TABLE) -> None:
    """Back up what is new, give the workspace back, and remove it from this device. Shuts it down first. Prints a receipt."""
    with ask.agent() as client:
        name = ask.named(client, workspace)
        stop = _confirm(client, name, "check it in", yes=yes)
        done = ask.work(client, "checkin", output, workspace=name, **stop)["result"]
    if output is Form.TABLE:
        if "bytes" in done:
            out.say(f"{name} is on the server: {out.size(done['bytes'])}, sealed; sent {out.size(done['sent_bytes'])}.")
        out.fields(output, "receipt", done["receipt"])


def discard(
    workspace: Annotated[str, typer.Argument(help="Its name.", show_default=False, autocompletion=names.workspaces)],
    backup: Annotated[bool, typer.Option("--backup", help="Back up first, so that nothing is lost.")] = False,
    yes: out.Yes = False,
    output: out.Output = Form.TABLE,
) -> None:
    """Give up what is not on the server, and remove the workspace from this device. Shows first what is lost."""
    with ask.agent() as client:
        if backup:
            stop = _confirm(client, workspace, "discard it", yes=yes)
            done = ask.work(client, "discard", output, workspace=workspace, yes=True, backup=True, **stop)
        else:
            found = ask.work(client, "loss", Form.TABLE, workspace=workspace)["result"]
            out.confirm(
                f"Discard {workspace} on this device?",
                lost=_lost(found),
                safe=f"what was on the server {out.when(found['backed_up'])}, and everything that is yours on this computer."
                if found["backed_up"]
                else "everything that is yours on this computer, and other workspaces.",
                yes=yes,
            )
            done = ask.work(client, "discard", output, workspace=workspace, yes=True)
    if output is Form.TABLE:
        out.fields(output, "receipt", done["result"]["receipt"])


_WAKES = ("suspended", "resuming", "suspending")


def _confirm(client: Client, name: str, then: str, *, yes: bool) -> dict[str, bool]:
    """What a machine that runs or sleeps loses by being shut down, and a yes; nothing where there is nothing to shut down."""
    run = client.call("info", workspace=name)["run"]
    if run in ("off", "broken"):
        return {}
    out.confirm(
        f"{'Wake' if run in _WAKES else 'Shut'} {name}{', shut it' if run in _WAKES else ''} down and {then}?",
        lost="what is open in it and was not saved; you can go on working until it is shut down.",
        safe="everything on its disks: nothing is given up before all of it is on the server. If it does not shut down, "
        "nothing changes.",
        yes=yes,
    )
    return {"stop": True}


def _lost(found: dict[str, Any]) -> str:
    """What discarding gives up, as people say it."""
    if not found["backed_up"]:
        return "everything in it: it was never backed up."
    new = "what was written" if found["changed"] is None else f"{out.size(found['changed'])} written"
    opened = ", and what is open in it now" if found["open"] else ""
    if found["changed"] == 0 and not found["open"]:
        return "nothing: all of it is on the server."
    return f"{new} since it was backed up {out.when(found['backed_up'])}{opened}."
