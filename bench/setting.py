"""Where benches take place: a server, a device and a checked-out workspace of their own, made anew and ended after."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from demo.stage import WORKSPACE, Stage
from twofold.agent.client import Client
from twofold.image.build import Built


@dataclass
class Setting:
    stage: Stage
    client: Client
    built: Built
    home: Path
    console: Console

    def info(self, what: str) -> object:
        return self.client.call("info", workspace=WORKSPACE)[what]

    def wait(self, what: str, seconds: float = 120) -> None:
        """Wait until the agent says that `what` (agent_up, session_up) holds."""
        deadline = time.monotonic() + seconds
        while not self.info(what):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} never came")
            time.sleep(0.01)


def child(module: str) -> int:
    """The process id of the program that was started last here by `python -m module`."""
    found = [
        int(pid)
        for children in Path("/proc/self/task").glob("*/children")
        for pid in children.read_text().split()
        if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]
    return max(found)


@contextmanager
def folder(bench: str) -> Iterator[Path]:
    """A bench's own folder, empty, on the disk that workspaces lie on; gone afterwards."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    made = state / f"twofold-bench-{bench}"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(0o700, parents=True)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def checked_out(bench: str) -> Iterator[Setting]:
    console = Console()
    with folder(bench) as home, Stage(home, console) as stage:
        built, _, client = stage.ready()
        yield Setting(stage, client, built, home, console)
