"""What it takes to keep and send what changed: our generation against plain copying and against QEMU's incremental backup."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import perf_counter, sleep
from typing import IO

from bench.fio import MIB, plain
from bench.ours import Vault
from bench.report import Row, row
from bench.servers import PATIENCE, Server
from twofold.platform.run import run, spawn

CHANGED = 50 * MIB


class Daemon(Server):
    """qemu-storage-daemon with an encrypted qcow2, whose changes a bitmap notes."""

    def __init__(self) -> None:
        super().__init__("QEMU bitmap", lambda _folder, _size: None, lambda _folder, _socket: (), "disk")
        self._wire: socket.socket | None = None
        self._lines: IO[bytes] | None = None
        self._size, self._backups = 0, 0

    def create(self, folder: Path, size: int) -> None:
        super().create(folder, size)
        self._size = size
        (folder / "key").write_bytes(b"bench")
        self._image("disk")

    def _image(self, name: str) -> None:
        options = ["-o", "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10"]
        secret = f"secret,id=key,file={self.folder / 'key'}"
        run(
            [
                "qemu-img",
                "create",
                "-q",
                "-f",
                "qcow2",
                "--object",
                secret,
                *options,
                self.folder / name,
                str(self._size),
            ]
        )

    def launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        monitor = self.folder / "qmp"
        process = spawn(
            [
                "qemu-storage-daemon", "--object", f"secret,id=key,file={self.folder / 'key'}",
                "--chardev", f"socket,id=qmp,path={monitor},server=on,wait=off", "--monitor", "chardev=qmp",
                "--blockdev", self._node("disk"), "--nbd-server", f"addr.type=unix,addr.path={self.socket}",
                "--export", "type=nbd,id=export,node-name=disk,name=disk,writable=on",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
        deadline = perf_counter() + PATIENCE
        wire = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while perf_counter() < deadline and process.poll() is None:
            with suppress(OSError):
                wire.connect(str(monitor))
                break
            sleep(0.01)
        self._wire, self._lines = wire, wire.makefile("rb")
        self._lines.readline()
        self._do("qmp_capabilities")
        self._do("block-dirty-bitmap-add", node="disk", name="changed", granularity=65536)
        return process

    def _node(self, name: str) -> str:
        file = {"driver": "file", "filename": str(self.folder / name)}
        encrypt = {"format": "luks", "key-secret": "key"}
        return json.dumps({"driver": "qcow2", "node-name": name, "file": file, "encrypt": encrypt})

    def _do(self, verb: str, **arguments: object) -> None:
        assert self._wire and self._lines
        self._wire.sendall(json.dumps({"execute": verb, "arguments": arguments}).encode() + b"\n")
        self._until("return")

    def _until(self, what: str, status: str = "") -> None:
        assert self._lines
        while line := self._lines.readline():
            said = json.loads(line)
            if "error" in said:
                raise RuntimeError(f"{self.name}: {said['error']}")
            if what in said and status in ("", said.get("data", {}).get("status")):
                return
        raise RuntimeError(f"{self.name} is gone: {(self.folder / 'log').read_text()}")

    def forget(self) -> None:
        self._do("block-dirty-bitmap-clear", node="disk", name="changed")

    def prepare(self) -> None:
        """An empty image to send to: making one takes seconds, most of them its key's."""
        self._backups += 1
        name = f"backup{self._backups}"
        self._image(name)
        self._do("blockdev-add", **json.loads(self._node(name)))

    def backup(self) -> None:
        """Send what changed since the last one."""
        name = f"backup{self._backups}"
        self._do(
            "blockdev-backup",
            **{"job-id": name, "device": "disk", "target": name, "sync": "incremental", "bitmap": "changed"},
        )
        self._until("event", "null")
        self._do("blockdev-del", **{"node-name": name})
        path = self.folder / name
        _durable(path)
        path.unlink()

    def stop(self, *, kill: bool = False) -> None:
        super().stop(kill=kill)
        if self._wire and self._lines:
            self._lines.close()
            self._wire.close()
            self._wire = None


def generations(folder: Path, rounds: int, size: int) -> list[Row]:
    """50 MiB in random pieces of 64 KiB change on a disk that was filled, and then on one that was written over at random."""
    ours, theirs = Vault("ours"), Daemon()
    table = []
    try:
        for server in (ours, theirs):
            server.create(folder / server.name.replace(" ", "-"), size)
            server.start()
            plain(server, "write", MIB, 8, size, size, ("--end_fsync=1",))
        for state in ("fresh", "aged"):
            if state == "aged":
                for server in (ours, theirs):
                    plain(server, "randwrite", 4096, 32, size, size, ("--end_fsync=1",))
                    server.settle()
            table += _compare(folder, ours, theirs, state, rounds, size)
    finally:
        for server in (ours, theirs):
            server.stop()
            server.remove()  # what comes next needs the room
    return table


def _compare(folder: Path, ours: Vault, theirs: Daemon, state: str, rounds: int, size: int) -> list[Row]:
    seconds: dict[str, list[float]] = {"ours": [], "write and send": [], "QEMU bitmap": []}
    sent: list[float] = []
    ours.commit()
    theirs.forget()
    for one in range(rounds):
        os.sync()
        before = {path.name for path in ours.files.iterdir()}
        writing = _change(ours, size)
        began = perf_counter()
        ours.commit()
        fresh = [path for path in ours.files.iterdir() if path.name not in before and path.name.startswith("s-")]
        sent.append(sum(_send(path, folder / "sent") for path in fresh) / MIB)
        seconds["ours"].append(writing + perf_counter() - began)
        data = os.urandom(CHANGED)
        os.sync()
        began = perf_counter()
        (folder / "plain").write_bytes(data)
        _durable(folder / "plain")
        _send(folder / "plain", folder / "sent")
        seconds["write and send"].append(perf_counter() - began)
        theirs.prepare()
        os.sync()
        writing = _change(theirs, size)
        began = perf_counter()
        theirs.backup()
        seconds["QEMU bitmap"].append(writing + perf_counter() - began)
        last = {name: round(values[-1], 2) for name, values in seconds.items()}
        sys.stderr.write(f"generation, {state}, round {one + 1}: {last} s, {sent[-1]:.1f} MiB sent\n")
    what = f"50 MiB changed on a {size / (1 << 30):g} GiB disk, {state}"
    mine = seconds.pop("ours")
    turned = {name: seconds[name] for name in ("QEMU bitmap", "write and send")}
    return [
        row(f"generation: {what}, against writing and sending", "s", mine, dict(seconds), at_most=1.3),
        row(f"generation: {what}, against QEMU's incremental backup", "s", mine, dict(turned), at_most=1.2),
        row(f"generation: {what}, bytes sent", "MiB", sent, {"what changed": [CHANGED / MIB]}, at_most=1.3),
    ]


def _change(server: Server, size: int) -> float:
    """Seconds, the flush among them, without fio's own beginning. In pieces of QEMU's grain: smaller ones it sends whole."""
    said = plain(server, "randwrite", 65536, 32, size, CHANGED, ("--end_fsync=1",))
    return said["write"]["runtime"] / 1000


def _send(path: Path, to: Path) -> int:
    shutil.copyfile(path, to)
    _durable(to)
    return to.stat().st_size


def _durable(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
