"""The verbs' table of `docs/cli.md`, made from the commands themselves. `python -m twofold.cli.reference FILE` renews it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from twofold.cli.table import app

BEGIN, END = "<!-- verbs: begin -->\n", "<!-- verbs: end -->\n"


def verbs() -> str:
    """A table row for every command: how it is typed, and the first sentence of its help."""
    rows = [f"| `{usage}` | {said} |" for usage, said in _rows(typer.main.get_command(app), "twofold")]
    return "\n".join(["| command | what it does |", "|---|---|", *rows, ""])


def _rows(command: Any, path: str) -> Iterator[tuple[str, str]]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from _rows(inner, f"{path} {name}")
        return
    words = [path]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            words.append(parameter.metavar or _argument(parameter))
        elif parameter.name not in ("output", "help"):
            words.append(_option(parameter))
    if any(parameter.name == "output" for parameter in command.params):
        words.append("[-o json]")
    help_text = " ".join((command.help or "").split("\n\n")[0].split())
    yield " ".join(words), help_text.replace("|", "\\|")


def _argument(parameter: Any) -> str:
    name = parameter.name.upper()
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> str:
    longest = max(parameter.opts, key=len)
    return f"[{longest}]" if parameter.is_flag else f"[{longest} {parameter.name.upper()}]"


def renew(text: str) -> str:
    """`text` with the table between its two marks made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + verbs() + END + after


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(renew(document.read_text()))
