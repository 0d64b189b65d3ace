"""Programs from a mold: a process that has imported what they need and forks for each of them, so that a start costs
milliseconds. What is forked is a process of its own with an environment of its own, and dies as any other does.

`python -m tests.harness.mold FD MODULE…` is the mold; orders come over the socket FD.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.harness import mortal

TREE = Path(__file__).resolve().parents[2]
_LIMIT = 60.0  # seconds that the imports and a fork may take


class Forked:
    """A program that came from a mold, with the verbs of `subprocess.Popen` that are used here. It is our child: whoever makes
    molds is the reaper of what loses its parent (tests/conftest.py)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._turn = threading.Lock()  # the kernel tells of an end once

    def poll(self) -> int | None:
        with self._turn:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(0.002)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class Mold:
    """Programs of `tests.harness.mortal`. `preload` is laid before them all, in effect where their environment says so."""

    def __init__(self, modules: Sequence[str], preload: Path | None = None) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = (
            dict(os.environ)
            | {"PYTHONPATH": f"{TREE / 'src'}:{TREE}"}
            | ({"LD_PRELOAD": str(preload)} if preload else {})
        )
        words = [sys.executable, "-m", "tests.harness.mold", str(theirs.fileno()), *modules]
        with theirs:
            self._process = subprocess.Popen(words, env=env, pass_fds=[theirs.fileno()])
        self._control.settimeout(_LIMIT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.close()
        self._process.wait(_LIMIT)

    def start(self, words: Sequence[str], environment: Mapping[str, str], log: Path | None = None) -> Forked:
        """`words` are those of `mortal.main`; `log` gets what it prints."""
        order = {"words": list(words), "environment": dict(environment), "log": str(log) if log else ""}
        self._control.sendall(json.dumps(order).encode())
        told = self._control.recv(100)
        assert told, "the mold is broken"
        return Forked(int(told))


def _forked() -> int:
    """The child of a child that ends at once, so that it has no parent; 0 in the child itself."""
    ours, theirs = os.pipe()
    middle = os.fork()
    if not middle:
        child = os.fork()
        if child:
            os.write(theirs, str(child).encode())
            os._exit(0)
    os.close(theirs)
    if not middle:
        os.close(ours)
        return 0
    os.waitpid(middle, 0)
    with open(ours, "rb") as stream:  # noqa: PTH123 - a descriptor
        return int(stream.read())


def _become(order: dict[str, Any]) -> int:
    os.environ.clear()
    os.environ.update(order["environment"])
    if "LD_PRELOAD" in os.environ:
        ctypes.CDLL(None).tape_begin()
    if order["log"]:
        with open(order["log"], "ab") as log:  # noqa: PTH123 - its descriptor is what counts
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    return mortal.main(order["words"])


def main(words: Sequence[str]) -> int:
    fd, *modules = words
    for module in modules:
        importlib.import_module(module)
    gc.freeze()
    with socket.socket(fileno=int(fd)) as control:
        while order := control.recv(1 << 16):
            pid = _forked()
            if not pid:
                break
            control.sendall(str(pid).encode())
    return _become(json.loads(order)) if order else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
