"""NBD servers to measure against each other: each serves one disk of its own on a private Unix socket, files in one folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from twofold.platform.run import run, spawn

PATIENCE = 60.0  # seconds in which a server must come up or go


@dataclass
class Server:
    """`make` lays down an empty disk of so many bytes in a folder; `serve` answers the command that serves it on a socket."""

    name: str
    make: Callable[[Path, int], None]
    serve: Callable[[Path, Path], Sequence[str | Path]]
    export: str = ""
    folder: Path = Path()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def socket(self) -> Path:
        return self.folder / "nbd"

    @property
    def uri(self) -> str:
        return f"nbd+unix:///{self.export}?socket={self.socket}"

    def create(self, folder: Path, size: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.make(folder, size)

    def settle(self) -> None:
        """Does what it left for later and what a later request would wait for. Others leave nothing once they flushed."""

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def start(self) -> float:
        """Returns the seconds from the command to the first answer over NBD."""
        self.socket.unlink(missing_ok=True)
        began = time.perf_counter()
        with (self.folder / "log").open("ab") as log:
            self.process = self.launch(log)
        while not self.socket.exists():  # ours hands over a socket that stands already
            if self.process.poll() is not None or time.perf_counter() - began > PATIENCE:
                raise RuntimeError(f"{self.name} did not come up: {(self.folder / 'log').read_text()}")
            time.sleep(0.002)
        run(["nbdinfo", "--size", self.uri])
        return time.perf_counter() - began

    def launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return spawn(self.serve(self.folder, self.socket), stdout=log, stderr=log)

    def stop(self, *, kill: bool = False) -> None:
        if self.process is not None:
            self.process.kill() if kill else self.process.terminate()
            self.process.wait(PATIENCE)
            self.process = None

    def seconds(self) -> float:
        """Processor time it has used so far (proc_pid_stat(5), utime and stime)."""
        assert self.process
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        """MiB at its highest (proc_pid_status(5), VmHWM)."""
        assert self.process
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _image(*options: str) -> Callable[[Path, int], None]:
    def make(folder: Path, size: int) -> None:
        (folder / "key").write_bytes(b"bench")
        secret = f"secret,id=key,file={folder / 'key'}"
        run(["qemu-img", "create", "-q", "--object", secret, *options, folder / "disk", str(size)])

    return make


def _qemu(driver: str) -> Callable[[Path, Path], Sequence[str | Path]]:
    def serve(folder: Path, socket: Path) -> Sequence[str | Path]:
        return [
            "qemu-nbd", "--persistent", "--shared=8", "--cache=writeback", "--discard=unmap", "--export-name=disk",
            f"--socket={socket}", f"--object=secret,id=key,file={folder / 'key'}", "--image-opts",
            f"{driver},file.driver=file,file.filename={folder / 'disk'}",
        ]  # fmt: skip

    return serve


def _nbdkit(*filters: str) -> Callable[[Path, Path], Sequence[str | Path]]:
    def serve(folder: Path, socket: Path) -> Sequence[str | Path]:
        options = [f"passphrase=+{folder / 'key'}"] if filters else []
        return ["nbdkit", "--foreground", f"--unix={socket}", *filters, "file", folder / "disk", *options]

    return serve


def peers() -> list[Server]:
    """The first is what every goal names first."""
    luks = ("-o", "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10")
    return [
        Server("qcow2+LUKS", _image("-f", "qcow2", *luks), _qemu("driver=qcow2,encrypt.key-secret=key"), "disk"),
        Server("qcow2", _image("-f", "qcow2"), _qemu("driver=qcow2"), "disk"),
        Server("qemu-nbd raw", _image("-f", "raw"), _qemu("driver=raw"), "disk"),
        Server("nbdkit file", _image("-f", "raw"), _nbdkit()),
        Server("nbdkit luks", _image("-f", "luks", "-o", "key-secret=key,iter-time=10"), _nbdkit("--filter=luks")),
    ]
