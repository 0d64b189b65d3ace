"""Inside a small guest: the kernel's own NBD client against the server at the other end of virtio port 2."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import shutil
import socket
import struct
import threading
import time
from pathlib import Path

from tests.harness.inside.guest import HOST, main, port, say, sh

MIB = 1 << 20
DISK = "/dev/nbd0"
_BLKDISCARD, _BLKZEROOUT, _BLKGETSIZE64 = 0x1277, 0x127F, 0x80081272  # linux/fs.h


def relay() -> str:
    """The client wants a socket: bytes go to and fro between one and the port."""
    path, there = "/run/nbd", os.open(port(2), os.O_RDWR)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(1)

    def up(stream: socket.socket) -> None:
        while data := stream.recv(256 << 10):
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(there, rest) :]

    def down() -> None:
        stream, _ = listening.accept()
        threading.Thread(target=up, args=[stream], daemon=True).start()
        while data := os.read(there, 256 << 10):
            stream.sendall(data)

    threading.Thread(target=down, daemon=True).start()
    return path


def ioctl_range(request: int, offset: int, length: int) -> None:
    fd = os.open(DISK, os.O_RDWR)
    try:
        fcntl.ioctl(fd, request, struct.pack("QQ", offset, length))
        os.fsync(fd)
    finally:
        os.close(fd)


def forget() -> None:
    """Nothing of the disk stays in memory."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def raw() -> None:
    """Writes of many sizes and places, a trim and zeroes; all is read back from the server."""
    model, dice = bytearray(24 * MIB), random.Random(1)
    with Path(DISK).open("r+b", buffering=0) as disk:
        for _ in range(120):
            length = dice.choice([512, 4096, 4096, 5120, 65536, MIB])
            at = dice.randrange((len(model) - length) // 512) * 512
            data = dice.randbytes(length)
            model[at : at + length] = data
            assert os.pwrite(disk.fileno(), data, at) == length
        os.fsync(disk.fileno())
    for request, at, length in [(_BLKDISCARD, 3 * MIB, 2 * MIB), (_BLKZEROOUT, 9 * MIB, MIB + 4096)]:
        ioctl_range(request, at, length)
        model[at : at + length] = bytes(length)
    forget()
    with Path(DISK).open("rb") as disk:
        assert disk.read(len(model)) == model, "the disk reads as something else than was written"
    say("raw", hashlib.sha256(model).hexdigest())


def files() -> None:
    """A file system: made, filled, trimmed, checked."""
    sh(HOST + "mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0", DISK)
    Path("/run/there").mkdir()
    sh("mount", "-t", "ext4", DISK, "/run/there")
    shutil.copytree("/usr/lib/python3.13/json", "/run/there/json")
    for number in range(20):
        Path(f"/run/there/{number}").write_bytes(random.Random(number).randbytes(300_000))
    for number in range(0, 20, 2):
        Path(f"/run/there/{number}").unlink()
    os.sync()
    trimmed = sh("fstrim", "-v", "/run/there").split("(")[1].split()[0]
    sh("umount", "/run/there")
    forget()
    sh(HOST + "e2fsck", "-fn", DISK)
    sh("mount", "-t", "ext4", "-o", "ro", DISK, "/run/there")
    for number in range(1, 20, 2):
        assert Path(f"/run/there/{number}").read_bytes() == random.Random(number).randbytes(300_000)
    sh("umount", "/run/there")
    say("files", trimmed)


def work() -> None:
    sh("modprobe", "ext4")
    sh("modprobe", "nbd", "nbds_max=1", "max_part=0")
    sh(HOST + "nbd-client", "-unix", relay(), DISK, "-name", "disk", "-timeout", "20")
    deadline = time.monotonic() + 10
    size = b""
    while size in (b"", bytes(8)) and time.monotonic() < deadline:
        fd = os.open(DISK, os.O_RDONLY)
        size = fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8))
        os.close(fd)
        time.sleep(0.02)
    queue = Path("/sys/block/nbd0/queue")
    say("size", struct.unpack("Q", size)[0])
    for name in ("write_cache", "fua", "discard_max_bytes", "write_zeroes_max_bytes", "logical_block_size"):
        say(name, (queue / name).read_text().strip())
    raw()
    files()
    sh(HOST + "nbd-client", "-d", DISK)


main(work)
