"""The switcher's command: `python -m twofold.switcher --socket PATH`."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from twofold.model.errors import MissingError, TwofoldError

if TYPE_CHECKING:
    from twofold.switcher.desk import Desk
    from twofold.switcher.session import Keys
    from twofold.switcher.side import AnyGate
    from twofold.switcher.window import Window


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(
        prog="twofold switcher", description="Work beside the personal side, one key apart."
    )
    words.add_argument("--socket", type=Path, help="the agent's socket (default: the running agent's)")
    words.add_argument(
        "--key",
        default="Pause",
        help="the key that switches, by its X name (default: %(default)s; F13 is a good second)",
    )
    words.add_argument(
        "--phone", action="store_true", help="the form for a phone; chosen by itself below 600 pixels of width"
    )
    words.add_argument(
        "--pointer-as-touch", action="store_true", help="hand the pointer to the guest as an emulated finger"
    )
    words.add_argument("--workspace", default="", help="the workspace to begin with, where there are several")
    words.add_argument("--front", action="store_true", help="come to the front at once")
    words.add_argument("--status-fd", type=int, help="write what changes to this descriptor, one JSON object a line")
    return words


def main(argv: list[str] | None = None) -> int:
    chosen = parser().parse_args(argv)
    try:
        return run(chosen)
    except TwofoldError as error:
        print(error, file=sys.stderr)  # noqa: T201 - this is the command's own voice
        return error.exit_code


def run(chosen: argparse.Namespace) -> int:
    from twofold.switcher.capabilities import session

    here = session(os.environ)
    if here.kind == "none":
        raise MissingError(
            "There is no screen to show Work on.", next="Run it in a graphical session (DISPLAY is not set)."
        )
    # On a phone Work is a window of the compositor's own. Elsewhere the gate needs X's grabs; under Wayland Qt must come through
    # XWayland too, so that gate and window are in one server.
    native = chosen.phone and bool(os.environ.get("WAYLAND_DISPLAY"))
    native = os.environ.setdefault("QT_QPA_PLATFORM", "wayland" if native else "xcb") == "wayland"
    # It would say at each switch that no text is being composed, into a file that its owner keeps.
    os.environ.setdefault("QT_LOGGING_RULES", "qt.qpa.wayland.textinput.warning=false")
    from PySide6.QtCore import QSocketNotifier, QTimer
    from PySide6.QtGui import QGuiApplication
    from PySide6.QtWidgets import QApplication

    from twofold.platform import cgroup
    from twofold.platform.dirs import dirs
    from twofold.switcher import look
    from twofold.switcher.desk import Desk
    from twofold.switcher.link import Link
    from twofold.switcher.session import Keys
    from twofold.switcher.side import Side
    from twofold.switcher.window import Window

    app = QApplication([sys.argv[0]])
    app.setApplicationName("Twofold")
    app.setQuitOnLastWindowClosed(False)
    screen = QGuiApplication.primaryScreen().geometry()
    metrics = look.PHONE if chosen.phone or screen.width() < look.PHONE_BELOW else look.DESKTOP
    window = Window(metrics, chosen.key, pointer_as_touch=chosen.pointer_as_touch, native=native)
    keys, link = Keys(), Link(chosen.socket or dirs().agent_socket)
    desk = Desk(window, link, keys, chosen.status_fd)
    refusals: list[TwofoldError] = []

    def refused(error: TwofoldError) -> None:
        refusals.append(error)
        app.quit()

    link.refused.connect(refused)
    gate = _native_gate(window, keys, desk) if native else _x_gate(window, keys, desk, chosen.key)
    desk.first = chosen.workspace
    desk.wish, window.canvas.still_work = gate.wish, gate.still_work
    app.processEvents()
    gate.start()
    link.start()

    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: app.quit())
    # A phone's shell has no X key to press: its button and its gesture send this.
    signal.signal(signal.SIGUSR1, lambda *_: gate.wish(Side.WORK if gate.side is Side.PERSONAL else Side.PERSONAL))
    awake = QSocketNotifier(reader.fileno(), QSocketNotifier.Type.Read)
    awake.activated.connect(lambda: reader.recv(64))
    # On a thread: the kernel takes its time to move a process between groups, and the window need not wait.
    threading.Thread(target=cgroup.favour, args=(os.getpid(), "switcher"), daemon=True).start()
    QTimer.singleShot(0, lambda: desk.say(ready=True, shown=False))
    if chosen.front:
        gate.wish(Side.WORK)
    try:
        app.exec()
        if refusals:
            raise refusals[0]
        return 0
    finally:
        gate.close()
        desk.close()
        signal.set_wakeup_fd(-1)


def _x_gate(window: Window, keys: Keys, desk: Desk, key: str) -> AnyGate:
    from PySide6.QtWidgets import QApplication

    from twofold.switcher.gate import Gate

    # Mapped once out of sight, so that Qt holds it for shown; from then on the gate maps and unmaps it by itself.
    screen = QApplication.primaryScreen().geometry()
    window.setGeometry(screen.translated(-2 * screen.width(), 0))
    window.show()
    gate = Gate(
        int(window.winId()),
        keys,
        key=key,
        on_move=desk.moved.emit,
        on_chord=desk.chord.emit,
        on_layout=desk.layout.emit,
    )
    QApplication.processEvents()
    gate.hide_first()
    window.follow_screens()
    return gate


def _native_gate(window: Window, keys: Keys, desk: Desk) -> AnyGate:
    from PySide6.QtGui import QGuiApplication

    from twofold.switcher.waygate import APP, WayGate

    QGuiApplication.setDesktopFileName(APP)
    # Shown from now on; the phone's shell puts it away as it comes (recipes/handset, rc.xml).
    window.showMaximized()
    gate = WayGate(
        window, keys, os.environ, on_move=desk.moved.emit, on_chord=desk.chord.emit, on_layout=desk.layout.emit
    )
    desk.forget = gate.withdraw
    return gate
