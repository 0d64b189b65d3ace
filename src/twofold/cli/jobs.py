"""Long work: what is queued, under way and done."""

from __future__ import annotations

from typing import Annotated

import typer

from twofold.cli import ask, out
from twofold.cli.out import Form

app = typer.Typer(no_args_is_help=True, help="Long work: list, show, cancel.")
Job = Annotated[str, typer.Argument(help="A job's id, as `twofold jobs list` shows it.")]


@app.command("list")
def list_(output: out.Output = Form.TABLE) -> None:
    """Jobs of this agent, oldest first."""
    with ask.agent() as client:
        found = client.call("jobs")["operations"]
    columns = ["operation", "verb", "workspace", "state", "step"]
    out.rows(output, "operations", columns, found, "No jobs since the agent started.")


@app.command()
def show(job: Job, output: out.Output = Form.TABLE) -> None:
    """One job, with its progress, result or error."""
    with ask.agent() as client:
        out.fields(output, "operation", client.call("job", operation=job))


@app.command()
def cancel(job: Job) -> None:
    """Cancel a job; what it did so far is undone."""
    with ask.agent() as client:
        client.call("cancel", operation=job)
        state = client.call("job", operation=job, wait=30)["state"]
    out.say(f"It is {state}.")
