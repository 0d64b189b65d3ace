"""The handset's service for its on-screen keyboard as it is, with a program in wvkbd's place that heeds the same signals."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.harness.xserver import end
from twofold.platform.run import spawn

TREE = Path(__file__).resolve().parents[2]
PROGRAM = TREE / "recipes/handset/overlay/usr/lib/handset/osk"
KEYS = """sleep 0.15
trap 'echo hidden >"$0"' USR1; trap 'echo shown >"$0"' USR2
while :; do sleep 0.05 & wait $!; done"""


class Keyboard:
    """A phone owner's on-screen keyboard on the bus at `address`, and the dock's button for it."""

    def __init__(self, folder: Path, address: str) -> None:
        self.address, self.folder = address, folder
        environment = os.environ | {
            "XDG_RUNTIME_DIR": str(folder), "DBUS_SESSION_BUS_ADDRESS": address, "PYTHONPATH": str(TREE / "src"),
        }  # fmt: skip
        words = [sys.executable, str(PROGRAM), "sh", "-c", KEYS, str(folder / "keys")]
        self.service = spawn(words, env=environment)

    def close(self) -> None:
        end(self.service)

    @property
    def keys(self) -> str:
        """`shown` or `hidden`."""
        try:
            return (self.folder / "keys").read_text().strip()
        except FileNotFoundError:
            return "hidden"

    def press(self) -> None:
        """The dock's button."""
        os.kill(int((self.folder / "osk.pid").read_text()), signal.SIGUSR1)
