"""Our vault as one of the servers to be measured: `twofold-vaultd`, told what to do on its conversation (docs/protocol.md, 4)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import IO, cast

from bench.servers import PATIENCE, Server
from twofold.platform.run import spawn

# tools/setup-python builds it and puts it there.
PROGRAM = Path(__file__).resolve().parents[1] / "src" / "twofold" / "bin" / "twofold-vaultd"
_WORKSPACE = "bench"


class Vault(Server):
    """One vault with one device. The key lies wrapped beside it, as it does for a workspace."""

    def __init__(self, name: str = "Twofold") -> None:
        super().__init__(name, lambda _folder, _size: None, lambda _folder, _socket: (), "disk")
        self._keys = ""
        self._wire: socket.socket | None = None
        self._lines: IO[bytes] | None = None

    @property
    def files(self) -> Path:
        return self.folder / "vault"

    def create(self, folder: Path, size: int) -> None:
        super().create(folder, size)
        for name in ("vault", "anchors", "device"):
            (folder / name).mkdir(mode=0o700)
        with (folder / "log").open("ab") as log:
            self.process = self._talk(log)
        self._call("device_key", folder / "device")
        self._keys = cast(
            "str", self._call("make_keys", folder / "device" / "wrapping.key", workspace=_WORKSPACE)["keys"]
        )
        devices = [{"name": "disk", "size": size}]
        self._call("create", *self._places(), workspace=_WORKSPACE, keys=self._keys, devices=devices)
        self.stop()

    def launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        process = self._talk(log)
        with ExitStack() as ours:
            listening = []
            for path in (self.folder / "control", self.socket):
                path.unlink(missing_ok=True)
                one = ours.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                one.bind(str(path))
                one.listen()
                listening.append(one.fileno())
            self._call("open", *self._places(), *listening, workspace=_WORKSPACE, keys=self._keys)
        return process

    def stop(self, *, kill: bool = False) -> None:
        if self.process is None:
            return
        if kill:
            self.process.kill()
        elif self.process.poll() is None:
            self._call("stop")
        self.process.wait(PATIENCE)
        self.process = None
        if self._wire and self._lines:
            self._lines.close()
            self._wire.close()

    def settle(self) -> None:
        """The cleaner goes on as long as it would by itself, but without its rests."""
        while True:
            vault = cast("dict[str, int]", self._call("status")["vault"])
            # As `is_dirty` in crates/vault/src/cleaner.rs: a third of what is needed, and at least eight segments' worth.
            if (
                vault["stored"] - vault["live"] <= max(vault["live"] // 3, 8 << 26)
                or not self._call("clean")["removed"]
            ):
                return

    def clean(self) -> int:
        """One pass of the cleaner; the bytes that it moved."""
        return cast("int", self._call("clean")["moved"])

    def commit(self) -> int:
        """Keep a generation, durably; its number."""
        return cast("int", self._call("commit", note="")["generation"])

    def forget(self, generation: int) -> None:
        """Keep it no longer."""
        self._call("forget", generation=generation)

    def _places(self) -> tuple[Path, ...]:
        return self.files, self.folder / "anchors", self.folder / "device" / "wrapping.key"

    def _talk(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = spawn([PROGRAM], stdin=theirs.fileno(), stderr=log)
        self._wire, self._lines = ours, ours.makefile("rb")
        return process

    def _call(self, verb: str, *fds: Path | int, **args: object) -> dict[str, object]:
        """Do `verb`; what it answered. Paths are opened and go as descriptors."""
        assert self._wire and self._lines
        with ExitStack() as opened:
            numbers = []
            for one in fds:
                if isinstance(one, Path):
                    one = os.open(one, os.O_RDONLY | os.O_CLOEXEC)
                    opened.callback(os.close, one)
                numbers.append(one)
            request = json.dumps({"id": 1, "do": verb, "args": args, "fds": len(numbers)}) + "\n"
            socket.send_fds(self._wire, [request.encode()], numbers)
        while line := self._lines.readline():
            answer = json.loads(line)
            if "ok" in answer:
                return cast("dict[str, object]", answer["ok"])
            if "error" in answer:
                raise RuntimeError(f"{verb}: {answer['error']}")
        raise RuntimeError(f"{verb}: the vault process is gone: {(self.folder / 'log').read_text()}")
