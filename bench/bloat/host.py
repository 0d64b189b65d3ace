"""Starts and stops the kinds of load."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from bench.bloat.kinds import KINDS
from twofold.platform import memory
from twofold.platform.run import spawn

_ROOT = Path(__file__).resolve().parents[2]
_STOP_SECONDS = 10


class Bloat:
    """The load `kinds` (names of `KINDS`, each what it says there) from entering to leaving, at most `seconds`.

    `seed` decides every period, size and order. `folder` is where files are written (default: a new one below the temporary
    folder; name one on the disk under test). `memory_mib` bounds the hog. `facts` says how it was bounded; `rounds` is what
    each kind did, known after leaving.
    """

    def __init__(
        self,
        kinds: Iterable[str] = tuple(KINDS),
        seed: int = 1,
        *,
        seconds: float = 900,
        folder: Path | None = None,
        memory_mib: int = 384,
    ) -> None:
        self.kinds = tuple(kinds)
        unknown = set(self.kinds) - KINDS.keys()
        if unknown:
            raise ValueError(f"no such load: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
        self.seed, self.seconds, self.memory_mib = seed, seconds, memory_mib
        self.facts: dict[str, str] = {}
        self.rounds: dict[str, int] = {}
        self._folder = folder
        self._undo = contextlib.ExitStack()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Bloat:
        if "memory" in self.kinds:
            memory.require((self.memory_mib + 256) << 20, "The memory hog")
        with contextlib.ExitStack() as undo:
            folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="bloat-", dir=self._folder)))
            undo.callback(self._stop)
            for kind in self.kinds:
                argv = [sys.executable, "-m", "bench.bloat.work", kind, str(self.seed), str(self.seconds)]
                argv += [str(folder), str(self.memory_mib)]
                path = os.pathsep.join([str(_ROOT), str(_ROOT / "src")])
                process = spawn(argv, env={"PYTHONPATH": path}, cwd=_ROOT, stdout=subprocess.PIPE)
                self._running[kind] = process
                assert process.stdout is not None
                self.facts[kind] = process.stdout.readline().decode().strip()
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def _stop(self) -> None:
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for kind, process in self._running.items():
            try:
                said, _ = process.communicate(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                said = b""
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a session of its own: whatever it left behind
            process.communicate()
            with contextlib.suppress(ValueError, KeyError, IndexError):
                self.rounds[kind] = json.loads(said.splitlines()[-1])["rounds"]
        self._running.clear()
