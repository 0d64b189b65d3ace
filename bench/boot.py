"""`make bench-boot`: boot and resume, ours (sealed, sandboxed, through the agent) and the same image under bare QEMU, in turn."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console

from bench.bare import BareQemu
from bench.report import report, row
from demo.stage import WORKSPACE, Stage
from twofold.agent.client import Client
from twofold.image.build import Built

ROUNDS = 5


def main() -> int:
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "twofold-bench-boot"
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    figures: dict[str, list[float]] = {
        name: [] for name in ("boot", "bare boot", "resume", "bare resume", "suspend", "bare suspend")
    }
    console = Console()
    with Stage(home, console) as stage:
        built = stage.image()
        admin = stage.server()
        stage.publish(admin, built)
        client = stage.agent()
        stage.enrol(admin, client)
        stage.checkout(client)
        accelerator = ""
        for number in range(ROUNDS):
            console.print(f"round {number + 1} of {ROUNDS}")
            began = time.monotonic()
            client.finish("start", workspace=WORKSPACE)
            wait(client, "session_up")
            figures["boot"].append(time.monotonic() - began)
            accelerator = client.call("info", workspace=WORKSPACE)["accelerator"]
            began = time.monotonic()
            client.finish("suspend", workspace=WORKSPACE)
            figures["suspend"].append(time.monotonic() - began)
            began = time.monotonic()
            client.finish("start", workspace=WORKSPACE)
            client.call("time", workspace=WORKSPACE)
            figures["resume"].append(time.monotonic() - began)
            client.finish("off", workspace=WORKSPACE)
            bare(built, home / "bare", accelerator, figures)
    notes = [
        (
            f"accelerator: {accelerator}; from the request to the answering agent of a guest whose desktop stands; "
            "caches warm on both sides."
        ),
        (
            "Bare QEMU reads raw files and saves memory unsealed to the page cache; "
            "ours reads encrypted disks over NBD and seals memory."
        ),
    ]
    rows = [
        row("boot to desktop and agent", "s", figures["boot"], {"bare QEMU": figures["bare boot"]}, at_most=1.25),
        row("resume to answering agent", "s", figures["resume"], {"bare QEMU, unsealed": figures["bare resume"]}),
        row("suspend", "s", figures["suspend"], {"bare QEMU, unsealed": figures["bare suspend"]}),
        row("resume against our own boot", "s", figures["resume"], {"our boot": figures["boot"]}, at_most=0.1),
    ]
    console.print(f"written to {report('boot', rows, notes)}")
    return 0


def bare(built: Built, folder: Path, accelerator: str, figures: dict[str, list[float]]) -> None:
    memory = folder / "memory"
    began = time.monotonic()
    with BareQemu(built, folder, accelerator) as machine:
        machine.wait_agent()
        figures["bare boot"].append(time.monotonic() - began)
        began = time.monotonic()
        machine.suspend(memory)
        figures["bare suspend"].append(time.monotonic() - began)
    began = time.monotonic()
    with BareQemu(built, folder, accelerator, memory) as machine:
        machine.wait_agent()
        figures["bare resume"].append(time.monotonic() - began)
    memory.unlink()


def wait(client: Client, what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not client.call("info", workspace=WORKSPACE)[what]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} never came")
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
