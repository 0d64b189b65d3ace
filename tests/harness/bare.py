"""The business image under bare QEMU: no engine, no agent, no vault. For tests of the image itself, and as a bench's peer."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.harness.probe import Picture
from twofold.image.build import Built
from twofold.model.image import Arch
from twofold.platform.run import find, spawn

_BOARD = {
    Arch.AMD64: ("qemu-system-x86_64", "-M", "q35", "-cpu", "max"),
    Arch.ARM64: ("qemu-system-aarch64", "-M", "virt,gic-version=3", "-cpu", "cortex-a76"),
}


class Bare:
    """A running machine. `channel` is the guest's agent's socket; `born` when QEMU was started (monotonic seconds)."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], born: float) -> None:
        self.folder, self.process, self.born = folder, process, born
        self.channel = folder / "channel"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        deadline = time.monotonic() + 30
        while True:
            try:
                self._socket.connect(str(folder / "qmp"))
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.02)
        self._qmp = self._socket.makefile("rwb", buffering=0)
        self._qmp.readline()
        self.qmp("qmp_capabilities")

    def qmp(self, command: str, **arguments: Any) -> Any:
        self._qmp.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self._qmp.readline())
            if "error" in answer:
                raise RuntimeError(answer["error"])
            if "return" in answer:
                return answer["return"]

    def picture(self) -> Picture:
        """The guest's screen, RGB."""
        path = self.folder / "screen.png"
        self.qmp("screendump", filename=str(path), format="png")
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))

    def press(self, *codes: str) -> None:
        """Press keys together, by QEMU's names, and let go."""
        self.qmp("send-key", keys=[{"type": "qcode", "data": code} for code in codes], **{"hold-time": 30})
        time.sleep(0.15)

    def close(self) -> None:
        self._qmp.close()
        self._socket.close()


@contextlib.contextmanager
def boot(built: Built, folder: Path, *extra: str) -> Iterator[Bare]:
    """Boot the image; the user's disk is a file in `folder` and stays there for a second boot."""
    disk = folder / "user.raw"
    if not disk.exists():
        shutil.copyfile(built.path("user-template"), disk)
        os.truncate(disk, built.manifest.user_disk_size)
    for name in ("qmp", "channel"):
        (folder / name).unlink(missing_ok=True)
    argv = [
        *_BOARD[built.manifest.arch], "-nodefaults", "-no-user-config", "-accel", "tcg,thread=multi",
        "-smp", "2", "-m", "1024", "-display", "none", "-kernel", str(built.path("kernel")),
        "-initrd", str(built.path("initrd")), "-append", built.manifest.cmdline,
        "-drive", f"if=none,id=s,file={built.path('system')},format=raw,readonly=on", "-device", "virtio-blk-pci,drive=s",
        "-drive", f"if=none,id=u,file={disk},format=raw", "-device", "virtio-blk-pci,drive=u",
        "-device", "virtio-gpu-pci", "-device", "virtio-keyboard-pci", "-device", "virtio-tablet-pci",
        "-audiodev", f"wav,id=a,path={folder}/sound.wav", "-device", "intel-hda", "-device", "hda-output,audiodev=a",
        "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=c,path={folder}/channel,server=on,wait=off",
        "-device", "virtserialport,chardev=c,name=org.twofold.agent.0", "-qmp", f"unix:{folder}/qmp,server=on,wait=off", *extra,
    ]  # fmt: skip
    argv[0] = find(argv[0])
    born = time.monotonic()
    with (folder / "qemu.log").open("wb") as log:
        process = spawn(argv, stderr=log)
    try:
        machine = Bare(folder, process, born)
        try:
            yield machine
        finally:
            machine.close()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
