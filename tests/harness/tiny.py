"""A small guest: the business image's kernel and system without its session. Instead, one Python script runs, which speaks
over a virtio port. Up in a few seconds where a processor is emulated."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from twofold.image.build import Built
from twofold.image.initrd import cpio
from twofold.platform.run import find, run, spawn

INSIDE = Path(__file__).with_name("inside")
PACKAGE = "tests/harness/inside"
# The image's own initramfs has busybox, modules and their lists; this takes the place of its init. `kind` and `script` come
# from the kernel's command line.
INIT = b"""#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
. /modules/lists
for m in $first_list; do [ -e /modules/$m.ko ] && $b insmod /modules/$m.ko 2>/dev/null; done
until [ -b /dev/vda ] && $b ls /dev/vport*p1 >/dev/null 2>&1; do $b sleep 0.02; done
[ "$kind" = ext4 ] && options=rw,noatime || options=ro
$b mount -t ${kind:-erofs} -o $options /dev/vda /root || $b poweroff -f
$b mount -t tmpfs tmpfs /root/run; $b mount -t tmpfs tmpfs /root/tmp
$b cp -r /inside /root/run/inside
$b mount --move /dev /root/dev; $b mount --move /proc /root/proc; $b mount --move /sys /root/sys
exec $b switch_root /root /usr/bin/env PYTHONPATH=/run/inside /usr/bin/python3 -SBm tests.harness.inside.$script
"""


def initrd(image: Built, scripts: Sequence[str], programs: Sequence[str] = ()) -> bytes:
    """The image's initramfs with our init, `scripts` of the folder `inside`, and `programs` of this machine, which bring their
    libraries and are to be run as /run/inside/host/NAME."""
    folder, executable = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
    entries: list[tuple[str, int, bytes]] = [("init", executable, INIT), ("inside", folder, b"")]
    entries += [(f"inside/{name}", folder, b"") for name in ("host", "host/lib", "tests", "tests/harness", PACKAGE)]
    for name in (*scripts, "guest"):
        entries.append((f"inside/{PACKAGE}/{name}.py", executable, (INSIDE / f"{name}.py").read_bytes()))
    libraries: dict[str, Path] = {}
    for program in programs:
        path = Path(find(program))
        for library in re.findall(r"(/\S+) \(0x", run(["ldd", path]).stdout.decode()):
            libraries[Path(library).name] = Path(library)
        entries.append((f"inside/host/lib/{program}", executable, path.read_bytes()))
        call = f'#!/bin/sh\nl=/run/inside/host/lib\nexec $l/ld-linux-x86-64.so.2 --library-path $l $l/{program} "$@"\n'
        entries.append((f"inside/host/{program}", executable, call.encode()))
    entries += [(f"inside/host/lib/{name}", executable, path.read_bytes()) for name, path in sorted(libraries.items())]
    whole = image.path("initrd").read_bytes()
    return whole + b"\0" * (-len(whole) % 4) + cpio(entries)


class Lines:
    """What a guest says, line by line, from a pipe or a socket."""

    def __init__(self, fd: int) -> None:
        self._fd, self._rest, self.ended = fd, b"", False

    def next(self, seconds: float) -> str | None:
        """The next line; None when there is none for so long, or no more at all (then it has `ended`)."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._fd], [], [], left)[0]:
                return None
            try:
                part = os.read(self._fd, 65536)
            except OSError:
                part = b""
            if not part:
                self.ended = True
                return None
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode(errors="replace").strip()


@contextlib.contextmanager
def running(
    image: Built, folder: Path, script: str, *extra: str, programs: Sequence[str] = (), cmdline: str = ""
) -> Iterator[Lines]:
    """Run `inside/SCRIPT.py` on the image's read-only system under bare QEMU. `extra` are QEMU's words for more devices,
    `cmdline` the script's own on the kernel's command line."""
    (folder / "initrd").write_bytes(initrd(image, [script], programs))
    ours, theirs = socket.socketpair()
    argv = [
        find("qemu-system-x86_64"), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-M", "q35",
        "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "512", "-kernel", str(image.path("kernel")),
        "-initrd", str(folder / "initrd"), "-append", f"{image.manifest.cmdline} script={script} {cmdline}",
        "-blockdev", f"driver=file,node-name=system,filename={image.path('system')},read-only=on",
        "-device", "virtio-blk-pci,drive=system",
        "-device", "virtio-serial-pci,id=serial", "-chardev", f"socket,id=words,fd={theirs.fileno()}",
        "-device", "virtserialport,bus=serial.0,nr=1,chardev=words", *extra,
    ]  # fmt: skip
    with ours:
        with theirs, (folder / "qemu.log").open("wb") as log:
            process = spawn(argv, pass_fds=[theirs.fileno()], stderr=log)
        try:
            yield Lines(ours.fileno())
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
