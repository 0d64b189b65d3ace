"""A workspace's back ups on the company's server."""

from __future__ import annotations

from typing import Annotated

import typer

from twofold.cli import ask, out
from twofold.cli.out import Form

For = Annotated[
    str, typer.Option("--for", metavar="DEVICE-KEY", help="Let this device open it: what 'disk key' says there.")
]


def backup(workspace: ask.Workspace = "", key: For = "", output: out.Output = Form.TABLE) -> None:
    """Send what is new of a workspace to the server, sealed. It may run meanwhile, and goes on after a cut."""
    with ask.agent() as client:
        name = ask.named(client, workspace)
        found = ask.work(client, "backup", output, workspace=name, key=key)["result"]
    if output is Form.TABLE:
        where = "is on the server" if found["kind"] == "line" else "is on the server, beside what another device wrote"
        out.say(f"{name} as it was {out.when(found['time'])} {where}: {out.size(found['bytes'])}, sealed.")
        out.say(f"Sent: {found['sent_files']} of {found['files']} files, {out.size(found['sent_bytes'])}.")
