"""A real Xorg with a real touch device: its dummy video driver and its `inputtest` input driver, fed over a socket."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from Xlib import X, display

from tests.harness.screen import Pixels, Screen
from tests.harness.xserver import XServer, end
from twofold.platform.run import spawn

XORG = Path("/usr/lib/xorg/Xorg")  # Debian's xserver-xorg-core; its `Xorg` wants a console
DUMMY = Path("/usr/lib/xorg/modules/drivers/dummy_drv.so")  # xserver-xorg-video-dummy
_BEGIN, _UPDATE, _END = 18, 19, 20  # XI2's kinds of touch events
_AXIS = 0xFFFF  # the driver's axes run from 0 to this

_CONFIG = """
Section "ServerFlags"
  Option "AutoAddDevices" "false"
  Option "AutoAddGPU" "false"
EndSection
Section "InputDevice"
  Identifier "finger"
  Driver "inputtest"
  Option "SocketPath" "{socket}"
  Option "DeviceType" "Touch"
  Option "TouchCount" "5"
EndSection
Section "Device"
  Identifier "card"
  Driver "dummy"
  VideoRam 65536
EndSection
Section "Monitor"
  Identifier "monitor"
  HorizSync 1-1000
  VertRefresh 1-1000
  Option "ReducedBlanking" "true"
  Modeline "wanted" 60 {width} {w1} {w2} {w3} {height} {h1} {h2} {h3}
EndSection
Section "Screen"
  Identifier "screen"
  Device "card"
  Monitor "monitor"
  DefaultDepth 24
  SubSection "Display"
    Depth 24
    Modes "wanted"
    Virtual {width} {height}
  EndSubSection
EndSection
Section "ServerLayout"
  Identifier "layout"
  Screen "screen"
  InputDevice "finger" "SendCoreEvents"
EndSection
"""


class Fingers:
    """Speaks the driver's protocol (xf86-input-inputtest-protocol.h, version 1.1): native-endian structs over a socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        self._socket.connect(str(path))
        self._socket.sendall(struct.pack("=IIHH", 12, 0, 1, 1))
        length, kind, major, _minor = struct.unpack("=IIHH", self._socket.recv(12, socket.MSG_WAITALL))
        if (length, kind, major) != (12, 0, 1):
            raise RuntimeError("the inputtest driver speaks another protocol")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def _touch(self, finger: int, kind: int, x: float, y: float) -> None:
        """`x` and `y` are parts of the screen."""
        places = [x * _AXIS, y * _AXIS, *[0.0] * 62]
        data = struct.pack("=IIIII8s4x64d64d", 1056, 6, finger, kind, 0, b"\x03", *places, *[0.0] * 64)
        self._socket.sendall(data)
        self._socket.sendall(struct.pack("=II", 8, 1))
        if self._socket.recv(8, socket.MSG_WAITALL) != struct.pack("=II", 8, 1):
            raise RuntimeError("the inputtest driver lost its step")

    def down(self, finger: int, x: float, y: float) -> None:
        self._touch(finger, _BEGIN, x, y)

    def move(self, finger: int, x: float, y: float) -> None:
        self._touch(finger, _UPDATE, x, y)

    def up(self, finger: int, x: float, y: float) -> None:
        self._touch(finger, _END, x, y)


class Asked(Screen):
    """The root window's pixels, asked from the server at each look: such a server shares no memory."""

    def __init__(self, server: XServer) -> None:
        self._display = display.Display(server.name)
        self._size = server.width, server.height

    def close(self) -> None:
        self._display.close()

    @property
    def array(self) -> Pixels:  # type: ignore[override]
        width, height = self._size
        image = self._display.screen().root.get_image(0, 0, width, height, X.ZPixmap, 0xFFFFFFFF)
        pixels: Pixels = np.frombuffer(image.data, np.uint32).reshape(height, width)
        return pixels


@contextmanager
def touchscreen(width: int = 1280, height: int = 800) -> Iterator[tuple[XServer, Fingers]]:
    """Start Xorg without a monitor or console, as whoever calls."""
    with tempfile.TemporaryDirectory(prefix="tf-xorg") as name:
        folder = Path(name)
        sizes = {"width": width, "w1": width + 48, "w2": width + 80, "w3": width + 160}
        sizes |= {"height": height, "h1": height + 3, "h2": height + 8, "h3": height + 30}
        (folder / "xorg.conf").write_text(_CONFIG.format(socket=folder / "fingers", **sizes))
        (folder / "none").mkdir()
        reader, writer = os.pipe()
        # -seat: a server that is not of the first seat leaves the console alone.
        process = spawn(
            [XORG, "-displayfd", str(writer), "-config", folder / "xorg.conf", "-configdir", folder / "none", "-logfile",
             folder / "log", "-seat", "twofold-test", "-nolisten", "tcp", "-noreset", "-dpi", "96", "-novtswitch"],
            pass_fds=[writer],
        )  # fmt: skip
        os.close(writer)
        try:
            with os.fdopen(reader, "rb") as pipe:
                number = pipe.readline().decode().strip()
            if not number:
                raise RuntimeError(f"Xorg ended with status {process.wait(5)}: {(folder / 'log').read_text()[-2000:]}")
            deadline = time.monotonic() + 10
            while not (folder / "fingers").exists():
                if time.monotonic() > deadline:
                    raise RuntimeError("Xorg has no inputtest driver")
                time.sleep(0.02)
            with Fingers(folder / "fingers") as fingers:
                yield XServer(f":{number}", Path(), width, height), fingers
        finally:
            end(process)
