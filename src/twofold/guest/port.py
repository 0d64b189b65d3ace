"""The virtio-serial port: found by its name, read and written without ever blocking."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

NAME = "org.twofold.agent.0"
MAX_PENDING = 1 << 20
_SYSFS = Path("/sys/class/virtio-ports")


def find(name: str = NAME) -> Path | None:
    """The device of the port `name`; /sys knows it before udev has made its link."""
    if _SYSFS.is_dir():
        for entry in _SYSFS.iterdir():
            try:
                if (entry / "name").read_text().strip() == name:
                    return Path("/dev", entry.name)
            except OSError:
                continue  # the port is being taken away
    return None


def wait(name: str = NAME) -> int:
    """Open the port, waiting for it to appear."""
    while True:
        device = find(name)
        if device is not None:
            try:
                return os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as why:
                if why.errno not in (errno.ENOENT, errno.ENXIO, errno.EBUSY):
                    raise
        time.sleep(0.1)


class Port:
    """What waits to be written, and the descriptor it goes to."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._out = bytearray()
        self.connected = True

    def read(self) -> bytes | None:
        """Bytes, b"" when there are none now, None when nobody is at the other end."""
        try:
            data = os.read(self.fd, 65_536)
        except BlockingIOError:
            return b""
        return data or None

    def send(self, line: bytes) -> None:
        """Queue a line; dropped whole where the other end is gone or does not read."""
        if self.connected and len(self._out) + len(line) <= MAX_PENDING:
            self._out += line
            self.flush()

    def flush(self) -> bool:
        """Write what can be written; True when nothing is left."""
        while self._out:
            try:
                sent = os.write(self.fd, memoryview(self._out)[:16_384])
            except BlockingIOError:
                return False
            except OSError:
                self._out.clear()
                return True
            del self._out[:sent]
        return True

    def forget(self) -> None:
        """The other end is gone; what it did not read was meant for it alone."""
        self._out.clear()
