"""A real X server without a monitor, whose pixels lie in a file that we map, and a real window manager on it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from twofold.platform.run import spawn


@dataclass(frozen=True)
class XServer:
    """`name` is what DISPLAY wants; `pixels` the frame buffer's file (X window dump format, mapped by the server)."""

    name: str
    pixels: Path
    width: int
    height: int

    def environment(self, **more: str) -> dict[str, str]:
        return {"DISPLAY": self.name, "QT_QPA_PLATFORM": "xcb", "LANG": "C.UTF-8", **more}


def end(process: subprocess.Popen[bytes], wait: float = 5) -> None:
    """End one process that we started, and be sure that it is gone."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(wait)


@contextmanager
def xserver(width: int = 1280, height: int = 800) -> Iterator[XServer]:
    """Start Xvfb on a free display number; its end takes all its clients with it."""
    with tempfile.TemporaryDirectory(prefix="tf-x") as folder:
        reader, writer = os.pipe()
        process = spawn(
            ["Xvfb", "-displayfd", str(writer), "-screen", "0", f"{width}x{height}x24", "-fbdir", folder,
             "-nolisten", "tcp", "-noreset", "-dpi", "96"],
            pass_fds=[writer],
        )  # fmt: skip
        os.close(writer)
        try:
            with os.fdopen(reader, "rb") as pipe:
                number = pipe.readline().decode().strip()
            if not number:
                raise RuntimeError(f"Xvfb ended with status {process.wait(5)}")
            yield XServer(f":{number}", Path(folder) / "Xvfb_screen0", width, height)
        finally:
            end(process)


@contextmanager
def window_manager(server: XServer) -> Iterator[subprocess.Popen[bytes]]:
    """Run openbox and wait until it manages the screen (EWMH, _NET_SUPPORTING_WM_CHECK)."""
    from Xlib import X, display

    process = spawn(["openbox", "--sm-disable"], env=server.environment())
    connection = display.Display(server.name)
    try:
        root, deadline = connection.screen().root, time.monotonic() + 10
        # The check window comes first, the list of clients once it manages what is there.
        for name in ("_NET_SUPPORTING_WM_CHECK", "_NET_CLIENT_LIST"):
            atom = connection.intern_atom(name)
            while root.get_full_property(atom, X.AnyPropertyType) is None:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError("openbox does not manage the screen")
                time.sleep(0.02)
        yield process
    finally:
        connection.close()
        end(process)
