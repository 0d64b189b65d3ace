"""The peer: the same image under QEMU as a person would start it by hand, without Twofold. Raw files, no seals, no sandbox."""

from __future__ import annotations

import json
import os
import random
import select
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from twofold.image.build import Built
from twofold.model.image import Arch
from twofold.platform.run import run, spawn


class BareQemu:
    """One QEMU on raw files with the same hardware as ours; `memory` is a mapped-ram file to resume from. `size` is its
    processors and MiB, `screen` its pixels where they are not QEMU's own choice."""

    def __init__(
        self,
        built: Built,
        folder: Path,
        accelerator: str,
        memory: Path | None = None,
        size: tuple[int, int] = (2, 1024),
        screen: tuple[int, int] | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        user = folder / "user.raw"
        if not user.exists():
            run(["cp", "--sparse=always", built.path("user-template"), user])
            os.truncate(user, built.manifest.user_disk_size)
        for name in ("qmp", "channel"):
            (folder / name).unlink(missing_ok=True)
        arm = built.manifest.arch is Arch.ARM64
        program, board, gpu = (
            ("qemu-system-aarch64", "virt-10.0,gic-version=host", "virtio-gpu-pci")
            if arm
            else ("qemu-system-x86_64", "pc-q35-10.0", "virtio-vga")
        )
        gpu += f",xres={screen[0]},yres={screen[1]}" if screen else ""
        argv = [
            program, "-nodefaults", "-no-user-config", "-M", board, "-accel",
            "tcg,thread=multi" if accelerator == "tcg" else accelerator, "-cpu", "max" if accelerator == "tcg" else "host",
            "-smp", str(size[0]), "-m", str(size[1]),
            "-kernel", str(built.path("kernel")), "-initrd", str(built.path("initrd")), "-append", built.manifest.cmdline,
            "-drive", f"if=none,id=system,file={built.path('system')},format=raw,readonly=on",
            "-device", "virtio-blk-pci,drive=system", "-drive", f"if=none,id=user,file={user},format=raw",
            "-device", "virtio-blk-pci,drive=user", "-device", gpu, "-device", "virtio-keyboard-pci",
            "-device", "virtio-tablet-pci", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=channel,path={folder / 'channel'},server=on,wait=off",
            "-device", "virtserialport,chardev=channel,name=org.twofold.agent.0",
            "-qmp", f"unix:{folder / 'qmp'},server=on,wait=off", "-display", "none",
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] = spawn([*argv, *(["-incoming", "defer"] if memory else [])])
        self._qmp = _connect(folder / "qmp")
        self._lines = self._qmp.makefile("rb")
        self._lines.readline()
        self.ask("qmp_capabilities")
        if memory:
            self._mapped()
            self.ask("migrate-incoming", uri=f"file:{memory}")
            self._settled("inmigrate")
            self.ask("cont")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._qmp.close()

    def ask(self, verb: str, **arguments: Any) -> Any:
        self._qmp.sendall(json.dumps({"execute": verb, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self._lines.readline())
            if "error" in answer:
                raise RuntimeError(answer["error"])
            if "return" in answer:
                return answer["return"]

    def wait_agent(self, seconds: float = 120, *, session: bool = True) -> None:
        """Wait until the guest's agent answers a request of ours (and, with `session`, until its desktop stands)."""
        began, buffer, asked = time.monotonic(), b"", set[int]()
        channel = _connect(self.folder / "channel")
        with channel:
            while time.monotonic() < began + seconds:
                # Until somebody reads, questions wait in the socket, and it has room for some fifty.
                if select.select([], [channel], [], 0)[1]:
                    asked.add(number := random.getrandbits(53))
                    channel.sendall(json.dumps({"v": 1, "id": number, "do": "hello"}).encode() + b"\n")
                until = time.monotonic() + 0.3
                while select.select([channel], [], [], max(0.0, until - time.monotonic()))[0]:
                    buffer += channel.recv(65536)
                    *lines, buffer = buffer.split(b"\n")
                    for line in lines:
                        answer = json.loads(line) if line.startswith(b"{") else {}
                        if answer.get("id") in asked and (answer["ok"]["session"] or not session):
                            return
        raise TimeoutError("the bare guest's agent never answered")

    def suspend(self, memory: Path) -> None:
        """Save to a mapped-ram file, which stays in the page cache: the peer's best mode."""
        memory.unlink(missing_ok=True)
        self.ask("stop")
        self._mapped()
        self.ask("migrate", uri=f"file:{memory}")
        while self.ask("query-migrate")["status"] not in ("completed", "failed"):
            time.sleep(0.002)

    def _mapped(self) -> None:
        wanted = [{"capability": name, "state": True} for name in ("mapped-ram", "multifd")]
        self.ask("migrate-set-capabilities", capabilities=wanted)
        self.ask("migrate-set-parameters", **{"multifd-channels": 2, "max-bandwidth": 0})

    def _settled(self, status: str) -> None:
        while self.ask("query-status")["status"] == status:
            time.sleep(0.002)


def _connect(path: Path) -> socket.socket:
    deadline = time.monotonic() + 30
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
            return sock
        except OSError:
            sock.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
