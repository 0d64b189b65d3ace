"""Our NBD server with devices in memory, for other people's clients (crates/nbd/examples/memory.rs)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from twofold.platform.run import spawn

# tools/setup-python builds it and puts it there.
PROGRAM = Path(__file__).resolve().parents[2] / ".venv" / "libexec" / "nbd-memory"


@dataclass(frozen=True)
class Served:
    socket: Path
    process: subprocess.Popen[bytes]

    def uri(self, export: str) -> str:
        return f"nbd+unix:///{export}?socket={self.socket}"

    def say(self, line: str) -> None:
        """Tell it something, as its usage has it; it has done it when this returns."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin and stdout
        stdin.write(f"{line}\n".encode())
        stdin.flush()
        assert stdout.readline() == b"done\n"


@contextmanager
def serving(folder: Path, *exports: str) -> Iterator[Served]:
    """`exports` are what the program takes: NAME=BYTES[,...]. At the end it must have gone in good order."""
    socket = folder / "nbd"
    process = spawn([PROGRAM, socket, *exports], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert process.poll() is None and time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.01)
        yield Served(socket, process)
        assert process.stdin
        process.stdin.close()
        assert process.wait(timeout=20) == 0
    socket.unlink()
