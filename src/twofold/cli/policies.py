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

app = typer.Typer(no_args_is_help=True, help="Policies: show what holds, validate a file.")


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


def read(file: Path) -> Policy:
    """
    Raises:
        NotFoundError: there is no such file. BadInputError: it is not a policy.
    """
    from twofold.model.errors import BadInputError, NotFoundError
    from twofold.model.policy import Policy

    try:
        untrusted_policy = json.loads(file.read_bytes())
    except OSError as gone:
        raise NotFoundError(f"{file} cannot be read: {gone.strerror}.") from gone
    except ValueError as wrong:
        raise BadInputError(f"{file} is not JSON: {wrong}.") from wrong
    return Policy.from_wire(untrusted_policy)
