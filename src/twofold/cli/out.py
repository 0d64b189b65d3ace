"""What the command line prints: tables, JSON or YAML on standard output, progress and errors on standard error."""

from __future__ import annotations

import enum
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twofold.model.errors import TwofoldError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Form(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class _Chosen:
    """The form of this call: a command is asked for it once, and whatever it prints is in it."""

    form = Form.JSON


def _choose(form: Form) -> Form:
    _Chosen.form = form
    return form


Output = Annotated[
    Form, typer.Option("--output", "-o", callback=_choose, help="table for people, json or yaml for scripts.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]

_COLOURED = {"good": "green", "poor": "yellow", "bad": "red"}
_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if code != 10}


def text(untrusted_text: object) -> str:
    """Text for a terminal, without the control characters by which it could be steered."""
    return str(untrusted_text).translate(_CONTROL)


def say(line: str) -> None:
    sys.stdout.write(text(line) + "\n")


def note(line: str) -> None:
    """A remark beside the output, for people only."""
    sys.stderr.write(text(line) + "\n")


def error(failed: TwofoldError) -> None:
    """Three plain lines: what happened, what is safe, what to do next."""
    for line in (failed.happened, failed.safe, failed.next):
        if line:
            note(line)


def document(kind: str, body: dict[str, Any]) -> None:
    """JSON or YAML with its schema, `twofold-KIND-1`: fields are only ever added to it (docs/cli.md)."""
    whole = {"schema": f"twofold-{kind}-1"} | body
    if _Chosen.form is Form.YAML:
        from twofold.cli import yaml

        sys.stdout.write(yaml.text(whole))
    else:
        sys.stdout.write(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def rows(form: Form, kind: str, columns: Sequence[str], found: Iterable[dict[str, Any]], empty: str) -> None:
    """Dictionaries as a table of `columns`, or all their fields as JSON below the plural `kind`."""
    listed = list(found)
    if form is not Form.TABLE:
        document(kind, {kind: listed})
    elif not listed:
        note(empty)
    else:
        table([name.replace("_", " ") for name in columns], [[row.get(name, "") for name in columns] for row in listed])


def fields(form: Form, kind: str, body: dict[str, Any]) -> None:
    """One thing: its fields under each other, or as JSON."""
    if form is not Form.TABLE:
        document(kind, body)
        return
    width = max(len(name) for name in body)
    for name, value in body.items():
        say(f"{name.replace('_', ' '):{width}}  {_cell(value)}")


def table(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for name in head:
        drawn.add_column(name, overflow="fold")
    for line in lines:
        cells = [_cell(value) for value in line]
        drawn.add_row(*(Text(cell, style=_COLOURED.get(cell, "")) for cell in cells))
    # A file or a pipe gets whole lines: nobody folds them there but us.
    wide = None if sys.stdout.isatty() else 10_000
    Console(width=wide, highlight=False, no_color=bool(os.environ.get("NO_COLOR"))).print(drawn)


def judged(found: Sequence[tuple[str, str, str, str]]) -> None:
    """Verdict, name, what it means and what to do, for people: a mark and a name, the sentences folded below them."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(
        width=None if sys.stdout.isatty() else 100, highlight=False, no_color=bool(os.environ.get("NO_COLOR"))
    )
    for verdict, name, says, then in found:
        mark = f"{verdict}  " if verdict else ""
        console.print(Text.assemble((mark, _COLOURED.get(verdict, "")), (text(name), "bold")), soft_wrap=True)
        for line in (text(says), f"→ {text(then)}" if then else ""):
            if line:
                console.print(Padding(Text(line), (0, 0, 0, 6), expand=False))


def _cell(value: object) -> str:
    if value is True or value is False:
        return "yes" if value else "no"
    return text(value)


def when(unix: int) -> str:
    """A time as people say it."""
    if not unix:
        return "never"
    ago = time.time() - unix
    if 0 <= ago < 60:
        return "just now"
    if 0 <= ago < 3600:
        return f"{ago // 60:.0f} min ago"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix))


def size(count: int) -> str:
    """Bytes as people say them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count} bytes"


def confirm(question: str, *, lost: str, safe: str, yes: bool) -> None:
    """Before anything is destroyed: what is lost, what is safe, and a yes.

    Raises:
        UsageError: there is nobody to ask. Abort: the answer was no.
    """
    note(f"Lost: {lost}")
    note(f"Safe: {safe}")
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("This needs a yes.", safe="Nothing was changed.", next="Say it with --yes.")
    if not typer.confirm(question, err=True):
        raise typer.Abort


class Bar(AbstractContextManager["Bar"]):
    """Progress of long work on standard error: a bar on a terminal, a line a step elsewhere. Call it as a `Progress`."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._step = ""

    def __enter__(self) -> Bar:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failed: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, step: str, done: int, total: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=text(step), completed=done, total=total or None)
        elif step and step != self._step:
            note(step)
        self._step = step
