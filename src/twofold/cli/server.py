"""The company's server: make one, run it, see whether it answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The company's server: init, run, status.")
Home = Annotated[
    Path | None, typer.Option("--home", help="The server's folder, mode 0700. [default: ~/.local/share/twofold-server]")
]


def default_home() -> Path:
    share = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return Path(os.environ.get("TWOFOLD_SERVER_HOME") or share / "twofold-server")
