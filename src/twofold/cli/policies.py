"""Policies: what a workspace may do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twofold.cli import ask, out
from twofold.cli.out import Form

if TYPE_CHECKING:
    from twofold.model.policy import Policy

app = typer.Typer(
    no_args_is_help=True, help="Policies: show what holds, validate a file; for administrators: explain, set, list."
)


@app.command()
def show(workspace: ask.Workspace = "", output: out.Output = Form.TABLE) -> None:
    """The policy that a workspace on this device is under."""
    with ask.agent() as client:
        found = client.call("info", workspace=ask.named(client, workspace))
    out.fields(output, "policy", found["policy"])


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="A JSON object of rules; what is left out is denied.")],
    output: out.Output = Form.TABLE,
) -> None:
    """Check a policy file and print the whole policy it makes."""
    out.fields(output, "policy", read(file).to_wire())


@app.command()
def explain(
    number: Annotated[int, typer.Argument(help="The workspace's number, as `twofold lease list` shows it.")],
    output: out.Output = Form.TABLE,
) -> None:
    """Each rule of a workspace, and the scope that it comes from: the narrowest that says something decides."""
    from twofold.cli.session import admin

    with admin() as server:
        found = server.explain_policy(number)
    if output is Form.TABLE:
        found = [row | {"scope": f"{row['scope'] or 'default'} {row['name']}".strip()} for row in found]
    out.rows(output, "policy", ["rule", "value", "scope"], found, "There is no rule.")


@app.command("set")
def set_(
    scope: Annotated[str, typer.Argument(help="global, pool, group, user or workspace.")],
    file: Annotated[Path, typer.Argument(help="A JSON object of rules; what is left out is for wider scopes to say.")],
    name: Annotated[
        str, typer.Option("--name", help="The pool, the user, or the number of the group's grant or the workspace.")
    ] = "",
) -> None:
    """Say a scope's rules, whole. They reach devices at their next heartbeat, or at once where they are connected."""
    from twofold.cli.session import admin
    from twofold.model.errors import UsageError
    from twofold.model.policy import Scope, rules

    if scope not in list(Scope) or (scope == Scope.GLOBAL) == bool(name):
        raise UsageError("Say global, or pool, group, user or workspace with its --name.")
    with admin() as server:
        count = server.set_policy(Scope(scope), name, rules(_document(file)))
    out.say(f"The rules reach {count} workspace{'' if count == 1 else 's'}.")


@app.command("list")
def list_(output: out.Output = Form.TABLE) -> None:
    """What each scope says; a group's and a workspace's own rules are in their grants."""
    from twofold.cli.session import admin

    with admin() as server:
        found = server.list_policies()
    if output is Form.TABLE:
        found = [row | {"rules": ", ".join(f"{key}={value}" for key, value in row["rules"].items())} for row in found]
    out.rows(output, "policies", ["scope", "name", "rules"], found, "No scope says anything: the defaults hold.")


def read(file: Path) -> Policy:
    """
    Raises:
        NotFoundError: there is no such file. BadInputError: it is not a policy.
    """
    from twofold.model.policy import Policy

    return Policy.from_wire(_document(file))


def _document(file: Path) -> object:
    from twofold.model.errors import BadInputError, NotFoundError

    try:
        untrusted_policy: object = json.loads(file.read_bytes())
    except OSError as gone:
        raise NotFoundError(f"{file} cannot be read: {gone.strerror}.") from gone
    except ValueError as wrong:
        raise BadInputError(f"{file} is not JSON: {wrong}.") from wrong
    return untrusted_policy
