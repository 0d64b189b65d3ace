"""`make demo`: the whole path on the person's own desktop. Ctrl-C suspends the workspace and ends everything started here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

from rich.console import Console

from demo.prompt import HELP, Prompt
from demo.stage import TITLE, WORKSPACE, Stage
from twofold.agent.client import Client
from twofold.model.errors import TwofoldError
from twofold.model.progress import Progress


def open_switcher(stage: Stage, client: Client) -> tuple[subprocess.Popen[bytes], BinaryIO]:
    """The switcher, and what it says of itself, a line at a time (nothing where it ended)."""
    reader, writer = os.pipe()
    words = [sys.executable, "-m", "twofold.switcher", "--socket", str(client.path), "--status-fd", str(writer)]
    switcher = stage.start(words, pass_fds=[writer])
    os.close(writer)
    return switcher, os.fdopen(reader, "rb", buffering=0)


def main() -> int:
    console = Console()
    if not os.environ.get("DISPLAY"):
        console.print("There is no X display here. On a machine without a desktop:  [bold]make demo-headless[/]")
        return 3
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "twofold-demo"
    home.parent.mkdir(parents=True, exist_ok=True)
    console.print("\n[bold]Twofold[/]: one device, two lives\n")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Stage(home, console) as stage:
            _, admin, client = stage.ready()
            before = client.call("info", workspace=WORKSPACE)
            job = client.call("start", workspace=WORKSPACE)
            switcher, said = open_switcher(stage, client)
            verb = "resume" if before["memory_stored"] else "boot"

            def watch(bar: Progress) -> None:
                for now in client.follow(job):
                    bar(now["step"], now["done"], now["total"])

            stage.timed(verb, f"{TITLE} {'resumed' if verb == 'resume' else 'started'}", watch)
            with said:
                said.readline()  # its first word is that it is ready: before that nobody hears the key
            console.print(
                f"\n  Press [bold]Pause[/] to go to {TITLE} and back. [bold]Ctrl-C[/] here suspends it and ends the demo.\n"
            )
            console.print(HELP)
            Prompt(stage, admin).start()
            switcher.wait()
            console.print("  The switcher was closed.")
    except KeyboardInterrupt:
        console.print(f"\n  {TITLE} is suspended; the next [bold]make demo[/] has its windows as they are.")
        return 130
    except TwofoldError as error:
        console.print(f"\n[red]{error.happened}[/]\n{error.safe}\n{error.next}".rstrip())
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
