"""Applications inside a workspace."""

from __future__ import annotations

from typing import Annotated

import typer

from twofold.cli import ask, out
from twofold.cli.out import Form


def apps(workspace: ask.Workspace = "", output: out.Output = Form.TABLE) -> None:
    """Applications that a running workspace has."""
    with ask.agent() as client:
        found = client.call("apps", workspace=ask.named(client, workspace))["apps"]
    out.rows(output, "apps", ["id", "name", "comment"], found, "It has none.")


def launch(
    app: Annotated[str, typer.Argument(help="An id of `twofold apps`, or the start of a name.")],
    workspace: ask.Workspace = "",
) -> None:
    """Start an application in a running workspace."""
    from twofold.model.errors import NotFoundError, UsageError

    with ask.agent() as client:
        name = ask.named(client, workspace)
        found = client.call("apps", workspace=name)["apps"]
        meant = [each["id"] for each in found if each["id"] == app]
        meant = meant or [each["id"] for each in found if each["name"].casefold().startswith(app.casefold())]
        if not meant:
            raise NotFoundError(f"There is no application {app!r} in {name}.", next=f"See them:  twofold apps {name}")
        if len(meant) > 1:
            raise UsageError(f"Several applications start like {app!r}.", next=f"Name one of: {', '.join(meant)}.")
        client.call("launch", workspace=name, app=meant[0])
    out.say(f"{meant[0]} is starting in {name}.")
