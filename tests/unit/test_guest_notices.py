"""The guest's notification service on a real bus, against real programs, and against bytes that nobody meant."""

from __future__ import annotations

import json
import select
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.sessionbus import environment, session_bus
from twofold.guest import bus
from twofold.guest.notices import BURST, MAX_OPEN, Notices, plain
from twofold.guest.wire import Refusal
from twofold.platform.run import spawn

EDITOR = "org.xfce.mousepad"
ENTRY = ["-a", "Mousepad", "-h", f"string:desktop-entry:{EDITOR}"]
ON = ["-d", "org.freedesktop.Notifications", "-o", "/org/freedesktop/Notifications"]


class Session:
    """The service in a loop of its own, as in the guest's session; `lines` is what the host hears."""

    def __init__(self, address: str) -> None:
        self.lines: list[dict[str, Any]] = []
        self.brought: list[str] = []
        self.notices = Notices(address, self._known, self._bring, lambda line: self.lines.append(json.loads(line)))
        self.lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def _known(self, *names: str) -> str:
        return next((name for name in names if name == EDITOR), "")

    def _bring(self, app: str) -> str:
        self.brought.append(app)
        return ""

    def _loop(self) -> None:
        poll = select.poll()
        while not self._over.is_set():
            with self.lock:
                self.notices.service.watch(poll)
                ready = {fd for fd, _ in poll.poll(0)}
                self.notices.service.turn(ready)
            time.sleep(0.005)

    def ask(self, verb: str, **args: Any) -> dict[str, Any]:
        with self.lock:
            do = {"notices": self.notices.set_level, "tapped": self.notices.tapped, "dismissed": self.notices.dismissed}
            return do[verb](args)

    def heard(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        until(lambda: len(self._of(event)) >= count, f"{count} of {event}")
        return self._of(event)

    def _of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    def close(self) -> None:
        self._over.set()
        self._thread.join(5)
        self.ask("notices", level="none")


def until(check: Any, what: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.005)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with session_bus(tmp_path) as made:
        yield made


@pytest.fixture
def session(address: str) -> Iterator[Session]:
    made = Session(address)
    yield made
    made.close()


def level(session: Session, address: str, word: str) -> None:
    session.ask("notices", level=word)
    until(lambda: owned(address) is (word != "none"), "the name on the bus")


def owned(address: str) -> bool:
    words = ["gdbus", "call", "--session", "-d", bus.BUS, "-o", bus.BUS_PATH, "-m", f"{bus.BUS}.NameHasOwner"]
    return "true" in run(address, *words, "org.freedesktop.Notifications").stdout


def run(address: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=environment(address), capture_output=True, text=True, timeout=20, check=False)


def test_a_program_posts_replaces_hears_of_a_tap_and_its_application_comes(session: Session, address: str) -> None:
    level(session, address, "full")
    first = run(address, "notify-send", "-p", *ENTRY, "Budget <b>due</b>", "Ada &amp; Bob\nwait <i>for</i> a < b")
    number = int(first.stdout)
    assert session.heard("notice") == [
        {"v": 1, "event": "notice", "notice": number, "app": EDITOR, "summary": "Budget due", "body": "Ada & Bob wait for a < b"}
    ]  # fmt: skip
    waits = spawn(
        ["notify-send", *ENTRY, "-r", str(number), "-A", "default=Open", "Again"],
        env=environment(address), stdout=subprocess.PIPE,
    )  # fmt: skip
    assert session.heard("notice", 2)[1]["notice"] == number, "a replacement has its number"
    assert session.ask("tapped", notice=number) == {"launch": ""}
    assert waits.communicate(timeout=10)[0].decode().strip() == "default", "the program did not hear of the tap"
    assert session.brought == [EDITOR]
    assert session.heard("notice-gone") == [{"v": 1, "event": "notice-gone", "notice": number}]
    with pytest.raises(Refusal):
        session.ask("tapped", notice=number)


def test_a_program_takes_its_notification_back_and_hears_that_it_was_put_away(session: Session, address: str) -> None:
    level(session, address, "full")
    number = run(address, "notify-send", "-p", "One").stdout.strip()
    closed = run(
        address,
        "gdbus",
        "call",
        "--session",
        *ON,
        "-m",
        "org.freedesktop.Notifications.CloseNotification",
        f"uint32 {number}",
    )
    assert closed.returncode == 0
    assert session.heard("notice-gone")[0]["notice"] == int(number)
    waits = spawn(["notify-send", "-w", "Two"], env=environment(address))
    session.ask("dismissed", notice=session.heard("notice", 2)[1]["notice"])
    assert waits.wait(10) == 0, "the program waits for ever"
    assert session.brought == []


def test_at_the_level_app_no_word_leaves_the_session(session: Session, address: str) -> None:
    level(session, address, "app")
    assert run(address, "notify-send", *ENTRY, "Secret", "Secret too").returncode == 0
    (told,) = session.heard("notice")
    assert (told["app"], told["summary"], told["body"]) == (EDITOR, "", "")


def test_a_host_that_comes_later_hears_what_is_open_at_the_level_that_it_names(session: Session, address: str) -> None:
    level(session, address, "full")
    for number in range(10):
        run(address, "notify-send", str(number))
    session.heard("notice", 10)
    session.lines.clear()
    session.ask("notices", level="app")
    assert [each["summary"] for each in session.heard("notice", 8)] == [""] * 8
    session.lines.clear()
    session.ask("notices", level="full")
    assert [each["summary"] for each in session.heard("notice", 8)] == [str(number) for number in range(2, 10)]


def test_at_the_level_none_there_is_no_service(session: Session, address: str) -> None:
    time.sleep(0.1)
    assert not owned(address)
    assert run(address, "notify-send", "Secret").returncode != 0
    level(session, address, "full")
    run(address, "notify-send", "One")
    level(session, address, "none")
    assert session.heard("notice-gone"), "what was shown is taken back"
    assert run(address, "notify-send", "Secret").returncode != 0
    assert len(session.heard("notice")) == 1
    with pytest.raises(Refusal):
        session.ask("notices", level="everything")


def test_a_program_that_calls_wrongly_gets_an_error_and_the_next_one_its_answer(session: Session, address: str) -> None:
    level(session, address, "full")
    for words in (["Notify", "string:x"], ["Notify", "uint32:1"], ["Nothing"], ["CloseNotification", "string:x"]):
        send = ["dbus-send", "--session", "--print-reply", f"--dest={ON[1]}", ON[3], f"{ON[1]}.{words[0]}", *words[1:]]
        assert "Error org.freedesktop.DBus.Error." in run(address, *send).stderr
    assert "actions" in run(address, "gdbus", "call", "--session", *ON, "-m", f"{ON[1]}.GetCapabilities").stdout
    assert "1.2" in run(address, "gdbus", "call", "--session", *ON, "-m", f"{ON[1]}.GetServerInformation").stdout
    assert not session.lines


def test_a_program_that_floods_is_refused(session: Session, address: str) -> None:
    level(session, address, "full")
    answers: list[int] = []
    flood = bus.Bus(address, lambda _: None)
    args: tuple[object, ...] = ("x", 0, "", "s" * 9000, "b" * 9000, [], {}, -1)
    try:
        for _ in range(3 * MAX_OPEN):
            flood.call(
                ON[1], ON[3], ON[1], "Notify", "susssasa{sv}i", *args, then=lambda each: answers.append(each.kind)
            )
            flood.flush()
            while flood.pending or len(answers) < _ + 1:
                select.select([flood.fd], [flood.fd] if flood.pending else [], [], 5)
                flood.flush()
                flood.read()
    finally:
        flood.close()
    assert answers.count(bus.ERROR) > 2 * MAX_OPEN - 10
    told = session.heard("notice")
    assert BURST <= len(told) < BURST + 10
    assert all(len(each["summary"]) <= 120 and len(each["body"]) <= 400 for each in told)


def test_a_session_without_a_bus_does_without(tmp_path: Path) -> None:
    for where in ("", f"unix:path={tmp_path}/nothing", "tcp:host=localhost", "rubbish"):
        session = Session(where)
        session.ask("notices", level="full")
        time.sleep(0.05)
        with session.lock:
            wait = session.notices.service.wait_ms(None)
        assert wait is None if not where else wait is not None and wait > 1000, "it looks for the bus all the time"
        session.close()


def test_a_bus_that_goes_takes_its_notifications_along(tmp_path: Path) -> None:
    with session_bus(tmp_path) as address:
        session = Session(address)
        level(session, address, "full")
        run(address, "notify-send", "One")
        session.heard("notice")
    assert session.heard("notice-gone")
    session.close()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("<b>Bold</b> and <a href='http://x'>link</a>", "Bold and link"), ("1 < 2 > 0", "1 < 2 > 0"),
        ("&lt;b&gt; &amp;amp;", "<b> &amp;"), ("a\u202eb\x1b[31m\n\tc", "a b [31m c"), ("x" * 50, "x" * 39 + "…"), ("", ""),
    ],
)  # fmt: skip
def test_text_is_plain_and_short(said: str, shown: str) -> None:
    assert plain(said, 40) == shown


# The protocol

_BASIC = st.sampled_from("ybnqiuxtdsog")
_TYPE = st.recursive(
    _BASIC | st.just("v"),
    lambda inner: st.one_of(
        inner.map("a{}".format), st.lists(inner, min_size=1, max_size=3).map(lambda each: f"({''.join(each)})"),
        st.tuples(_BASIC, inner).map(lambda pair: f"a{{{pair[0]}{pair[1]}}}"),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.lists(_TYPE, max_size=4).map("".join), st.binary(max_size=400), st.booleans())
def test_any_body_is_decoded_or_refused(signature: str, body: bytes, little: bool) -> None:
    try:
        bus.decode(signature, body, little=little)
    except bus.Malformed:
        pass


@given(st.text(alphabet="ybnqiuxtdsogva(){}h", max_size=40))
def test_any_signature_is_read_or_refused(signature: str) -> None:
    try:
        assert "".join(bus.types(signature)) == signature
    except bus.Malformed:
        pass


_TEXT = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
_HINTS = st.dictionaries(_TEXT, st.one_of(st.tuples(st.just("s"), _TEXT), st.tuples(st.just("y"), st.integers(0, 255)),
                                          st.tuples(st.just("ay"), st.binary(max_size=9))), max_size=4)  # fmt: skip


@given(_TEXT, st.integers(0, 0xFFFFFFFF), st.lists(_TEXT, max_size=5), _HINTS, st.integers(-1, 1 << 30))
def test_what_is_said_is_what_is_heard(text: str, number: int, actions: list[str], hints: Any, expires: int) -> None:
    args = (text, number, text, text, text, actions, hints, expires)
    data = bus.message(bus.CALL, 7, 0, "susssasa{sv}i", args, path="/a", member="Notify", sender=":1.5")
    cut = bus.Messages()
    heard = [each for at in range(0, len(data), 13) for each in cut.feed(data[at : at + 13])]
    assert [(each.member, each.sender, each.serial) for each in heard] == [("Notify", ":1.5", 7)]
    assert heard[0].args("susssasa{sv}i") == args


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 119), st.integers(0, 255)), min_size=1, max_size=6), st.binary(max_size=64))
def test_any_bytes_are_messages_or_refused(changes: list[tuple[int, int]], tail: bytes) -> None:
    data = bytearray(bus.message(bus.CALL, 7, 0, "sa{sv}", ("text", {"k": ("s", "v")}), path="/a", member="Notify"))
    for at, value in changes:
        data[at % len(data)] = value
    try:
        for each in bus.Messages().feed(bytes(data) + tail):
            each.args("sa{sv}")
    except bus.Malformed:
        pass


def test_a_message_too_long_is_passed_over_and_the_next_one_heard() -> None:
    long = bus.message(bus.CALL, 1, 0, "ay", (b"x" * (bus.MAX_MESSAGE + 1),), path="/a", member="Long")
    short = bus.message(bus.CALL, 2, 0, path="/a", member="Short")
    cut, data = bus.Messages(), long + short
    heard = [each for at in range(0, len(data), 65_536) for each in cut.feed(data[at : at + 65_536])]
    assert [each.member for each in heard] == ["Short"]
