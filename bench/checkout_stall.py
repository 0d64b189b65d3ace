"""How long a guest stands still while it is backed up: the worst gap that a ticker of 10 ms in the real guest sees.

The ticker is a program on the user's disk, started by the terminal's shell; it tells its worst gap of the last five seconds in
the title of its window, which the guest's agent reports. A second program beside it writes 4 MiB a second, backed up or not.
"""

from __future__ import annotations

import time
from pathlib import Path

from bench.checkout_kit import edit_user_disk, tell
from bench.report import Row, row
from bench.setting import Setting, checked_out
from demo.stage import WORKSPACE
from twofold.agent.client import Client

NOTES = ["stall: the worst gap of five seconds, one of them with a back up in it, while 4 MiB a second are written."]
WINDOW = 5  # seconds
SLOTS = 4  # of the ticker's, each second
_TICKER = """\
import os, sys, threading, time
worst, last = [0.0] * 20, time.monotonic()
def write():
    data, nth = os.urandom(4 << 20), 0
    while True:
        with open(f"/home/user/fill{nth % 8}", "wb") as file:
            file.write(data)
            os.fsync(file.fileno())
        nth += 1
        time.sleep(1)
if os.fork() == 0:
    write()
begun = last
slot = told = 0
while True:
    time.sleep(0.01)
    now = time.monotonic()
    number = int((now - begun) * 4)
    while slot < number:
        slot += 1
        worst[slot % 20] = 0.0
    worst[slot % 20] = max(worst[slot % 20], now - last - 0.01)
    last = now
    if slot != told:
        told = slot
        sys.stdout.write(f"\\033]0;gap {slot} {max(worst) * 1000:.1f}\\007")
        sys.stdout.flush()
"""


def stall(folder: Path, rounds: int) -> list[Row]:
    rest: list[float] = []
    during: list[float] = []
    with checked_out("stall") as here:
        client = here.client
        _put(here, folder)
        client.finish("start", workspace=WORKSPACE, limit=300)
        here.wait("session_up", 300)
        client.call("launch", workspace=WORKSPACE, app="lxterminal")
        _gap(client)
        time.sleep(10)
        for number in range(rounds):
            time.sleep(WINDOW + 1)
            slot, gap = _gap(client)
            rest.append(gap)
            asked = time.monotonic()
            time.sleep(WINDOW - 2)  # asking costs the guest something too
            done = client.finish("backup", workspace=WORKSPACE, limit=300)["result"]
            time.sleep(0.5)
            during.append(_gap(client, slot + int((time.monotonic() - asked) * SLOTS))[1])
            tell(f"stall, round {number + 1}: {rest[-1]:.1f} ms at rest, {during[-1]:.1f} ms with a back up: {done}")
    what = "the worst gap of a 10 ms ticker in the guest"
    more = [one - other for one, other in zip(during, rest, strict=True)]
    return [
        row(f"{what} while it is backed up, above what it is at rest", "ms", more, {}, at_most=100),
        row(f"{what} while it is backed up", "ms", during, {"at rest": rest}),
    ]


def _put(here: Setting, folder: Path) -> None:
    (folder / "ticker").write_text(_TICKER)
    (folder / "bashrc").write_text("exec python3 -S /home/user/ticker\n")
    files = [f"write {folder / 'ticker'} /user/ticker", f"write {folder / 'bashrc'} /user/.bashrc"]
    owned = [
        f"sif {name} {what} 1000" for name in ("/user", "/user/ticker", "/user/.bashrc") for what in ("uid", "gid")
    ]
    edit_user_disk(here.stage.dirs, WORKSPACE, folder, ["mkdir /user", *files, *owned])


def _gap(client: Client, since: int = 0, seconds: float = 60) -> tuple[int, float]:
    """Its own quarter of a second, `since` or later, and milliseconds, as the title says."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for window in client.call("windows", workspace=WORKSPACE)["windows"]:
            words = str(window["title"]).split()
            if words[:1] == ["gap"] and int(words[1]) >= since:
                return int(words[1]), float(words[2])
        time.sleep(0.2)
    raise TimeoutError("the ticker's window never came")
