"""Nodes: machines of the company that run workspaces for people who look at them in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from twofold.cli import out
from twofold.cli.out import Form

app = typer.Typer(no_args_is_help=True, help="Nodes (for administrators): invite, list.")


@app.command()
def invite(
    hours: Annotated[int, typer.Option("--hours", min=1, max=336, help="How long the invitation holds.")] = 24,
    output: out.Output = Form.TABLE,
) -> None:
    """Make an invitation for a node. On that machine:  twofold enrol URL --name NAME"""
    from twofold.cli.session import admin
    from twofold.platform.dirs import dirs
    from twofold.trust.publisher import publisher

    with admin() as server:
        server.add_publisher(publisher(dirs().state / "publisher", make=False))
        url = server.invite_device(str(server.whoami()["user"]), hours, "node")
    if output is not Form.TABLE:
        out.document("invitation", {"url": url, "kind": "node", "hours": hours})
    else:
        out.say(url)


@app.command("list")
def list_(output: out.Output = Form.TABLE) -> None:
    """Nodes, and when each was last heard of. To end one:  twofold device revoke ID"""
    from twofold.cli.session import admin

    with admin() as server:
        found = [row for row in server.list_devices() if row["kind"] == "node"]
    if output is Form.TABLE:
        found = [row | {"seen": out.when(row["seen"]), "revoked": out.when(row["revoked"])} for row in found]
    out.rows(
        output, "nodes", ["device", "name", "seen", "revoked"], found, "There is no node yet:  twofold node invite"
    )
