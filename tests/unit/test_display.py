"""The display room: what QEMU sends is checked before it is used, and the wire survives what it must not trust."""

from __future__ import annotations

import array
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jeepney import DBusAddress, HeaderFields, Message, new_method_call

from twofold.display import keys, sound
from twofold.display.frame import R5G6B5, X8R8G8B8, Frame, Rect, check, copied, mapped, patched
from twofold.display.listener import Listener, Picture
from twofold.display.wire import MESSAGE_LIMIT, Wire
from twofold.model.errors import BadInputError, TwofoldError, UnreachableError


def shared(size: int) -> int:
    fd = os.memfd_create("frame", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    return fd


def test_a_frame_is_mapped_and_follows_the_memory_without_copying() -> None:
    fd = shared(64 * 8 * 4 + 4096)
    try:
        frame = mapped(fd, 4096, 64, 8, 256, X8R8G8B8)
        os.pwrite(fd, b"\x11\x22\x33\x00", 4096)
        assert bytes(frame.pixels[:4]) == b"\x11\x22\x33\x00"
        assert frame.pixels.readonly
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(fd, 10)  # sealed: the reader can't be killed by shrinking what it reads
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("offset", "width", "height", "stride", "form"),
    [
        (0, 65, 8, 256, X8R8G8B8),  # rows shorter than their pixels
        (0, 64, 9, 256, X8R8G8B8),  # one row more than the memory
        (4, 64, 8, 256, X8R8G8B8),  # offset pushes it over the end
        (0, 0, 8, 256, X8R8G8B8),
        (0, 64, 100_000, 256, X8R8G8B8),
        (0, 64, 8, 258, X8R8G8B8),
        (0, 64, 8, 256, 0x12345678),
        (2**32 - 1, 64, 8, 256, X8R8G8B8),
    ],
)
def test_a_frame_that_lies_is_refused(offset: int, width: int, height: int, stride: int, form: int) -> None:
    fd = shared(64 * 8 * 4)
    try:
        with pytest.raises(BadInputError):
            mapped(fd, offset, width, height, stride, form)
    finally:
        os.close(fd)


def test_a_pipe_is_no_picture() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(BadInputError):
            mapped(reader, 0, 1, 1, 4, X8R8G8B8)
    finally:
        os.close(reader)
        os.close(writer)


u32 = st.integers(0, 2**32 - 1)


@given(u32, u32, u32, st.sampled_from([X8R8G8B8, R5G6B5]))
def test_a_checked_size_is_one_that_fits_in_memory(width: int, height: int, stride: int, form: int) -> None:
    try:
        size = check(width, height, stride, form)
    except BadInputError:
        return
    assert 0 < width * height <= size <= 8192 * 8192 * 8


i32 = st.integers(-(2**31), 2**31 - 1)


@given(i32, i32, i32, i32)
def test_damage_never_leaves_the_picture(x: int, y: int, width: int, height: int) -> None:
    rect = Rect(x, y, width, height).clipped(640, 480)
    assert rect is None or (
        rect.x >= 0 and rect.y >= 0 and rect.width > 0 and rect.height > 0
        and rect.x + rect.width <= 640 and rect.y + rect.height <= 480
    )  # fmt: skip


def test_a_part_is_copied_where_it_belongs_and_refused_elsewhere() -> None:
    frame = copied(4, 4, 16, X8R8G8B8, bytes(64))
    assert patched(frame, 1, 2, 2, 1, 8, b"abcdefgh") == Rect(1, 2, 2, 1)
    assert bytes(frame.pixels[36:44]) == b"abcdefgh"
    with pytest.raises(BadInputError):
        patched(frame, 3, 0, 2, 1, 8, b"abcdefgh")
    with pytest.raises(BadInputError):
        patched(frame, 0, 0, 2, 1, 8, b"abc")


def test_damage_between_two_looks_is_told_once() -> None:
    told: list[int] = []
    picture = Picture(lambda: told.append(1))
    picture.damage(Rect(0, 0, 1, 1))
    picture.damage(Rect(9, 9, 1, 1))
    assert len(told) == 1
    assert picture.take() == Rect(0, 0, 10, 10)
    picture.damage(Rect(1, 1, 1, 1))
    assert len(told) == 2


# -- the wire, against a peer that plays QEMU's part --------------------------------------------------------------------


def serve(sock: socket.socket) -> None:
    """The server's half of the handshake (D-Bus specification, Authentication Protocol)."""
    for reply in (b"OK 0123456789abcdef0123456789abcdef\r\n", b"AGREE_UNIX_FD\r\n", b""):
        line = b""
        while not line.endswith(b"\r\n"):
            line += sock.recv(1)
        sock.sendall(reply)


@pytest.fixture
def wire() -> Iterator[tuple[Wire, socket.socket]]:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=serve, args=(theirs,))
    thread.start()
    made = Wire(ours)
    thread.join()
    yield made, theirs
    made.close()
    theirs.close()


def message(member: str, signature: str, *body: Any, interface: str = "org.qemu.Display1.Listener.Unix.Map") -> Message:
    address = DBusAddress("/org/qemu/Display1/Listener", bus_name="org.qemu", interface=interface)
    return new_method_call(address, member, signature, body)


def send(sock: socket.socket, sent: Message, serial: int = 1) -> None:
    fds: array.array[int] = array.array("i")
    data = sent.serialise(serial=serial, fds=fds)
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else [])


def test_a_shared_frame_arrives_over_the_wire(wire: tuple[Wire, socket.socket]) -> None:
    ours, theirs = wire
    picture = Picture(lambda: None)
    listener = Listener(ours, picture)
    fd = shared(4096)
    before = len(list(Path("/proc/self/fd").iterdir()))
    send(theirs, message("ScanoutMap", "huuuuu", fd, 0, 32, 32, 128, X8R8G8B8))
    send(theirs, message("UpdateMap", "iiii", 1, 1, 2, 2), 2)
    for each in ours.receive():
        listener.handle(each)
    assert isinstance(picture.frame, Frame)
    assert (picture.frame.width, picture.frame.height, picture.serial) == (32, 32, 1)
    # The mapping keeps one duplicate of its own; the descriptor that came with the message is closed.
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    os.close(fd)


def test_a_listener_says_that_it_can_map(wire: tuple[Wire, socket.socket]) -> None:
    ours, theirs = wire
    ask = message("Get", "ss", "org.qemu.Display1.Listener", "Interfaces", interface="org.freedesktop.DBus.Properties")
    send(theirs, ask)
    for each in ours.receive():
        Listener(ours, Picture(lambda: None)).handle(each)
    assert b"org.qemu.Display1.Listener.Unix.Map" in theirs.recv(4096)


def test_a_message_of_another_form_is_refused(wire: tuple[Wire, socket.socket]) -> None:
    ours, theirs = wire
    send(theirs, message("UpdateMap", "s", "surprise"))
    with pytest.raises(BadInputError):
        for each in ours.receive():
            Listener(ours, Picture(lambda: None)).handle(each)


def test_a_message_too_large_is_refused_before_it_is_stored(wire: tuple[Wire, socket.socket]) -> None:
    ours, theirs = wire
    head = bytearray(message("Disable", "").serialise(serial=1))[:16]
    head[4:8] = (MESSAGE_LIMIT + 1).to_bytes(4, "little")
    theirs.sendall(bytes(head))
    with pytest.raises(BadInputError):
        ours.receive()


def test_a_peer_that_is_gone_is_said_so(wire: tuple[Wire, socket.socket]) -> None:
    ours, theirs = wire
    theirs.close()
    with pytest.raises(UnreachableError):
        ours.receive()


@given(st.binary(min_size=1, max_size=400))
def test_noise_never_does_more_than_end_the_conversation(noise: bytes) -> None:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=serve, args=(theirs,))
    thread.start()
    made = Wire(ours)
    thread.join()
    try:
        theirs.sendall(noise)
        listener = Listener(made, Picture(lambda: None))
        for each in made.receive():
            listener.handle(each)
    except TwofoldError:
        pass
    finally:
        made.close()
        theirs.close()


def test_a_silent_peer_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(TwofoldError):
        Wire(ours, seconds=0.1)


# -- keys and sound -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "number"),
    [(30, 0x1E), (103, 0xC8), (100, 0xB8), (97, 0x9D), (119, 0xC6), (86, 0x56), (183, 0x5D), (125, 0xDB)],
)
def test_scan_codes(code: int, number: int) -> None:
    assert keys.qnum(code) == number


def test_every_key_has_a_scan_code_of_its_own() -> None:
    numbers = [number for code in range(1, 256) if (number := keys.qnum(code))]
    assert len(numbers) == len(set(numbers))


def test_sound_that_cannot_be_is_refused() -> None:
    assert sound.form(16, True, False, 44100, 2, False) == sound.Form("s16le", 44100, 2)
    for bad in (
        (12, True, False, 44100, 2),
        (16, True, False, 4, 2),
        (16, True, False, 44100, 99),
        (16, False, True, 44100, 2),
    ):
        with pytest.raises(BadInputError):
            sound.form(*bad, False)


def test_headers_of_calls_name_nobody(wire: tuple[Wire, socket.socket]) -> None:
    ours, theirs = wire
    ours.call(DBusAddress("/a", bus_name="org.qemu", interface="a.b"), "Press", "u", 1)
    from jeepney import Parser

    parser = Parser()
    parser.add_data(theirs.recv(4096))
    got = parser.get_next_message()
    assert got is not None
    assert HeaderFields.destination not in got.header.fields
    assert got.body == (1,)
