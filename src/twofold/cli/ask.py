"""How commands reach the agent: started where none runs, long work shown until it ends, names filled in where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from twofold.cli import names, out
from twofold.model.errors import ConflictError, NotFoundError, UsageError

if TYPE_CHECKING:
    from twofold.agent.client import Client

Workspace = Annotated[
    str,
    typer.Argument(
        metavar="[WORKSPACE]",
        help="May be left out where there is only one.",
        show_default=False,
        autocompletion=names.workspaces,
    ),
]


def agent() -> Client:
    """The agent's client; it is started where none runs."""
    from twofold.agent.client import connect

    return connect()


def running_agent() -> Client:
    """The agent's client, or UnreachableError where none runs."""
    from twofold.agent.client import Client

    return Client()


def named(client: Client, name: str) -> str:
    """The workspace that is meant.

    Raises:
        UsageError: none was named, and there are several. NotFoundError: there is none at all.
    """
    if name:
        return name
    found = [each["workspace"] for each in client.call("list")["workspaces"]]
    if not found:
        raise NotFoundError("There is no workspace on this device yet.", next="Bring one here:  twofold checkout")
    if len(found) > 1:
        raise UsageError("Which workspace?", next=f"Name one of: {', '.join(found)}.")
    return str(found[0])


def work(client: Client, verb: str, form: out.Form = out.Form.TABLE, **args: Any) -> dict[str, Any]:
    """Ask for long work and show it until it ends; returns the operation. An interrupt cancels it."""
    operation = client.call(verb, **args)
    try:
        with out.Bar() as bar:
            for operation in client.follow(operation):  # noqa: B020 - the same operation as it changes
                if form is out.Form.TABLE:
                    bar(operation["step"], operation["done"], operation["total"])
    except KeyboardInterrupt:
        try:
            client.call("cancel", operation=operation["operation"])
            out.note("Cancelled; what was done is being undone.")
        except ConflictError as late:
            out.error(late)
        raise
    if form is not out.Form.TABLE:
        out.document("operation", operation)
    return operation
