"""`make demo` as a person uses it: Ctrl-C suspends and ends everything, the next run has the windows as they were."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.harness.injector import Injector
from tests.harness.screen import Screen
from tests.harness.xserver import XServer, end, window_manager, xserver
from twofold.agent.client import Client
from twofold.platform import dirs

TREE = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.vm


@contextmanager
def demo(server: XServer, home: Path, said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The demo in a process of its own, until it says that it is ready. Its interrupt is what a terminal's Ctrl-C sends."""
    keep = {
        name: os.environ[name] for name in ("PATH", "HOME", "XDG_RUNTIME_DIR", "TWOFOLD_BUILDS") if name in os.environ
    }
    environment = keep | {"DISPLAY": server.name, "XDG_STATE_HOME": str(home), "PYTHONPATH": f"{TREE / 'src'}:{TREE}"}
    with said.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "demo"], cwd=TREE, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while "Ctrl-C" not in said.read_text():
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.1)
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        end(process, 60)


def processes_of(home: Path) -> set[str]:
    """Programs whose command line or environment names the demo's home."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if folder.name != str(os.getpid()) and bytes(home) in words and f"XDG_STATE_HOME={home}".encode() not in words:
            found.add((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:100])
    return found


@pytest.mark.timeout(300)
def test_ctrl_c_suspends_and_the_next_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_HOME", str(tmp_path / "twofold-demo" / "device"))
    # A shell starts what it puts in the background deaf to Ctrl-C, and so are its children; a person's terminal does not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with xserver(1280, 800) as server, window_manager(server):
        screen, hands = Screen(server), Injector(server)
        personal = screen.copy()
        with demo(server, tmp_path, tmp_path / "first") as first:
            with Client(dirs.dirs().agent_socket) as client:
                until(lambda: client.call("info", workspace="work")["session_up"], 90)
                client.call("launch", workspace="work", app="galculator")
                until(lambda: client.call("windows", workspace="work")["windows"], 60)
            hands.key("Pause", hold=0.05)
            screen.wait(lambda now: float(np.mean(now != personal)) > 0.9, 20)
            time.sleep(2)
            before = screen.copy()
            hands.key("Pause", hold=0.05)
            first.send_signal(signal.SIGINT)
            assert first.wait(60) == 130, (tmp_path / "first").read_text()
        assert "is suspended" in (tmp_path / "first").read_text()
        assert processes_of(tmp_path) == set()
        with demo(server, tmp_path, tmp_path / "second") as second:
            assert re.search(r"resumed\s+\d", (tmp_path / "second").read_text())
            hands.key("Pause", hold=0.05)
            screen.wait(lambda now: float(np.mean(now[80:, 60:] != before[80:, 60:])) < 0.01, 20)
            # What a person types at its terminal.
            for letter, words in (
                ("b", "Backed up: "),
                ("l", "Locked. "),
                ("s", "has locked Acme"),
                ("u", "Unlocked and woken. "),
            ):
                typed(second, letter, tmp_path / "second", words)
            second.send_signal(signal.SIGINT)
            assert second.wait(60) == 130, (tmp_path / "second").read_text()
        hands.close()


def typed(process: subprocess.Popen[bytes], letter: str, said: Path, words: str) -> None:
    """Type a letter and Return, and wait for what it says then."""
    assert process.stdin is not None
    process.stdin.write(letter.encode() + b"\n")
    process.stdin.flush()
    until(lambda: words in said.read_text(), 60)


def until(seen: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
