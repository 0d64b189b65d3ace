"""The half of `make bench-phone` that runs in the phone, as its owner, and takes the times there.

`python -m bench.phone_inside BUILT`: each line in is `{"do": STEP, …}`, each line out `{"ok": what it measured}` or
`{"error": text}`. BUILT is the folder with the same guest image as raw files, for the peer.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from bench.bare import BareQemu
from twofold.agent.client import Client
from twofold.image.build import load

WORKSPACE = "work"
SCREEN = (528, 986)  # what the switcher leaves the guest on this phone
_PATIENCE = 300.0


class Ours:
    """Work, through the agent."""

    def __init__(self) -> None:
        self.client = Client(timeout=_PATIENCE)

    def start(self) -> float:
        """Seconds from the request to the answering agent of a guest whose desktop stands."""
        began = time.monotonic()
        self.client.finish("start", workspace=WORKSPACE)
        while not self.client.call("info", workspace=WORKSPACE)["session_up"]:
            if time.monotonic() > began + _PATIENCE:
                raise TimeoutError("the desktop never stood")
            time.sleep(0.1)
        self.client.call("time", workspace=WORKSPACE)
        return time.monotonic() - began

    def finish(self, verb: str) -> float:
        began = time.monotonic()
        self.client.finish(verb, workspace=WORKSPACE)
        return time.monotonic() - began


class Bare(BareQemu):
    """The same image under QEMU alone; the guest's agent is asked on its port."""

    def __init__(self, built: Path, folder: Path) -> None:
        words = " ".join(_words("guest=work")) or "-smp 2 -m 1024M"  # as large as ours
        size = tuple(int(re.findall(rf"-{name} (\d+)", words)[0]) for name in ("smp", "m"))
        began = time.monotonic()
        super().__init__(load(built), folder, "kvm", size=(size[0], size[1]), screen=SCREEN)
        try:
            self.wait_agent(_PATIENCE)
        except BaseException:
            self.__exit__()
            raise
        self.boot = time.monotonic() - began


class Inside:
    """A method for each step."""

    def __init__(self, built: Path) -> None:
        self._built = built
        self._ours = Ours()
        self._bare: Bare | None = None

    def check_out(self, url: str) -> float:
        client = self._ours.client
        client.call("enrol", url=url, code="", name="phone")
        return self._ours.finish("checkout")

    def start(self) -> float:
        return self._ours.start()

    def finish(self, verb: str) -> float:
        return self._ours.finish(verb)

    def probe(self) -> None:
        self._ours.client.call("launch", workspace=WORKSPACE, app="twofold-probe-calm")

    def info(self, what: str) -> Any:
        return self._ours.client.call("info", workspace=WORKSPACE)[what]

    def doctor(self, name: str) -> str:
        checks = self._ours.client.call("doctor")["checks"]
        return next((str(check["detail"]) for check in checks if check["name"].startswith(name)), "")

    def bare_boot(self) -> float:
        self._bare = Bare(self._built, Path.home() / "bare")
        return self._bare.boot

    def bare_pid(self) -> int:
        assert self._bare is not None
        return self._bare.process.pid

    def bare_off(self) -> None:
        if self._bare is not None:
            self._bare.__exit__()
            self._bare = None

    def turn(self, *, bare: bool) -> None:
        """Let the one run and the other stand still."""
        assert self._bare is not None
        if bare:
            self._ours.finish("pause")
            self._bare.ask("cont")
        else:
            self._bare.ask("stop")
            self._ours.finish("resume")


def _pids(words: str) -> list[int]:
    """Of programs whose command line holds these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in text and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def _words(part: str) -> list[str]:
    return [
        Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace") for pid in _pids(part)
    ]


def main() -> int:
    inside = Inside(Path(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        step = request.pop("do")
        try:
            answer = {"ok": getattr(inside, step)(**request)}
        except Exception as error:  # noqa: BLE001 - it is for whoever asked
            answer = {"error": "".join(traceback.format_exception(error))[-1500:]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
