"""What is on the root window, straight from the X server's own frame buffer."""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.harness.xserver import XServer

Pixels = NDArray[np.uint32]


class Screen:
    """The server's pixels as `array`, height x width of 0x00RRGGBB; a live view that nothing copies."""

    def __init__(self, server: XServer) -> None:
        with server.pixels.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        head = struct.unpack(">25I", self._map[:100])  # XWDFileHeader, X11/XWDFile.h; big-endian as Xvfb writes it
        size, width, height, per_line, colours = head[0], head[4], head[5], head[12], head[19]
        view: NDArray[Any] = np.frombuffer(self._map, np.uint32, per_line // 4 * height, size + colours * 12)
        self.array: Pixels = view.reshape(height, per_line // 4)[:, :width]

    def pixel(self, x: int, y: int) -> int:
        return int(self.array[y, x]) & 0xFFFFFF

    def copy(self) -> Pixels:
        return self.array.copy()

    def wait(self, seen: Callable[[Pixels], bool], seconds: float = 5, every: float = 0.0005) -> float:
        """Look until `seen` holds; returns the monotonic time at which it did.

        Raises:
            TimeoutError: it did not hold in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            if seen(self.array):
                return time.monotonic()
            if time.monotonic() > deadline:
                raise TimeoutError("the pixels never came")
            time.sleep(every)

    def save(self, path: Path) -> Path:
        """Write what is shown now as a PNG."""
        from PIL import Image

        path.parent.mkdir(parents=True, exist_ok=True)
        now = self.array.copy()
        rgb = np.stack([(now >> 16) & 255, (now >> 8) & 255, now & 255], axis=-1).astype(np.uint8)
        Image.fromarray(rgb).save(path)
        return path
