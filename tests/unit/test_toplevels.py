"""The wire by which windows are brought to the front, against a compositor of this file's own; and what a swipe does with it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from twofold.model.errors import BadInputError, MissingError, TimedOutError, TwofoldError, UnreachableError
from twofold.platform.toplevels import Toplevels
from twofold.switcher.gesture import Sides

FIRST = 0xFF000000
GLOBALS = ("wl_compositor", "wl_seat", "zwlr_foreign_toplevel_manager_v1")


def text(words: str) -> bytes:
    raw = words.encode() + b"\0"
    return struct.pack("=I", len(raw)) + raw + bytes(-len(raw) % 4)


class Compositor:
    """Two windows, `foot` in front and `twofold` behind it; writes down what is asked of them, refuses what libwayland does."""

    def __init__(self, path: Path, globals_: tuple[str, ...] = GLOBALS) -> None:
        self.asked: list[tuple[str, int]] = []
        self.apps = {FIRST: "foot", FIRST + 1: "twofold"}
        self.front = FIRST
        self.answers = True
        self._lock = threading.Lock()
        self._globals, self._kinds, self._last = globals_, {1: "display"}, 1
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def tell(self, sender: int, operation: int, body: bytes = b"") -> None:
        data = struct.pack("=II", sender, (8 + len(body)) << 16 | operation) + body
        with self._lock, contextlib.suppress(BrokenPipeError):  # the other end has heard enough
            for at in range(0, len(data), 5):  # in pieces, as a socket may
                self.sock.sendall(data[at : at + 5])

    def focus(self, window: int) -> None:
        for each in self.apps:
            states = struct.pack("=I", 2) if each == window else b""
            self.tell(each, 4, struct.pack("=I", len(states)) + states)
            self.tell(each, 5)
        self.front = window

    def close(self) -> None:
        self._listener.close()
        if hasattr(self, "sock"):
            with contextlib.suppress(OSError):  # the other end has gone, and our thread with it
                self.sock.shutdown(socket.SHUT_RDWR)

    def _new(self, kind: str, number: int) -> None:
        assert number == self._last + 1, "libwayland refuses a number that leaves a gap"
        self._last, self._kinds[number] = number, kind

    def _serve(self) -> None:
        self.sock = self._listener.accept()[0]
        with self.sock, contextlib.suppress(ConnectionResetError):
            while head := self.sock.recv(8, socket.MSG_WAITALL):
                number, word = struct.unpack("=II", head)
                size = (word >> 16) - 8
                self._do(number, word & 0xFFFF, self.sock.recv(size, socket.MSG_WAITALL) if size else b"")

    def _do(self, number: int, operation: int, body: bytes) -> None:
        kind = self._kinds.get(number, "window")
        if (kind, operation) == ("display", 1):
            self._new("registry", *struct.unpack("=I", body))
            for name, each in enumerate(self._globals):
                self.tell(number + 1, 0, struct.pack("=I", 40 + name) + text(each) + struct.pack("=I", 3))
        elif (kind, operation) == ("display", 0) and self.answers:
            self._new("callback", *struct.unpack("=I", body))
            self.tell(self._last, 0, bytes(4))
            self.tell(1, 1, body)
        elif kind == "registry":
            name, length = struct.unpack_from("=II", body)
            interface = body[8 : 7 + length].decode()
            assert self._globals[name - 40] == interface
            self._new(interface, *struct.unpack("=I", body[-4:]))
            if interface == GLOBALS[2]:
                for window, app in self.apps.items():
                    self.tell(self._last, 0, struct.pack("=I", window))
                    self.tell(window, 0, text("a title"))
                    self.tell(window, 1, text(app))
                self.focus(self.front)
        elif kind == "window":
            self.asked.append((self.apps.get(number, "?"), operation))
            if operation == 4:
                assert self._kinds[struct.unpack("=I", body)[0]] == "wl_seat"
                self.focus(number)
            elif operation == 2:
                self.focus(FIRST)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Callable[..., tuple[Compositor, dict[str, str]]]]:
    made: list[Compositor] = []

    def make(*globals_: str) -> tuple[Compositor, dict[str, str]]:
        made.append(Compositor(tmp_path / "wayland-7", globals_ or GLOBALS))
        return made[-1], {"XDG_RUNTIME_DIR": str(tmp_path), "WAYLAND_DISPLAY": "wayland-7"}

    yield make
    for each in made:
        each.close()
        each.thread.join(5)


Place = Callable[..., tuple[Compositor, dict[str, str]]]


def test_a_window_is_found_by_its_program_brought_to_the_front_and_put_away(place: Place) -> None:
    compositor, environment = place()
    windows = Toplevels(environment)
    foot, work = windows.find("foot"), windows.find("twofold")
    assert foot is not None and work is not None and windows.find("nobody") is None
    seen = [(foot.active, work.active)]
    for ask in (windows.activate, windows.minimise):
        ask(work)
        windows.settle()
        seen.append((foot.active, work.active))
    assert seen == [(True, False), (False, True), (True, False)]
    assert compositor.asked == [("twofold", 4), ("twofold", 2)]
    windows.close()


def test_what_happens_without_us_is_heard(place: Place) -> None:
    compositor, environment = place()
    windows = Toplevels(environment)
    work = windows.find("twofold")
    assert work is not None
    compositor.focus(FIRST + 1)
    windows.settle()
    assert work.active
    compositor.tell(work.number, 6)
    windows.settle()
    assert windows.find("twofold") is None and windows.find("foot") is not None
    windows.settle()
    assert compositor.asked == [("twofold", 7)], "the number of a window that is gone is given back"
    windows.close()


def _hear_all(windows: Toplevels) -> None:
    """What it said before may still be on its way."""
    while True:
        windows.receive()


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        (struct.pack("=II", 1, 7 << 16), BadInputError),  # shorter than a head
        (struct.pack("=II", 1, 0xFFFF << 16), BadInputError),
        (struct.pack("=II", 1, 8 << 16), BadInputError),  # an error without its words
        (struct.pack("=II", FIRST, 14 << 16 | 4) + bytes(6), BadInputError),  # a window's states, cut
        (struct.pack("=IIII", 1, 36 << 16, 4, 1) + text("no such window"), BadInputError),
    ],
)
def test_a_compositor_that_talks_nonsense_is_left(place: Place, sent: bytes, wanted: type[TwofoldError]) -> None:
    compositor, environment = place()
    windows = Toplevels(environment)
    compositor.sock.sendall(sent)
    with pytest.raises(wanted):
        _hear_all(windows)
    windows.close()


def test_a_compositor_that_ends_is_gone(place: Place) -> None:
    compositor, environment = place()
    windows = Toplevels(environment)
    compositor.close()
    with pytest.raises(UnreachableError):
        _hear_all(windows)
    windows.close()


def test_one_that_never_answers_is_not_waited_for_forever(place: Place) -> None:
    compositor, environment = place()
    compositor.answers = False
    with pytest.raises(TimedOutError):
        Toplevels(environment, patience=0.2)


def test_without_a_session_or_without_the_right_to_it_words_say_so(place: Place, tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        Toplevels({"XDG_RUNTIME_DIR": str(tmp_path), "WAYLAND_DISPLAY": "wayland-9"})
    _, environment = place("wl_compositor", "wl_seat")
    with pytest.raises(MissingError):
        Toplevels(environment)


def test_a_swipe_goes_to_work_and_back_whatever_lies_in_front(place: Place, tmp_path: Path) -> None:
    compositor, environment = place()
    windows = Toplevels(environment)
    sides = Sides(windows, tmp_path)
    for _ in range(2):  # quicker than the compositor tells of it
        sides.change()
        sides.change()
    windows.settle()
    assert compositor.asked == [("twofold", 4), ("twofold", 2)] * 2
    sides.change()
    windows.settle()
    compositor.focus(FIRST)  # a program came over it
    windows.settle()
    sides.change()
    windows.settle()
    assert compositor.asked[4:] == [("twofold", 4), ("twofold", 4)]
    windows.close()


def test_a_swipe_on_a_dark_screen_does_nothing(place: Place, tmp_path: Path) -> None:
    compositor, environment = place()
    windows = Toplevels(environment)
    (tmp_path / "screen-off").touch()
    Sides(windows, tmp_path).change()
    windows.settle()
    assert not compositor.asked
    windows.close()


def test_a_window_that_was_taken_back_is_asked_for(place: Place, tmp_path: Path) -> None:
    _, environment = place()
    windows = Toplevels(environment)
    windows.find("twofold").app = "other"  # type: ignore[union-attr]
    asked: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: asked.append(number))
    try:
        sides = Sides(windows, tmp_path)
        sides.change()  # no switcher at all: nothing to ask
        (tmp_path / "switcher.pid").write_text(str(os.getpid()))
        sides.change()
        assert asked == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)
        windows.close()
