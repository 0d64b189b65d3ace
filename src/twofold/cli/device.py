"""Devices: enrol this one; invite, list and revoke as an administrator."""

from __future__ import annotations

import platform
from typing import Annotated

import typer

from twofold.cli import ask, out
from twofold.cli.out import Form

app = typer.Typer(no_args_is_help=True, help="Devices (for administrators): invite, list, revoke.")


def enrol(
    url: Annotated[str, typer.Argument(help="The invitation, whole: https://HOST:PORT/#CODE.PIN.ROOT.READ")],
    name: Annotated[str, typer.Option("--name", help="What administrators see; by default this computer's name.")] = "",
    output: out.Output = Form.TABLE,
) -> None:
    """Make this device known to a company's server. It tells the server a name and two public keys, nothing else."""
    with ask.agent() as client:
        done = client.call("enrol", url=url, name=name or platform.node() or "device")
    if output is not Form.TABLE:
        out.document("enrolment", done)
    else:
        out.say(f"This device is enrolled at {done['company']} for {done['user']}.")
        out.note("See what you may bring here:  twofold list")


@app.command()
def invite(
    user: Annotated[str, typer.Argument(help="Whose device it will be.")],
    hours: Annotated[int, typer.Option("--hours", min=1, max=720, help="How long the invitation holds.")] = 24,
    output: out.Output = Form.TABLE,
) -> None:
    """Make an invitation for one device of a user. Hand it over like a password."""
    from twofold.cli.session import admin
    from twofold.platform.dirs import dirs
    from twofold.trust.publisher import publisher

    with admin() as server:
        server.add_publisher(publisher(dirs().state / "publisher", make=False))
        url = server.invite_device(user, hours)
    if output is not Form.TABLE:
        out.document("invitation", {"url": url, "user": user, "hours": hours})
    else:
        out.say(url)


@app.command("list")
def list_(output: out.Output = Form.TABLE) -> None:
    """Enrolled devices."""
    from twofold.cli.session import admin

    with admin() as server:
        found = server.list_devices()
    out.rows(output, "devices", ["device", "name", "user", "revoked"], found, "No device is enrolled yet.")


@app.command()
def revoke(
    device: Annotated[str, typer.Argument(help="A device's id, as `twofold device list` shows it.")],
    yes: out.Yes = False,
) -> None:
    """Never talk to a device again."""
    from twofold.cli.session import admin

    with admin() as server:
        out.confirm(
            "Revoke this device?",
            lost="its way to the server; what it has not backed up stays on it alone.",
            safe="everything on the server.",
            yes=yes,
        )
        server.revoke_device(device)
    out.say("The device is revoked.")
