"""Where the focus is in the guest, as GTK's IBus module tells it (each conversation here is one that it was seen to have), and
what a program that means no good can do to it."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.guest import bus, focus
from twofold.guest.bus import Bus
from twofold.guest.focus import Focus
from twofold.guest.wire import Refusal

IBUS, FIELD = "org.freedesktop.IBus", "org.freedesktop.IBus.InputContext"


class Session:
    """The service in a loop of its own; `kinds` is what the host hears."""

    def __init__(self, folder: Path) -> None:
        self.kinds: list[str] = []
        self.programs: list[Program] = []
        self.folder, self.lock, self._over = folder, threading.Lock(), threading.Event()
        self.focus = Focus(folder, self._heard)
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()
        self.focus.want({"on": True})

    def _heard(self, line: bytes) -> None:
        event = json.loads(line)
        assert event.pop("v") == 1 and event.pop("event") == "focus"
        self.kinds.append(event.pop("kind"))
        assert not event

    def _loop(self) -> None:
        poll = select.poll()
        while not self._over.is_set():
            with self.lock:
                self.focus.watch(poll)
                wait = self.focus.wait_ms(20)
                self.focus.turn({fd for fd, _ in poll.poll(0)})
            time.sleep(0.002)
            assert wait is not None and wait <= 20

    @property
    def address(self) -> str:
        lines = (self.folder / "address").read_text().splitlines()
        assert lines[1] == f"IBUS_DAEMON_PID={os.getpid()}"
        return lines[0].removeprefix("IBUS_ADDRESS=")

    def close(self) -> None:
        self._over.set()
        self._thread.join(5)
        self.focus.close()
        for program in self.programs:
            program.bus.close()


class Program:
    """A program with text fields."""

    def __init__(self, session: Session) -> None:
        self.heard: list[bus.Message] = []
        self.bus = Bus(session.address, self.heard.append)
        session.programs.append(self)

    def ask(self, path: str, interface: str, member: str, signature: str = "", *args: Any) -> bus.Message:
        answers: list[bus.Message] = []
        self.bus.call(IBUS, path, interface, member, signature, *args, then=answers.append)
        while not answers:
            self.bus.flush()
            assert select.select([self.bus.fd], [], [], 5)[0], f"{member} was not answered"
            self.bus.read()
        return answers[0]

    def field(self, purpose: int = 0) -> str:
        (path,) = self.ask("/org/freedesktop/IBus", IBUS, "CreateInputContext", "s", "gtk3-im:test").args("o")
        self.ask(path, f"{bus.BUS}.Properties", "Set", "ssv", FIELD, "ContentType", ("(uu)", (purpose, 0)))
        return str(path)

    def says(self, path: str, *members: str) -> None:
        for member in members:
            self.bus.call(IBUS, path, FIELD, member)
        self.bus.flush()

    def caret(self, path: str, y: int) -> None:
        self.bus.call(IBUS, path, FIELD, "SetCursorLocation", "iiii", 10, y, 0, 17)
        self.bus.flush()

    def nudged(self) -> list[tuple[str, str]]:
        """What it was told since it was asked last."""
        while select.select([self.bus.fd], [], [], 0.12)[0]:
            self.bus.read()
        told, self.heard[:] = [(each.path, each.member) for each in self.heard if each.sender == ":1.0"], []
        return told


def until(check: Any, what: str, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SETTLE": 0.02,
        "EVERY": 0.05,
        "_SLOW": 0.15,
        "MAX_CONTEXTS": 40,
        "NUDGES": (0.02, 0.05),
    }.items():
        monkeypatch.setattr(focus, name, value)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    made = Session(tmp_path / "ibus")
    yield made
    made.close()


def test_the_kind_of_field_is_told_and_that_none_has_it_any_more(session: Session) -> None:
    program = Program(session)
    text, terminal = program.field(), program.field(10)
    program.says(text, "Reset", "FocusIn", "SetCursorLocation")
    until(lambda: session.kinds == ["text"], "text")
    program.says(text, "FocusOut")
    program.says(terminal, "FocusIn")
    until(lambda: session.kinds == ["text", "terminal"], "the terminal, and nothing between")
    program.says(terminal, "FocusOut")
    until(lambda: session.kinds[2:] == [""], "none")
    program.says(text, "FocusIn")
    until(lambda: len(session.kinds) == 4, "text")
    program.bus.close()
    until(lambda: session.kinds[4:] == [""], "the program has ended")


def test_a_field_of_the_same_kind_is_another_field(session: Session) -> None:
    program = Program(session)
    one, two = program.field(2), program.field(2)
    program.says(one, "FocusIn")
    until(lambda: session.kinds == ["digits"], "digits")
    program.says(one, "FocusOut")
    program.says(two, "FocusIn")
    until(lambda: session.kinds == ["digits", "digits"], "digits again")


def test_a_field_that_gtk_keeps_from_input_methods(session: Session) -> None:
    program = Program(session)
    text, secret, other = program.field(), program.field(), program.field()
    program.says(secret, "Reset", "SetCursorLocation")
    until(lambda: session.kinds == ["password"], "a password")
    program.says(other, "Reset")
    until(lambda: len(session.kinds) == 2, "another one")
    program.says(text, "Reset", "FocusIn")
    until(lambda: session.kinds[2:] == ["text"], "text")
    program.says(secret, "Reset")
    program.says(text, "FocusOut")
    until(lambda: session.kinds[3:] == ["password"], "back to the password")
    session.focus.window_changed()
    time.sleep(0.05)
    assert session.kinds[4:] == [], "a window manager's late word took the focus from it"
    time.sleep(0.15)
    session.focus.window_changed()
    until(lambda: session.kinds[4:] == [""], "another window")
    program.says(text, "Reset")
    time.sleep(0.15)
    assert session.kinds[5:] == [], "a field that says where the focus is was taken for one that does not"


def test_a_caret_that_a_smaller_screen_would_hide_is_brought_into_sight(session: Session) -> None:
    program = Program(session)
    path, other = program.field(), program.field()
    program.says(path, "FocusIn")
    program.caret(path, 700)
    program.caret(other, 10)
    until(lambda: session.focus._foot == 717, "the caret's place")
    nudge = [(path, "ShowPreeditText"), (path, "HidePreeditText")]
    assert program.nudged() == []
    for before, now, told in ((800, 500, 2 * nudge), (500, 800, []), (800, 810, []), (900, 830, [])):
        with session.lock:
            session.focus.resized(before, now)
        assert program.nudged() == told, f"{before} to {now}"
    program.caret(path, 300)
    until(lambda: session.focus._foot == 317, "the caret's place")
    with session.lock:
        session.focus.resized(800, 500)
    assert program.nudged() == [], "it is nudged although the caret is in sight"
    program.says(path, "FocusOut")
    until(lambda: session.focus.kind == "", "no field")
    with session.lock:
        session.focus.resized(500, 200)
    assert program.nudged() == []


def test_keys_are_nobodys_business_here(session: Session) -> None:
    program = Program(session)
    path = program.field()
    assert program.ask(path, FIELD, "ProcessKeyEvent", "uuu", 97, 30, 0).args("b") == (False,)
    assert program.ask(path, FIELD, "GetEngine").kind == bus.RETURN
    assert program.ask("/nowhere", FIELD, "ProcessKeyEvent", "uuu", 97, 30, 0).kind == bus.ERROR


def test_a_real_client_is_let_in(session: Session) -> None:
    words = ["gdbus", "call", "--address", session.address, "-d", IBUS, "-o", "/org/freedesktop/IBus"]
    done = subprocess.run(
        [*words, "-m", f"{IBUS}.CreateInputContext", "me"], capture_output=True, text=True, timeout=10, check=True
    )
    assert "InputContext_" in done.stdout


def test_however_fast_a_program_speaks_the_host_hears_little(session: Session) -> None:
    program = Program(session)
    one, two = program.field(), program.field(8)
    began = time.monotonic()
    for _ in range(60):
        program.says(one, "FocusIn", "FocusOut")
        program.says(two, "FocusIn")
        time.sleep(0.01)
    time.sleep(0.15)
    assert 0 < len(session.kinds) <= (time.monotonic() - began) / focus.EVERY + 1
    assert session.kinds[-1] == "password"


def test_what_is_too_much_or_nonsense_ends_for_that_program_alone(session: Session) -> None:
    good = Program(session)
    path = good.field()
    for nonsense in (b"x" * 2000, b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n" + b"\xff" * 64):
        with socket.socket(socket.AF_UNIX) as bad:
            bad.settimeout(5)
            bad.connect(session.address.removeprefix("unix:path="))
            bad.sendall(nonsense)
            while bad.recv(4096):
                pass
    greedy = Program(session)
    answers = [greedy.ask("/", IBUS, "CreateInputContext", "s", "x").kind for _ in range(focus.MAX_CONTEXTS + 1)]
    assert answers.count(bus.ERROR) == 1
    for _ in range(focus.MAX_CLIENTS - 2):
        Program(session)
    with pytest.raises(OSError):
        Program(session).field()
    good.says(path, "FocusIn")
    until(lambda: session.kinds == ["text"], "who was there goes on")


def test_nothing_is_told_before_it_is_wanted_and_all_that_holds_then(tmp_path: Path) -> None:
    session = Session(tmp_path / "ibus")
    session.focus.want({"on": False})
    program = Program(session)
    program.says(program.field(5), "FocusIn")
    time.sleep(0.2)
    assert session.kinds == []
    with pytest.raises(Refusal):
        session.focus.want({"on": 1})
    session.focus.want({"on": True})
    until(lambda: session.kinds == ["url"], "what holds")
    session.close()


def test_a_place_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "ibus").write_text("a file")
    session = Session(tmp_path / "ibus")
    time.sleep(0.05)
    assert session.focus.kind == ""
    session.close()


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=60), max_size=4))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    made = Focus(tmp_path_factory.getbasetemp() / "any", lambda _: None)
    client = focus._Client(ours, ":1.1", greeting=None)
    made._clients[ours.fileno()] = client
    for piece in pieces:
        try:
            theirs.sendall(piece)
        except OSError:
            break
        made.turn({ours.fileno()})
    theirs.close()
    ours.close()
    made.close()
