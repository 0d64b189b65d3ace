"""This machine: what it can do for a workspace; this program's version; completion for shells."""

from __future__ import annotations

import dataclasses
import enum
import os
from typing import Annotated

import typer

from twofold.cli import COMPLETE, ask, out
from twofold.cli.out import Form


class Shell(enum.StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def doctor(output: out.Output = Form.TABLE) -> None:
    """Find out by running and looking what works here. Exit code 3 where something must be done first."""
    with ask.agent() as client:
        found = [*client.call("doctor", deadline=60)["checks"], _desktop()]
    if output is not Form.TABLE:
        out.document("checks", {"checks": found})
    else:
        out.judged([(check["verdict"], check["name"], check["detail"], check["next"]) for check in found])
    if any(check["verdict"] == "bad" for check in found):
        raise typer.Exit(3)


def _desktop() -> dict[str, str]:
    """What the session this command was typed in lets the switcher do; the agent may have been started in another."""
    from twofold.switcher.capabilities import session

    here = session(os.environ)
    verdict = "good" if here.complete else "bad" if here.kind == "wayland" else "poor"
    kind = {"x11": "X11. ", "xwayland": "Wayland with XWayland. ", "wayland": "Wayland. ", "none": ""}[here.kind]
    then = {"none": "Run it in a graphical session to see what that can do.", "x11": ""}
    return {
        "name": "desktop",
        "verdict": verdict,
        "detail": kind + " ".join(here.works + here.lacks),
        "next": then.get(here.kind, "Log in to an X11 session for the full promise."),
    }


def assurance(output: out.Output = Form.TABLE) -> None:
    """What this machine can and can't promise: what an intruder could still do here, as you and as root."""
    from twofold.platform.dirs import dirs
    from twofold.trust import assurance as trust

    found = trust.assurance(trust.facts(dirs().state))
    if output is not Form.TABLE:
        out.document("assurance", dataclasses.asdict(found))
        return
    for name, says in (("Below the workspace", found.below), ("The key", found.key), ("Proved", found.proved)):
        out.say(f"{name + ':':21}{says}")
    for held, head in ((True, "Held against"), (False, "Not held against")):
        out.say(f"\n{head}")
        out.judged([("", each.against, each.says, "") for each in found.promises if each.held is held])


def version(output: out.Output = Form.TABLE) -> None:
    """This program's version."""
    import twofold

    if output is not Form.TABLE:
        out.document("version", {"version": twofold.__version__})
    else:
        out.say(f"twofold {twofold.__version__}")


def completion(shell: Annotated[Shell, typer.Argument(help="Which shell.")]) -> None:
    """Print completion for a shell; in bash:  eval "$(twofold completion bash)"."""
    from typer._completion_shared import get_completion_script

    script = get_completion_script(prog_name="twofold", complete_var=COMPLETE, shell=shell)
    out.say(script)
