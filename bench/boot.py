"""`make bench-boot`: boot and resume, ours (sealed, sandboxed, through the agent) and the same image under bare QEMU, in turn."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from bench.bare import BareQemu
from bench.report import report, row
from bench.setting import checked_out
from demo.stage import WORKSPACE
from twofold.image.build import Built

ROUNDS = 5
SETTLE = 3.0  # seconds for a desktop that has just come up


def main() -> int:
    figures: dict[str, list[float]] = {
        name: [] for name in ("boot", "bare boot", "resume", "bare resume", "suspend", "bare suspend")
    }
    with checked_out("boot") as here:
        client, accelerator = here.client, ""
        for number in range(ROUNDS):
            here.console.print(f"round {number + 1} of {ROUNDS}")
            began = time.monotonic()
            client.finish("start", workspace=WORKSPACE)
            here.wait("session_up")
            figures["boot"].append(time.monotonic() - began)
            accelerator = str(here.info("accelerator"))
            time.sleep(SETTLE)
            began = time.monotonic()
            client.finish("suspend", workspace=WORKSPACE)
            figures["suspend"].append(time.monotonic() - began)
            began = time.monotonic()
            client.finish("start", workspace=WORKSPACE)
            client.call("time", workspace=WORKSPACE)
            figures["resume"].append(time.monotonic() - began)
            client.finish("off", workspace=WORKSPACE)
            bare(here.built, here.home / "bare", accelerator, figures)
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
    sys.stdout.write(f"written to {report('boot', rows, notes)}\n")
    return 0


def bare(built: Built, folder: Path, accelerator: str, figures: dict[str, list[float]]) -> None:
    memory = folder / "memory"
    began = time.monotonic()
    with BareQemu(built, folder, accelerator) as machine:
        machine.wait_agent()
        figures["bare boot"].append(time.monotonic() - began)
        time.sleep(SETTLE)
        began = time.monotonic()
        machine.suspend(memory)
        figures["bare suspend"].append(time.monotonic() - began)
    began = time.monotonic()
    with BareQemu(built, folder, accelerator, memory) as machine:
        machine.wait_agent()
        figures["bare resume"].append(time.monotonic() - began)
    memory.unlink()


if __name__ == "__main__":
    sys.exit(main())
