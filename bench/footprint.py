"""`make bench-footprint`: what the person's window and the machine's agent take: seconds to the window, and memory."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from bench.report import report, row
from bench.setting import checked_out, child
from demo.desk import Desk
from demo.stage import WORKSPACE

ROUNDS = 5


def main() -> int:
    idle: list[float] = []
    running: list[float] = []
    window: list[float] = []
    shown: list[float] = []
    hidden: list[float] = []
    with checked_out("footprint") as here:
        agent = child("twofold.agent")
        for _ in range(ROUNDS):
            time.sleep(1)
            idle.append(_resident(agent))
        here.client.finish("start", workspace=WORKSPACE)
        here.wait("session_up")
        for _ in range(ROUNDS):
            with Desk(here.stage, here.home / "pictures", 1280, 800, phone=False) as desk:
                window.append(desk.open_switcher())
                switcher = child("twofold.switcher")
                desk.switch()
                desk.wait_said("live", True, 20)
                time.sleep(1)
                shown.append(_shared(switcher))
                desk.switch()
                desk.wait_said("shown", False, 5)
                time.sleep(0.5)
                hidden.append(_shared(switcher))
                running.append(_resident(agent))
    rows = [
        row("switcher: command to window", "s", window, {}, at_most=1.0),
        row("switcher: memory (PSS), Work shown", "MB", shown, {}, at_most=120),
        row("switcher: memory (PSS), Work hidden", "MB", hidden, {}, at_most=120),
        row("agent: memory (RSS), idle", "MiB", idle, {}, at_most=48),
        row("agent: memory (RSS), a workspace running", "MiB", running, {}),
    ]
    notes = [
        "The window stands ready behind the personal side when the switcher says so; Xvfb 1280x800.",
        "The agent lets nobody read its pages, so its figure is all that is resident: an upper bound of PSS.",
    ]
    sys.stdout.write(f"written to {report('footprint', rows, notes)}\n")
    return 0


def _resident(pid: int) -> float:
    """MiB (proc_pid_status(5), VmRSS)."""
    return _kib(Path(f"/proc/{pid}/status"), "VmRSS:") / 1024


def _shared(pid: int) -> float:
    """MB, each shared page divided by those who share it (proc_pid_smaps_rollup(5), Pss)."""
    return _kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") * 1024 / 1e6


def _kib(file: Path, field: str) -> int:
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(field))


if __name__ == "__main__":
    sys.exit(main())
