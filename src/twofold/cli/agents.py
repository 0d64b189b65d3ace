"""This machine's agent: run, status, quit; its log."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from twofold.cli import ask, out
from twofold.cli.out import Form

app = typer.Typer(no_args_is_help=True, help="This machine's agent; other commands start it when they need it.")


@app.command()
def run() -> None:
    """Run the agent in the foreground, for a service manager or to see what it says."""
    from twofold.agent.__main__ import main

    raise typer.Exit(main(["--foreground"]))


@app.command()
def status(output: out.Output = Form.TABLE) -> None:
    """Whether it runs. Starts nothing: exit code 9 where it does not."""
    with ask.running_agent() as client:
        hello = client.call("hello")
        running = [each["workspace"] for each in client.call("list")["workspaces"] if each["pid"]]
        path = str(client.path)
    facts = {"agent": hello["agent"], "api": hello["api"], "socket": path, "running": ", ".join(running) or "nothing"}
    if output is not Form.TABLE:
        out.document("agent", hello | {"socket": path, "running": running})
    else:
        out.fields(output, "agent", facts)


@app.command("quit")
def quit_(
    suspend: Annotated[bool, typer.Option("--suspend", help="Suspend what runs first.")] = False,
) -> None:
    """End the agent. Workspaces that run go on running unless they are suspended first."""
    with ask.running_agent() as client:
        client.call("quit", deadline=600, suspend=suspend)
    out.say("The agent has ended." + (" What ran is suspended." if suspend else ""))


def log(
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000, help="How many of the last.")] = 50,
    output: out.Output = Form.TABLE,
) -> None:
    """The agent's log on this device. It never leaves it."""
    from twofold.platform.dirs import dirs

    try:
        text = (dirs().state / "agent.log").read_text(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        text = []
    for line in text:
        if output is not Form.TABLE:
            out.say(f"--- {line}" if output is Form.YAML else line)
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # cut off by a full disk
        rest = " ".join(f"{name}={entry[name]}" for name in ("workspace", "verb", "error") if name in entry)
        out.say(f"{entry['time']} {entry['level']:7} {entry['text']} {rest}".rstrip())
