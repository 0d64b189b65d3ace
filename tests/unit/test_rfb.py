"""What passes between a viewer and a screen: by hand-made bytes, and with a real QEMU's clipboard between two viewers."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
import zlib
from collections.abc import Iterator

import hypothesis
import pytest
from hypothesis import strategies as st

from twofold.display.rfb import CLIPBOARD, CUT_LIMIT, KNOWN, Rules, Session
from twofold.model.errors import BadInputError
from twofold.platform.run import find, spawn

HELLO = b"RFB 003.008\n"
FORMAT = struct.pack(">xxxBBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16)
INIT = struct.pack(">HH", 64, 32) + FORMAT[3:] + struct.pack(">I", 4) + b"work"
CAPS, REQUEST, PEEK, NOTIFY, PROVIDE = (1 << bit for bit in (24, 25, 26, 27, 28))


def session(*, to_work: bool = False, from_work: bool = False) -> Session:
    """One that is past its greeting."""
    made = Session(Rules(lambda: to_work, lambda: from_work))
    assert made.screen(HELLO + b"\2\1\2") == HELLO + b"\1\1"
    assert made.viewer(HELLO + b"\1\1") == HELLO + b"\1\1"
    assert made.screen(bytes(4) + INIT) == bytes(4) + INIT
    return made


def cut(kind: int, text: bytes) -> bytes:
    return struct.pack(">Bxxxi", kind, len(text)) + text


def extended(kind: int, flags: int, text: bytes = b"") -> bytes:
    return struct.pack(">BxxxiI", kind, -4 - len(text), flags) + text


def update(*rectangles: tuple[int, bytes], width: int = 8, height: int = 4, count: int | None = None) -> bytes:
    head = struct.pack(">BxH", 0, len(rectangles) if count is None else count)
    return head + b"".join(struct.pack(">HHHHi", 0, 0, width, height, kind) + body for kind, body in rectangles)


TIGHT = [
    b"\x80abc",  # filled
    b"\x90\x05jpegs",
    b"\x90\x80\x01" + bytes(128),
    b"\x90\x80\x80\x02" + bytes(2 << 14),
    b"\x00\x03zip",
    b"\x40\x00\x03zip",
    b"\x40\x02\x03zip",
    b"\x40\x01\x01" + bytes(6) + bytes(4),  # two colours, a byte a line: too little to be compressed
    b"\x40\x01\x02" + bytes(9) + b"\x03zip",
]
GOOD = [
    update((0, bytes(128))),
    update((1, bytes(4)), (16, struct.pack(">I", 5) + b"zrle!")),
    update((6, struct.pack(">I", 4) + b"zlib")),
    *(update((7, body)) for body in TIGHT),
    update((-239, bytes(8 * 4 * 4 + 4))),
    update((-223, b""), (-258, b""), (-257, b""), (-261, b"\1")),
    update((-308, b"\2\0\0\0" + bytes(32)), (-307, struct.pack(">I", 4) + b"name")),
    update((0, bytes(128)), (-224, b""), count=0xFFFF),
    struct.pack(">BxHH", 1, 0, 2) + bytes(12),
    b"\2",
]
VIEWED = [
    struct.pack(">BBHHHH", 3, 0, 0, 0, 64, 32),
    struct.pack(">BBxxI", 4, 1, 0x61),
    struct.pack(">BBHH", 5, 1, 3, 4),
    struct.pack(">BxHHBx", 251, 800, 600, 1) + bytes(16),
    struct.pack(">BBHII", 255, 0, 1, 0x61, 30),
]


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
def test_what_is_known_passes_unchanged_however_it_is_cut(step: int) -> None:
    made = session()
    for sent, take in ((b"".join(GOOD) * 2, made.screen), (b"\0" + FORMAT + b"".join(VIEWED) * 2, made.viewer)):
        assert b"".join(take(sent[at : at + step]) for at in range(0, len(sent), step)) == sent


@pytest.mark.parametrize(
    "sent",
    [
        b"\7",
        update((5, b"")),
        update((-260, b"")),
        update((0x574D5669, b"")),
        update((0, b""), width=9000),
        update((16, struct.pack(">I", 1 << 30))),
        update((7, b"\xa0\x00")),
        update((7, b"\x40\x05\x00")),
        struct.pack(">Bxxxi", 3, CUT_LIMIT + 1),
        struct.pack(">Bxxxi", 3, -2) + b"ab",
        extended(3, NOTIFY | REQUEST),
        extended(3, 0),
    ],
)
def test_a_screen_that_says_something_else_is_not_heard(sent: bytes) -> None:
    with pytest.raises(BadInputError, match="ended"):
        session(to_work=True, from_work=True).screen(sent)


@pytest.mark.parametrize(
    "sent",
    [
        b"\1",
        b"\x96" + bytes(9),  # continuous updates
        b"\xfa\0\1\2",  # shut the machine down
        b"\xff\1" + bytes(10),  # sound
        struct.pack(">BxH", 2, 257),
        struct.pack(">BxHHBx", 251, 9000, 600, 1),
        struct.pack(">BxHHBx", 251, 800, 600, 0),
        b"\0" + FORMAT.replace(b"\x20", b"\x10", 1),
        struct.pack(">Bxxxi", 6, -(1 << 31)),
    ],
)
def test_a_viewer_that_says_something_else_is_not_heard(sent: bytes) -> None:
    with pytest.raises(BadInputError, match="ended"):
        session(to_work=True, from_work=True).viewer(sent)


def test_pixels_keep_their_format_once_they_are_asked_for() -> None:
    made = session()
    assert made.viewer(b"\0" + FORMAT) == b"\0" + FORMAT
    made.viewer(VIEWED[0])
    with pytest.raises(BadInputError, match="pixel format"):
        made.viewer(b"\0" + FORMAT)


def test_what_cannot_be_followed_is_not_asked_for() -> None:
    wanted = (7, 5, 50, 16, -312, -313, -260, -259, CLIPBOARD, -26, -247, 0)
    offered = struct.pack(f">BxH{len(wanted)}i", 2, len(wanted), *wanted)
    for allowed, kept in ((False, (7, 16, -26, -247, 0)), (True, (7, 16, CLIPBOARD, -26, -247, 0))):
        went = session(from_work=allowed).viewer(offered)
        assert went == struct.pack(f">BxH{len(kept)}i", 2, len(kept), *kept)
    assert 5 not in KNOWN


@pytest.mark.parametrize("to_work", [False, True])
@pytest.mark.parametrize("from_work", [False, True])
def test_each_direction_of_the_clipboard_on_its_own(*, to_work: bool, from_work: bool) -> None:
    made, either = session(to_work=to_work, from_work=from_work), to_work or from_work
    rows = [
        (made.viewer, 6, to_work, from_work),
        (made.screen, 3, from_work, to_work),
    ]
    for take, kind, out, back in rows:
        for message, passes in (
            (cut(kind, b"text"), out),
            (extended(kind, PROVIDE | 1, b"zipped"), out),
            (extended(kind, NOTIFY | 1), out),
            (extended(kind, REQUEST | 1), back),
            (extended(kind, PEEK), back),
            (extended(kind, CAPS | PROVIDE | REQUEST | 1, bytes(4)), either),
        ):
            assert take(message) == (message if passes else b""), (kind, message)
        after = VIEWED[1] if kind == 6 else GOOD[-1]
        assert take(cut(kind, b"x" * 5000) + after) == (cut(kind, b"x" * 5000) if out else b"") + after


def test_a_policy_that_changes_holds_at_once() -> None:
    allowed = [True]
    made = Session(Rules(lambda: allowed[0], lambda: False))
    made.viewer(HELLO + b"\1\1")
    assert made.viewer(cut(6, b"one"))
    allowed[0] = False
    assert made.viewer(cut(6, b"two")) == b""


@pytest.mark.parametrize(
    ("side", "sent"),
    [
        ("viewer", b"RFB 003.003\n"),
        ("viewer", HELLO + b"\2"),
        ("screen", b"GET / HTTP/1"),
        ("screen", HELLO + b"\1\2"),
        ("screen", HELLO + b"\1\1" + b"\0\0\0\1"),
        ("screen", HELLO + b"\1\1" + bytes(4) + INIT[:20] + struct.pack(">I", 1 << 20)),
    ],
)
def test_a_greeting_of_another_kind_ends_it(side: str, sent: bytes) -> None:
    made = Session(Rules(lambda: True, lambda: True))
    with pytest.raises(BadInputError):
        getattr(made, side)(sent)


@hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
@hypothesis.given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_passed_or_refused(sent: bytes, screen: bool) -> None:
    made = session()
    try:
        passed = (made.screen if screen else made.viewer)(sent)
    except BadInputError:
        return
    assert len(passed) <= len(sent) + 4


class Qemu:
    """A bare QEMU with a screen, and its viewers."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        argv = [
            find("qemu-system-x86_64"), "-nodefaults", "-no-user-config", "-display", "none", "-vnc", "none", "-M", "q35", "-S",
            "-accel", "tcg", "-m", "16", "-device", "VGA", "-chardev", f"socket,id=qmp,fd={theirs.fileno()}",
            "-mon", "chardev=qmp,mode=control",
        ]  # fmt: skip
        self.process = spawn(argv, pass_fds=[theirs.fileno()])
        theirs.close()
        self._qmp, self._lines = ours, ours.makefile("rb")
        self._lines.readline()
        self.run({"execute": "qmp_capabilities"})

    def run(self, command: dict[str, object], fd: int | None = None) -> None:
        socket.send_fds(self._qmp, [json.dumps(command).encode()], [] if fd is None else [fd])
        assert b"return" in self._lines.readline()

    def viewer(self, rules: Rules) -> Viewer:
        ours, theirs = socket.socketpair()
        with theirs:
            self.run({"execute": "getfd", "arguments": {"fdname": "v"}}, theirs.fileno())
            self.run({"execute": "add_client", "arguments": {"protocol": "vnc", "fdname": "v"}})
        return Viewer(ours, rules)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._lines.close()
        self._qmp.close()


class Viewer:
    def __init__(self, line: socket.socket, rules: Rules) -> None:
        self._line, self._session = line, Session(rules)
        for sent, length in ((HELLO, 14), (b"\1", 4), (b"\1", 0)):
            self.say(sent)
            self.heard(length)
        self.say(b"\0" + FORMAT + struct.pack(">BxH2i", 2, 2, CLIPBOARD, 0))
        self.heard(0)

    def say(self, sent: bytes) -> None:
        self._line.sendall(self._session.viewer(sent))

    def heard(self, length: int, seconds: float = 5) -> bytes:
        """So many bytes, or what came until there was silence for a moment."""
        found, end = b"", time.monotonic() + seconds
        while (len(found) < length or not length) and time.monotonic() < end:
            if not select.select([self._line], [], [], 0.3)[0]:
                if not length:
                    break
                continue
            found += self._session.screen(self._line.recv(65536))
        return found

    def text(self) -> bytes:
        """What the other side has put on the clipboard, asked for as browsers do once they hear that there is some."""
        if struct.pack(">I", NOTIFY | 1) not in self.heard(0):
            return b""
        self.say(extended(6, REQUEST | 1))
        _, mark, packed = self.heard(0).partition(struct.pack(">I", PROVIDE | 1))
        return zlib.decompressobj().decompress(packed) if mark else b""

    def close(self) -> None:
        self._line.close()


@pytest.fixture
def qemu() -> Iterator[Qemu]:
    made = Qemu()
    yield made
    made.close()


@pytest.mark.parametrize("to_work", [False, True])
@pytest.mark.parametrize("from_work", [False, True])
def test_text_crosses_a_real_screen_only_where_it_may(qemu: Qemu, *, to_work: bool, from_work: bool) -> None:
    """QEMU's clipboard is what its viewers share: one that may do anything stands for the guest."""
    anything = qemu.viewer(Rules(lambda: True, lambda: True))
    person = qemu.viewer(Rules(lambda: to_work, lambda: from_work))
    mark = os.urandom(8).hex().encode()
    person.say(cut(6, b"in " + mark))
    assert (b"in " + mark in anything.text()) == to_work
    anything.say(cut(6, b"out " + mark))
    assert (b"out " + mark in person.text()) == from_work
    anything.close()
    person.close()
