"""The half of `make bench-phone` that runs in the phone, as its owner, and takes the times there.

`python -m bench.phone_inside BUILT`: each line in is `{"do": STEP, …}`, each line out `{"ok": what it measured}` or
`{"error": text}`. BUILT is the folder with the same guest image as raw files, for the peer.
"""

from __future__ import annotations

import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from bench.bare import BareQemu
from bench.bloat import Bloat
from twofold.agent.client import Client, Watch
from twofold.image.build import load
from twofold.model.errors import UnreachableError
from twofold.platform import cgroup
from twofold.platform.run import spawn

WORKSPACE, APP = "work", "galculator"  # an application of which every start is a whole one, however many windows it has
SCREEN = (528, 986)  # what the switcher leaves the guest on this phone
SETTLE = 4.0  # seconds after which what was done last is over
_PATIENCE, _LAUNCH = 600.0, 120.0


class Ours:
    """Work, through the agent."""

    def __init__(self) -> None:
        self.client = Client(timeout=_PATIENCE)

    def start(self) -> float:
        """Seconds from the request to the answering agent of a guest whose desktop stands."""
        with Watch() as watch:  # asking again and again would be a load of its own
            began = time.monotonic()
            self.client.finish("start", workspace=WORKSPACE)
            up = self.client.call("info", workspace=WORKSPACE)["session_up"]
            while not up:
                event = watch.one(began + _PATIENCE)
                if event is None:
                    raise TimeoutError(f"the desktop did not stand within {_PATIENCE:.0f} s")
                up = event.get("event") == "workspace" and bool(event.get("session_up"))
            self.client.call("time", workspace=WORKSPACE)
            return time.monotonic() - began

    def finish(self, verb: str) -> float:
        began = time.monotonic()
        self.client.finish(verb, workspace=WORKSPACE)
        return time.monotonic() - began

    def launch(self) -> tuple[float, float]:
        """Seconds from the request to the guest's word that the window is there, and those that the guest itself counted."""
        with Watch() as watch:
            began = time.monotonic()
            token = self.client.call("launch", workspace=WORKSPACE, app=APP)["launch"]
            while event := watch.one(began + _LAUNCH):
                if event.get("event") in ("window", "gone") and event.get("launch") == token:
                    return time.monotonic() - began, _shown(event)
        raise TimeoutError(f"{APP} showed no window in Work within {_LAUNCH:.0f} s")


class Port:
    """The guest agent's own conversation with bare QEMU (docs/protocol.md, 1), kept open as our agent keeps its own."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(str(path))
        self._buffer = b""
        self._said: list[dict[str, Any]] = []

    def close(self) -> None:
        self._sock.close()

    def launch(self) -> tuple[float, float]:
        began, number = time.monotonic(), random.getrandbits(53)
        request = {"v": 1, "id": number, "do": "launch", "app": APP}
        self._sock.sendall(b"\n" + json.dumps(request).encode() + b"\n")
        token = ""
        while message := self._one(began + _LAUNCH):
            if message.get("id") == number:
                token = message["ok"]["launch"]
            elif token and message.get("launch") == token and message.get("event") in ("window", "gone"):
                return time.monotonic() - began, _shown(message)
        raise TimeoutError(f"{APP} showed no window under bare QEMU within {_LAUNCH:.0f} s")

    def _one(self, end: float) -> dict[str, Any] | None:
        while not self._said:
            if not select.select([self._sock], [], [], max(0.0, end - time.monotonic()))[0]:
                return None
            self._buffer += self._sock.recv(65536)
            *lines, self._buffer = self._buffer.split(b"\n")
            self._said = [json.loads(line) for line in lines if line.startswith(b"{")]
        return self._said.pop(0)


def _shown(event: dict[str, Any]) -> float:
    if event["event"] == "gone":
        raise RuntimeError(f"{APP} ended without a window")
    return float(event["ms"]) / 1000


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
        self.port = Port(folder / "channel")


class Inside:
    """A method for each step."""

    def __init__(self, built: Path) -> None:
        self._built = built
        self._ours = Ours()
        self._bare: Bare | None = None
        self._busy: Bloat | None = None
        self._agent: subprocess.Popen[bytes] | None = None

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
            self._bare.port.close()
            self._bare.__exit__()
            self._bare = None

    def launch(self) -> tuple[float, float]:
        return self._ours.launch()

    def bare_launch(self) -> tuple[float, float]:
        assert self._bare is not None
        return self._bare.port.launch()

    def launches(self, *, bare_first: bool) -> tuple[tuple[float, float], tuple[float, float]]:
        """One launch in Work and one under bare QEMU; the other stands still, and at all other times it is Work that runs."""
        assert self._bare is not None
        took = {}
        for bare in (bare_first, not bare_first):
            self.turn(bare=bare)
            time.sleep(SETTLE)
            took[bare] = self._bare.port.launch() if bare else self._ours.launch()
        self.turn(bare=False)
        return took[False], took[True]

    def busy(self, kinds: list[str], memory_mib: int = 0, *, as_work: bool = False) -> dict[str, str]:
        """Make the phone busy, as its owner and among their programs or in Work's own group, until `calm`; says how each kind was
        bounded."""
        mine = _group(os.getpid())
        if as_work:
            (_group(_pids("guest=work")[0]) / "cgroup.procs").write_text("0")
        try:
            self._busy = Bloat(kinds, seconds=600, folder=Path.home(), memory_mib=memory_mib).__enter__()
        finally:
            (mine / "cgroup.procs").write_text("0")
        time.sleep(SETTLE)
        return self._busy.facts

    def calm(self) -> dict[str, int]:
        """What each kind did."""
        busy, self._busy = self._busy, None
        if busy is None:
            return {}
        busy.__exit__(None, None, None)
        time.sleep(SETTLE)
        return busy.rounds

    def measures(self, *, on: bool) -> str:
        """An agent begun anew, with our measures or without, and Work suspended and resumed; says what share it has."""
        for pid in _pids("/usr/lib/handset/agent"):
            os.kill(pid, signal.SIGTERM)  # it would begin another
        try:
            self._ours.client.call("quit", suspend=True, deadline=_PATIENCE)
        except UnreachableError:
            pass
        self._ours.client.close()
        deadline = time.monotonic() + _PATIENCE
        while _pids("twofold.cli agent run"):
            if time.monotonic() > deadline:
                raise TimeoutError("the agent that should quit is still there")
            time.sleep(0.2)
        if self._agent is not None:
            self._agent.wait(_PATIENCE)
        self._agent = spawn(["twofold", "agent", "run"], env={**os.environ, cgroup.SWITCH: "0" if on else "1"})
        while True:
            try:
                self._ours = Ours()
                break
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)
        self._ours.start()
        return self.doctor("processor share")

    def turn(self, *, bare: bool) -> None:
        """Let the one run and the other stand still."""
        assert self._bare is not None
        if bare == (self.info("run") == "paused"):
            return
        if bare:
            self._ours.finish("pause")
            self._bare.ask("cont")
        else:
            self._bare.ask("stop")
            self._ours.finish("resume")


def _group(pid: int) -> Path:
    return Path("/sys/fs/cgroup" + Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::"))


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
