"""This machine: what it can do for a workspace; this program's version; completion for shells."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from twofold.cli import ask, out
from twofold.cli.out import Form


class Shell(enum.StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def doctor(output: out.Output = Form.TABLE) -> None:
    """Find out by running and looking what works here. Exit code 3 where something must be done first."""
    with ask.agent() as client:
        found = client.call("doctor", deadline=60)["checks"]
    out.rows(output, "checks", ["name", "verdict", "detail"], found, "")
    if output is Form.TABLE:
        for check in found:
            if check["next"]:
                out.note(f"{check['name']}: {check['next']}")
    if any(check["verdict"] == "bad" for check in found):
        raise typer.Exit(3)


def version(output: out.Output = Form.TABLE) -> None:
    """This program's version."""
    import twofold

    if output is Form.JSON:
        out.document("version", {"version": twofold.__version__})
    else:
        out.say(f"twofold {twofold.__version__}")


def completion(shell: Annotated[Shell, typer.Argument(help="Which shell.")]) -> None:
    """Print completion for a shell; in bash:  eval "$(twofold completion bash)"."""
    from typer._completion_shared import get_completion_script

    script = get_completion_script(prog_name="twofold", complete_var="_TWOFOLD_COMPLETE", shell=shell)
    out.say(script)
