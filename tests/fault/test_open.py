"""`twofold open` and `twofold switch` as a person types them, judged by the pixels of the root window."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.fault.test_survival import info
from tests.harness.company import TREE, Device
from tests.harness.screen import Pixels, Screen
from tests.harness.xserver import XServer, window_manager, xserver
from twofold.agent.client import Client
from twofold.model.names import PALETTE

pytestmark = pytest.mark.vm
_EDGES = ((1, 400), (598, 400), (300, 1), (300, 798))


@pytest.fixture(scope="module")
def desktop() -> Iterator[tuple[XServer, Screen]]:
    with xserver(800, 600) as server, window_manager(server):
        yield server, Screen(server)


class Typed:
    def __init__(self, device: Device, server: XServer) -> None:
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_RUNTIME_DIR") if name in os.environ}
        self.env = keep | server.environment(TWOFOLD_HOME=str(device.home), PYTHONPATH=str(TREE / "src"))

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.program("twofold.cli", *words)

    def program(self, module: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *words],
            env=self.env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    @contextmanager
    def window(self, workspace: str) -> Iterator[subprocess.Popen[bytes]]:
        """`twofold open`, which stays as long as its window; a terminal's Ctrl-C ends both."""
        process = subprocess.Popen(
            [sys.executable, "-m", "twofold.cli", "open", workspace],
            env=self.env, start_new_session=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            process.wait(20)


def framed(pixels: Pixels, colour: str) -> bool:
    wanted = int(PALETTE[colour][1:], 16)
    return all(int(pixels[y, x]) & 0xFFFFFF == wanted for y, x in _EDGES)


def test_open_starts_what_is_needed_and_brings_an_open_window_to_the_front(
    client: Client, work: str, device: Device, desktop: tuple[XServer, Screen]
) -> None:
    server, screen = desktop
    client.finish("checkout", workspace="mute")
    device.quit()  # neither agent nor machine runs: `open` is the first thing typed
    typed = Typed(device, server)
    refused = typed("switch", "work")
    assert refused.returncode == 9
    with ExitStack() as undo:
        opened = undo.enter_context(typed.window("work"))
        screen.wait(lambda now: framed(now, "blue"), 30)
        agent = undo.enter_context(device.client())
        assert info(agent)["run"] == "running"

        assert typed("switch", "personal").returncode == 0
        screen.wait(lambda now: not framed(now, "blue"))
        assert typed("switch", "work").returncode == 0
        screen.wait(lambda now: framed(now, "blue"))
        for seen in (False, True):  # without a name it toggles
            assert typed("switch").returncode == 0
            screen.wait(lambda now, seen=seen: framed(now, "blue") is seen)  # type: ignore[misc]
        assert typed("switch", "none").returncode == 4

        # The second `open` brings the window that is there to the front with its workspace, and ends at once.
        assert typed("switch", "personal").returncode == 0
        screen.wait(lambda now: not framed(now, "blue"))
        again = typed("open", "mute")
        assert again.returncode == 0, again.stderr
        screen.wait(lambda now: framed(now, "vermilion"), 10)
        assert info(agent, "mute")["run"] == "running"
        assert opened.poll() is None

        # A workspace that is removed leaves the window to the others; with the last one the person is back on their own side.
        agent.finish("remove", workspace="mute", yes=True)
        screen.wait(lambda now: framed(now, "blue"), 10)
        agent.finish("remove", workspace="work", yes=True)
        screen.wait(lambda now: not framed(now, "blue"), 10)
        assert opened.poll() is None
    missing = typed("switch", "personal")
    assert missing.returncode == 6
    assert "twofold open" in missing.stderr


def test_open_begins_with_the_workspace_that_was_named(
    client: Client, work: str, device: Device, desktop: tuple[XServer, Screen]
) -> None:
    server, screen = desktop
    client.finish("checkout", workspace="mute")
    typed = Typed(device, server)
    with typed.window("mute"):
        screen.wait(lambda now: framed(now, "vermilion"), 30)
        # Another window of the same person, on another screen, would take the display from this one.
        with xserver(800, 600) as elsewhere:
            second = Typed(device, elsewhere).program("twofold.switcher")
        assert second.returncode == 6
        assert "open already" in second.stderr
        assert framed(screen.copy(), "vermilion")
    screen.wait(lambda now: not framed(now, "vermilion"))
    assert info(client, "mute")["run"] == "running"  # the window was closed; the machine is the agent's


def test_without_a_screen_open_says_so_and_the_workspace_runs(client: Client, work: str, device: Device) -> None:
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_RUNTIME_DIR") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "twofold.cli", "open", work],
        env=keep | {"TWOFOLD_HOME": str(device.home), "PYTHONPATH": str(TREE / "src")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "no screen" in done.stderr
    assert info(client)["run"] == "running"
