"""A workspace's sealed store on this disk: what it takes, whether it is whole, and its way to another device."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from twofold.cli import ask, names, out
from twofold.cli.out import Form
from twofold.model.errors import UsageError

app = typer.Typer(
    no_args_is_help=True,
    help="A workspace's sealed store on this disk: whether it is whole, mending it, taking it to another device.",
)


To = Annotated[Path, typer.Option("--to", help="The folder, on a stick say; an older export in it gets what is new.")]
Number = Annotated[int, typer.Option("--generation", help="An older one; else the state of now.", show_default=False)]
For = Annotated[
    str, typer.Option("--for", metavar="DEVICE-KEY", help="Let this device open it: what 'disk key' says there.")
]
From = Annotated[
    str, typer.Option("--from", metavar="DEVICE", help="The device that it comes from: what 'disk key' says there.")
]
Exported = Annotated[Path, typer.Argument(help="What 'disk export' made.", show_default=False)]
Size = Annotated[str, typer.Argument(help="The new size, as 20G: M, G and T are MiB, GiB and TiB.", show_default=False)]
Named = Annotated[
    str, typer.Argument(help="The workspace's name.", show_default=False, autocompletion=names.workspaces)
]


@app.command()
def info(workspace: ask.Workspace = "", output: out.Output = Form.TABLE) -> None:
    """What a workspace's sealed store holds and takes."""
    with ask.agent() as client:
        found = ask.work(client, "disk_info", Form.TABLE, workspace=ask.named(client, workspace))["result"]
    if output is not Form.TABLE:
        out.document("disk", found)
        return
    sizes = {f"device {each['name']}": _device(each) for each in found["devices"]}
    out.fields(
        output, "disk",
        {"workspace": found["workspace"]} | sizes | {
            "on this disk": f"{out.size(found['files'])} in {found['segments']} segments, {out.size(found['live'])} of it needed",
            "made": out.when(found["made"]), "format": f"version {found['format']['version']}", "key epoch": found["epoch"],
            **_growth(found), "state": found["head"], "newest known state": found["anchored"] or "none",
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
        found = ask.work(client, "disk_touched", Form.TABLE, workspace=ask.named(client, workspace))["result"]
    out.document("first-boot", found)


@app.command()
def repair(workspace: ask.Workspace = "", yes: out.Yes = False, output: out.Output = Form.TABLE) -> None:
    """Give up what is lost of a workspace's store, so that the rest can be used. Shows first what is lost and what is safe."""
    with ask.agent() as client:
        name = ask.named(client, workspace)
        found = ask.work(client, "disk_survey", Form.TABLE, workspace=name)["result"]
        plan = found["plan"]
        if plan["sound"]:
            if output is not Form.TABLE:
                out.document("disk-repair", {"plan": plan, "done": None})
            else:
                out.say("Everything is whole; there is nothing to repair.")
            return
        lost, safe = _words(plan)
        for line in lost:
            out.note(f"  lost: {line}")
        for line in safe:
            out.note(f"  safe: {line}")
        out.confirm(
            f"Give up what is lost of {name}, and go on with the rest?",
            lost="what is named above, for good. If there is a backup of the folder or an export, use that instead.",
            safe="everything that is not named.",
            yes=yes,
        )
        done = ask.work(client, "disk_repair", Form.TABLE, workspace=name, yes=True, plan=found["digest"])["result"]
    if output is not Form.TABLE:
        out.document("disk-repair", {"plan": plan, "done": done})
        return
    out.say(f"{name} can be started again; its store is at {done['anchored']}.")
    if done["zeroed"]:
        out.say(
            f"{out.size(done['zeroed'])} are empty now. Inside, check the file systems (fsck): files may have lain there."
        )


@app.command()
def upgrade(workspace: ask.Workspace = "", output: out.Output = Form.TABLE) -> None:
    """Give a workspace's store the newest format, in place; it may run meanwhile."""
    with ask.agent() as client:
        name = ask.named(client, workspace)
        found = ask.work(client, "disk_upgrade", output, workspace=name)["result"]
    if output is Form.TABLE:
        now = f"the newest format, version {found['format']['version']}"
        out.say(f"{name} has {now}, now." if found["upgraded"] else f"{name} is already at {now}.")


@app.command()
def resize(workspace: Named, size: Size, output: out.Output = Form.TABLE) -> None:
    """Make the disk that a workspace's work lies on larger: at once, or at its next start if it runs. Never smaller."""
    with ask.agent() as client:
        args = {"workspace": ask.named(client, workspace), "size": _bytes(size)}
        found = ask.work(client, "disk_resize", output, **args)["result"]
    if output is not Form.TABLE:
        return
    if found["size"] == found["was"]:
        out.say(f"{workspace} has {out.size(found['size'])}; it stays like that.")
        return
    at_once, had = found["at"] == "now", f"it had {out.size(found['was'])}"
    disk = f"The {found['device']} disk of {workspace}"
    out.say(
        f"{disk} has {out.size(found['size'])} now; {had}."
        if at_once
        else f"{disk} gets {out.size(found['size'])} when it is shut down and started again; {had}."
    )
    if found["inside"]:
        out.say(f"Its file system grows by itself at {'its next' if at_once else 'that'} start.")
    else:
        out.say("Only the disk grows: inside, enlarge its partition and file system with that system's own tools.")


@app.command()
def key(output: out.Output = Form.TABLE) -> None:
    """Who this device is to others: its id, for --from, and the key that others can wrap a workspace's keys for, for --for."""
    with ask.agent() as client:
        found = client.call("device")
    out.fields(output, "device-keys", found)


@app.command()
def export(
    to: To, workspace: ask.Workspace = "", generation: Number = 0, key: For = "", output: out.Output = Form.TABLE
) -> None:
    """Copy a workspace's sealed store to a folder: verified, and only what the folder lacks. It may run meanwhile."""
    with ask.agent() as client:
        name = ask.named(client, workspace)
        args = {"workspace": name, "to": str(to.absolute()), "generation": generation, "key": key}
        found = ask.work(client, "disk_export", output, **args)["result"]
    if output is Form.TABLE:
        out.say(
            f"Generation {found['generation']} of {name} is in {found['folder']}: {out.size(found['bytes'])}, sealed."
        )
        out.say(f"Copied: {found['sent_files']} of {found['files']} files, {out.size(found['sent_bytes'])}.")
        out.say(f"This device, for --from:  {found['signer']}")
        if not found["key_for"]:
            out.say("No key is with it: nobody can open it until one is, with --for.")


@app.command(name="import")
def import_(folder: Exported, workspace: Named, signer: From = "", output: out.Output = Form.TABLE) -> None:
    """Go on here with a workspace from an exported folder. From then on older keys open nothing new of it."""
    if signer and (len(signer) != 64 or signer.strip("0123456789abcdef")):
        raise UsageError("A device's id has 64 hex digits.", next="Take it from  twofold disk key  on that device.")
    with ask.agent() as client:
        args = {"workspace": workspace, "folder": str(folder.absolute()), "signer": signer}
        found = ask.work(client, "disk_import", output, **args)["result"]
    if output is Form.TABLE:
        when = out.when(found["time"])
        out.say(
            f"{workspace} is here as it was at generation {found['generation']} ({when}), under key epoch {found['epoch']}."
        )
        if found["memory_forgotten"]:
            out.say("Its suspended memory was left behind: it boots.")
        out.say(f"Start it:  twofold open {workspace}")


def _words(plan: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What a repair gives up, and what stays, as people say it."""
    lost, safe = [], []
    if plan["age"]:
        lost.append(f"whether this is the newest state: {plan['age']}. Work done after this copy was made is not in it")
    if plan["end"]:
        lost.append(
            f"what was written last, {out.size(plan['end']['at_most'])} at most; it can't be told where ({plan['end']['why']})"
        )
    for each in plan["devices"]:
        if not each["lost"]["bytes"]:
            safe.append(f"disk {each['name']}, all of it")
            continue
        whose = " (the company's; checking out anew brings it back)" if each["read_only"] else ""
        lost.append(
            f"disk {each['name']}{whose}: {out.size(each['lost']['bytes'])} of {out.size(each['size'])}, which become zeroes:"
        )
        lost += [
            f"  bytes {row['offset']} to {row['offset'] + row['length']} ({row['why']})"
            for row in each["lost"]["ranges"]
        ]
        safe.append(f"disk {each['name']}, all else")
    lost += [f"generation {row['generation']} of {out.when(row['time'])} ({row['why']})" for row in plan["generations"]]
    safe += [f"generation {row['generation']} of {out.when(row['time'])}" for row in plan["kept"]]
    if plan["memory"] == "lost":
        lost.append("the suspended memory: it boots next time")
    elif plan["memory"] == "safe":
        safe.append("the suspended memory")
    if not plan["repairable"]:
        lost.append("more than a repair can give up: the store stays as it is")
    return lost, safe


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
            out.say(f"To go on without it:  twofold disk repair {name}")
    if lost or memory or kept:
        raise typer.Exit(7)


def _growth(found: dict[str, Any]) -> dict[str, str]:
    inside, wanted = found["inside"], found["grow_to"]
    said = {"file system inside": out.size(inside["files"])} if inside is not None else {}
    return said | ({"at its next start": f"a disk of {out.size(wanted)}"} if wanted else {})


_UNITS = {"M": 20, "G": 30, "T": 40}


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,9})([MGT])(?:iB)?", text)
    if found is None:
        raise UsageError(f"'{text:.40}' is no size.", next="Say it as 20G, 512M or 1T.")
    return int(found[1]) << _UNITS[found[2]]


def _device(each: dict[str, Any]) -> str:
    return out.size(each["size"]) + (", read-only" if each["read_only"] else "")
