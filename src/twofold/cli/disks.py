"""A workspace's sealed store on this disk: what it takes, whether it is whole."""

from __future__ import annotations

from typing import Any

import typer

from twofold.cli import ask, out
from twofold.cli.out import Form

app = typer.Typer(no_args_is_help=True, help="A workspace's sealed store on this disk: info, check, verify, repair.")


@app.command()
def info(workspace: ask.Workspace = "", output: out.Output = Form.TABLE) -> None:
    """What a workspace's sealed store holds and takes."""
    with ask.agent() as client:
        found = ask.work(client, "disk_info", Form.TABLE, workspace=ask.named(client, workspace))["result"]
    if output is Form.JSON:
        out.document("disk", found)
        return
    sizes = {f"device {each['name']}": _device(each) for each in found["devices"]}
    out.fields(
        output, "disk",
        {"workspace": found["workspace"]} | sizes | {
            "on this disk": f"{out.size(found['files'])} in {found['segments']} segments, {out.size(found['live'])} of it needed",
            "made": out.when(found["made"]), "key epoch": found["epoch"], "state": found["head"],
            "newest known state": found["anchored"] or "none",
        },
    )  # fmt: skip


@app.command()
def check(workspace: ask.Workspace = "", output: out.Output = Form.TABLE) -> None:
    """Whether a workspace's store and its map are whole; quick. Exit code 7 where something is lost."""
    _check(workspace, output, data=False)


@app.command()
def verify(workspace: ask.Workspace = "", output: out.Output = Form.TABLE) -> None:
    """Open every block of a workspace's store, and name what is lost. Exit code 7 where something is."""
    _check(workspace, output, data=True)


@app.command()
def touched(workspace: ask.Workspace = "") -> None:
    """What the running start has read of the image, in that order, as JSON: for 'image publish --first-boot'."""
    with ask.agent() as client:
        found = ask.work(client, "disk_touched", Form.JSON, workspace=ask.named(client, workspace))["result"]
    out.document("first-boot", found)


@app.command()
def repair(workspace: ask.Workspace = "", yes: out.Yes = False, output: out.Output = Form.TABLE) -> None:
    """Go on with the store that is here, although it is older than it was or its anchor is lost."""
    with ask.agent() as client:
        name = ask.named(client, workspace)
        out.confirm(
            f"Go on with the store of {name} as it is here?",
            lost="work that was done after this copy was made, if there was any, and suspended memory.",
            safe="what is in this copy.",
            yes=yes,
        )
        found = ask.work(client, "disk_repair", output, workspace=name, yes=True)["result"]
    if output is Form.TABLE:
        out.say(f"{name} can be started again; its store is at {found['anchored']}.")


def _check(workspace: str, output: Form, *, data: bool) -> None:
    with ask.agent() as client:
        name = ask.named(client, workspace)
        found = ask.work(client, "disk_check", output, workspace=name, data=data)["result"]
    lost = [(each["name"], each["lost"]) for each in found["devices"] if each["lost"]["bytes"]]
    memory = found["memory"] not in ("none", "stored", "outdated", "whole")
    kept = found["generations"]
    if output is Form.TABLE:
        for each in found["devices"]:
            said = f"{out.size(each['lost']['bytes'])} lost" if each["lost"]["bytes"] else "whole"
            out.say(f"{each['name']}: {out.size(each['stored'])} written, {said}")
        for device, losses in lost:
            for each in losses["ranges"]:
                out.say(f"  lost: {device} at {each['offset']}, {each['length']} bytes ({each['why']})")
        for each in kept:
            where = f": {each['device']} at {each['offset']}, {each['length']} bytes" if "device" in each else ""
            out.say(f"  lost: generation {each['generation']}{where} ({each['why']})")
        for each in found["notes"]:
            out.say(f"  no loss: {each}")
        out.say(f"suspended memory: {'lost: ' if memory else ''}{found['memory']}")
        out.say(
            "What is not named is whole."
            if lost or memory or kept
            else "Everything is whole."
            if data
            else "The map is whole."
        )
    if lost or memory or kept:
        raise typer.Exit(7)


def _device(each: dict[str, Any]) -> str:
    return out.size(each["size"]) + (", read-only" if each["read_only"] else "")
