"""Workspaces on this device: list, status, info, check out, power, open, remove."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from twofold.cli import ask, names, out
from twofold.cli.out import Form

Boot = Annotated[bool, typer.Option("--boot", help="Boot even where memory is stored; what was open is given up.")]


def list_(output: out.Output = Form.TABLE) -> None:
    """Workspaces on this device, broken ones too, and those that could be brought here."""
    with ask.agent() as client:
        found = client.call("list")["workspaces"]
        here = {each["workspace"] for each in found}
        granted = [each for each in _available(client) if each["workspace"] not in here]
    if output is not Form.TABLE:
        out.document("workspaces", {"workspaces": found, "available": granted})
        return
    lines = [[each["key"] or "", each["workspace"], each["title"], _state(each), _where(each)] for each in found]
    lines += [["", each["workspace"], each["title"], "not here yet", "server"] for each in granted]
    if lines:
        out.table(["key", "workspace", "name", "state", "where"], lines)
    else:
        out.note("Nothing here yet. Enrol this device:  twofold enrol URL")
    _errors(found)


def status(output: out.Output = Form.TABLE) -> None:
    """What runs now, in one line a workspace. Starts nothing: exit code 9 where no agent runs."""
    with ask.running_agent() as client:
        found = client.call("list")["workspaces"]
    if output is not Form.TABLE:
        out.document("workspaces", {"workspaces": found})
        return
    for each in found:
        out.say(f"{each['title']}: {_state(each)}; {_where(each)}")
    _errors(found)


def info(workspace: ask.Workspace = "", output: out.Output = Form.TABLE) -> None:
    """Everything about one workspace."""
    with ask.agent() as client:
        found = client.call("info", workspace=ask.named(client, workspace))
    if output is not Form.TABLE:
        out.document("workspace", found)
        return
    where, policy = found["whereabouts"], found["policy"]
    allowed = [name.replace("_", " ") for name, value in policy.items() if value is True]
    out.fields(
        output,
        "workspace",
        {
            "workspace": found["workspace"],
            "name": found["title"],
            "state": _state(found),
            "key": found["key"] or "none",
            "image": f"{found['image']} version {found['version']}{_next(found['pending'])}",
            "runs on": found["accelerator"] or "nothing now",
            "guest agent": "answers"
            if found["agent_up"]
            else "no answer"
            if found["has_agent"]
            else "none in this system",
            "in memory": where["in_memory"],
            "image here": _stock(found["base"]),
            "on this disk, verified": out.when(where["on_disk_verified_at"]),
            "on the server": out.when(where["on_server_at"]),
            "still to come": out.size(rest["of"] - rest["here"]) if (rest := found.get("rest")) else "nothing",
            "allowed": ", ".join(allowed) or "nothing crosses",
            "offline until": out.when(found["expires"]),
        },
    )
    _errors([found])


def checkout(
    workspace: ask.Workspace = "",
    stick: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="A folder that `image export` made: its pieces come first."),
    ] = None,
    output: out.Output = Form.TABLE,
) -> None:
    """Bring a workspace to this device, or replace what is damaged of one that is here; its disks are not touched."""
    with ask.agent() as client:
        name = workspace or _only_grant(client)
        done = ask.work(client, "checkout", output, workspace=name, stick=str(stick.absolute()) if stick else "")
    if output is Form.TABLE:
        result = done["result"]
        if "repaired" in result:
            out.say(f"{name} is on this device already; replaced: {', '.join(result['repaired'])}.")
        elif "already" in result:
            out.say(f"{name} is on this device already, and whole.")
        else:
            out.say(f"{name} is on this device: {out.size(result['stored'])} sealed, in {result['seconds']:.1f} s.")


def start(workspace: ask.Workspace = "", boot: Boot = False, output: out.Output = Form.TABLE) -> None:
    """Start a workspace: resume it where its memory is stored and fits, else boot it."""
    with ask.agent() as client:
        name = ask.named(client, workspace)
        result = ask.work(client, "start", output, workspace=name, boot=boot)["result"]
    if output is Form.TABLE:
        if "already" in result:
            out.say(f"{name} runs already.")
        else:
            out.say(f"{name} {'goes on where it was' if result['resumed'] else 'boots'} ({result['seconds']:.1f} s).")


def unlock(
    workspace: ask.Workspace = "",
    new: Annotated[
        bool, typer.Option("--new", help="Choose a code, or another one once the old one was given.")
    ] = False,
) -> None:
    """Give a workspace's unlock code, so that it can start. It is asked for, or read from standard input."""
    from twofold.cli.session import password

    with ask.agent() as client:
        name = ask.named(client, workspace)
        client.call("unlock", workspace=name, code=password("Unlock code", confirm=new), new=new)
    out.say(f"{name} opens with that code from now on." if new else f"{name} is unlocked.")


def suspend(workspace: ask.Workspace = "", output: out.Output = Form.TABLE) -> None:
    """Seal a workspace's memory on this disk and end its machine; start goes on from there."""
    _power("suspend", workspace, output, "is suspended, its memory sealed on this disk")


def stop(workspace: ask.Workspace = "", output: out.Output = Form.TABLE) -> None:
    """Shut a workspace down cleanly."""
    _power("stop", workspace, output, "is off")


def pause(workspace: ask.Workspace = "", output: out.Output = Form.TABLE) -> None:
    """Hold a workspace still in memory."""
    _power("pause", workspace, output, "is paused in memory")


def resume(workspace: ask.Workspace = "", output: out.Output = Form.TABLE) -> None:
    """Let a paused workspace go on."""
    _power("resume", workspace, output, "goes on")


def off(workspace: ask.Workspace = "", yes: out.Yes = False, output: out.Output = Form.TABLE) -> None:
    """The power switch: what is only in memory, running or suspended, is lost."""
    with ask.agent() as client:
        name = ask.named(client, workspace)
        out.confirm(
            f"Switch {name} off?",
            lost="what is open in it and was not saved.",
            safe="its disks, as after a power cut.",
            yes=yes,
        )
        ask.work(client, "off", output, workspace=name)
    if output is Form.TABLE:
        out.say(f"{name} is off.")


def reset(
    workspace: Annotated[str, typer.Argument(help="Its name, always in full.", autocompletion=names.workspaces)],
    yes: out.Yes = False,
    output: out.Output = Form.TABLE,
) -> None:
    """Let a workspace's system begin anew at its next start. Shows first what is lost."""
    with ask.agent() as client:
        found = client.call("info", workspace=workspace)
        suspended = "; and what is suspended of it, now" if found["memory_stored"] and not found["pid"] else ""
        out.confirm(
            f"Reset the system of {workspace}?",
            lost=f"{found['system_holds']}, at its next start{suspended}.",
            safe="the user's own disk, all that was backed up, and everything that is yours on this computer.",
            yes=yes,
        )
        ask.work(client, "reset", output, workspace=workspace, yes=True)
    if output is Form.TABLE:
        out.say(f"The system of {workspace} begins anew at its next start.")


def remove(
    workspace: Annotated[str, typer.Argument(help="Its name, always in full.", autocompletion=names.workspaces)],
    yes: out.Yes = False,
    output: out.Output = Form.TABLE,
) -> None:
    """Remove a workspace from this device: its key first, then its sealed store. Prints a receipt."""
    with ask.agent() as client:
        at = client.call("info", workspace=workspace)["whereabouts"]["on_server_at"]
        since = (
            f"what was written since it was backed up, {out.when(at)}" if at else "all of it: it was never backed up"
        )
        out.confirm(
            f"Remove {workspace} from this device?",
            lost=f"everything in it that is only on this device, which is {since}.",
            safe="everything that is yours on this computer, and other workspaces.",
            yes=yes,
        )
        done = ask.work(client, "remove", output, workspace=workspace, yes=True)
    if output is Form.TABLE:
        out.fields(output, "receipt", done["result"]["receipt"])


def open_(
    workspace: ask.Workspace = "",
    boot: Boot = False,
    online: Annotated[
        bool, typer.Option("--online", help="In a browser, run by a node of the company; not on this device.")
    ] = False,
    print_: Annotated[bool, typer.Option("--print", help="With --online: print the address and open nothing.")] = False,
) -> None:
    """Start a workspace and open its window, or show it in a browser where it runs online."""
    from twofold.cli import browser, switcher

    if online or print_:
        with ask.agent() as client:
            browser.show(client.call("online", workspace=workspace or _only_grant(client))["url"], only_print=print_)
        return
    with ask.agent() as client:
        name = ask.named(client, workspace)
        ask.work(client, "start", workspace=name, boot=boot)
        path = client.path
        if not _shows(client, name):
            client.close()
            switcher.run(path, name)


def switch(
    workspace: Annotated[
        str,
        typer.Argument(
            help="A workspace, or `personal`; without one the switcher toggles.", autocompletion=names.sides
        ),
    ] = "",
) -> None:
    """Bring a workspace to the front of the open switcher, or the personal side back."""
    from twofold.model.errors import ConflictError

    with ask.running_agent() as client:
        if not _shows(client, workspace):
            raise ConflictError("The switcher is not open.", next="Open it:  twofold open")


def _shows(client: Any, workspace: str) -> bool:
    """Ask an open switcher to show a workspace; False where none is open."""
    return bool(client.call("switch", workspace=workspace)["shown"])


def _power(verb: str, workspace: str, output: Form, words: str) -> None:
    with ask.agent() as client:
        name = ask.named(client, workspace)
        done = ask.work(client, verb, output, workspace=name)
    if output is Form.TABLE:
        seconds = done["result"].get("seconds")
        out.say(f"{name} {words}" + (f" ({seconds:.1f} s)." if seconds is not None else "."))


def _stock(base: dict[str, Any] | None) -> str:
    if base is None or base["here"] == base["of"]:
        return "all of it"
    waits = "; the rest waits: this network is paid for by volume" if base.get("held") else ""
    return f"{out.size(base['here'])} of {out.size(base['of'])}{waits}"


def _next(pending: dict[str, Any] | None) -> str:
    if pending is None:
        return ""
    return {
        "upgrade": f", at the next boot version {pending['version']}, its system anew",
        "fetch": f"; version {pending['version']} is being brought",
        "reset": ", its system anew at the next boot",
    }.get(pending["change"], ", the former one at the next boot")


def _available(client: Any) -> list[dict[str, Any]]:
    """What the server grants; nothing where it is away or unknown: the list of what is here must not depend on it."""
    from twofold.model.errors import TwofoldError

    try:
        grants: list[dict[str, Any]] = client.call("available", deadline=5)["grants"]
    except TwofoldError:
        return []
    return grants


def _only_grant(client: Any) -> str:
    from twofold.model.errors import NotFoundError, UsageError

    names = [each["workspace"] for each in client.call("available")["grants"]]
    if not names:
        raise NotFoundError("Your company grants you no workspace yet.", next="Ask your administrator.")
    if len(names) > 1:
        raise UsageError("Which workspace?", next=f"Name one of: {', '.join(names)}.")
    return str(names[0])


def _state(each: dict[str, Any]) -> str:
    if each["run"] == "running" and each.get("doze") == "dozing":
        return "running (resting)"
    return str(each["run"] if each["custody"] == "checked-out" or each["run"] == "broken" else each["custody"])


def _where(each: dict[str, Any]) -> str:
    where = each["whereabouts"]
    facts = ["in memory"] if where["in_memory"] else []
    if where["on_disk_verified_at"]:
        facts.append(f"this disk, verified {out.when(where['on_disk_verified_at'])}")
    facts.append(f"server {out.when(where['on_server_at'])}" if where["on_server_at"] else "not on the server")
    if rest := each.get("rest"):
        facts.append(f"{100 * rest['here'] // max(rest['of'], 1)} % of {out.size(rest['of'])} here")
    return ", ".join(facts)


def _errors(found: list[dict[str, Any]]) -> None:
    """What is wrong, and what is about to be."""
    for each in found:
        for said in filter(None, (each["error"], each.get("warning"))):
            out.note("")
            out.note(f"{each['title']}: {said['happened']}")
            for part in ("safe", "next"):
                if said[part]:
                    out.note(said[part])
