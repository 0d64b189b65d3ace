"""The person's window, started from the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from twofold.platform.run import spawn


def run(socket: Path, workspace: str) -> None:
    """Open the switcher and stay until it is closed; the workspace goes on in the agent's care."""
    # It is a window of this desktop: it needs the session's own variables, display and cookie among them.
    words = ["--socket", str(socket), "--workspace", workspace, "--front"]
    child = spawn(
        [sys.executable, "-m", "twofold.switcher", *words],
        env=dict(os.environ),
        stderr=sys.stderr.buffer,
        new_session=False,
    )
    try:
        status = child.wait()
    except KeyboardInterrupt:
        # The terminal has interrupted it as well; it closes its window by itself.
        status = child.wait()
    if status:
        raise typer.Exit(1 if status < 0 else status)
