"""Long work: what is queued, under way and done."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from twofold.cli import ask, names, out
from twofold.cli.out import Form

app = typer.Typer(no_args_is_help=True, help="Long work: list, show, pause, resume, cancel.")
_ID = "A job's id, as `twofold jobs list` shows it."
Job = Annotated[str, typer.Argument(help=_ID, autocompletion=names.jobs)]
UnderWay = Annotated[str, typer.Argument(help=_ID, autocompletion=names.jobs_under_way)]


@app.command("list")
def list_(output: out.Output = Form.TABLE) -> None:
    """Jobs, oldest first, a former agent's too; `place`: how many of its queue come before it."""
    with ask.agent() as client:
        found = client.call("jobs")["operations"]
    columns = ["operation", "verb", "workspace", "state", "place", "step", "sent", "rate", "left"]
    if output is Form.TABLE:
        found = [row | _progress(row) for row in found]
    out.rows(output, "operations", columns, found, "There are no jobs.")


def _progress(row: dict[str, Any]) -> dict[str, str]:
    """How far it is, as people say it; of what is under way alone."""
    if row["ended"] or not row["total"]:
        return {"sent": "", "rate": "", "left": "", "place": str(row["place"] or "")}
    whole = f" of {out.size(row['whole'])}" if row["whole"] > row["total"] else ""
    return {
        "place": str(row["place"] or ""),
        "sent": f"{out.size(row['done'])} of {out.size(row['total'])}{whole}",
        "rate": f"{out.size(row['rate'])}/s" if row["rate"] else "",
        "left": f"{row['left']} s" if row["left"] else "",
    }


@app.command()
def show(job: Job, output: out.Output = Form.TABLE) -> None:
    """One job, with its progress, result or error."""
    with ask.agent() as client:
        out.fields(output, "operation", client.call("job", operation=job))


@app.command()
def pause(job: UnderWay) -> None:
    """Let a job that sends or fetches stand still; what came or went stays. It outlives the agent."""
    with ask.agent() as client:
        state = client.call("job_pause", operation=job)["state"]
    out.say(f"It is {state}.")


@app.command()
def resume(job: UnderWay) -> None:
    """Let a paused job go on."""
    with ask.agent() as client:
        state = client.call("job_resume", operation=job)["state"]
    out.say(f"It is {state}.")


@app.command()
def cancel(job: UnderWay) -> None:
    """Cancel a job; what it did so far is undone."""
    with ask.agent() as client:
        client.call("cancel", operation=job)
        state = client.call("job", operation=job, wait=30)["state"]
    out.say(f"It is {state}.")
