"""The guest's root half without a guest: lines, verbs, freezing that ends by itself."""

from __future__ import annotations

import errno
import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.guest import wire
from twofold.guest.disks import FIFREEZE, FITHAW, Freezer, writable
from twofold.guest.entries import entries
from twofold.guest.main import Agent


@given(st.lists(st.binary(max_size=40)), st.integers(1, 50))
def test_lines_come_whole_however_they_are_cut(parts: list[bytes], size: int) -> None:
    lines = [part.replace(b"\n", b"") + b"\n" for part in parts]
    stream = b"".join(lines)
    cutter = wire.Lines()
    seen = [line for at in range(0, len(stream), size) for line in cutter.feed(stream[at : at + size])]
    assert seen == lines


def test_a_line_without_end_is_dropped_and_the_next_one_heard() -> None:
    cutter = wire.Lines()
    for _ in range(5):
        assert list(cutter.feed(b"x" * wire.MAX_LINE)) == []
    assert list(cutter.feed(b"tail\nnext\n")) == [b"next\n"]
    assert cutter.dropped == 1


def test_a_half_line_of_a_host_that_went_is_forgotten() -> None:
    cutter = wire.Lines()
    assert list(cutter.feed(b'{"v":1,"id":1,')) == []
    cutter.reset()
    assert list(cutter.feed(b"fresh\n")) == [b"fresh\n"]


@given(st.binary(max_size=200))
def test_any_line_is_a_request_or_nothing(line: bytes) -> None:
    request = wire.parse(line)
    assert request is None or 0 <= request.id < wire.MAX_ID


@pytest.mark.parametrize("line", [b'{"v":1,"id":-1,"do":"ping"}', b'{"v":1,"id":true,"do":"ping"}', b'{"v":2,"id":1,"do":"ping"}',
                                  b'{"v":1,"id":9007199254740992,"do":"ping"}', b'{"v":1,"id":1}', b"[" * 90_000])  # fmt: skip
def test_what_is_not_the_protocol_is_no_request(line: bytes) -> None:
    assert wire.parse(line) is None


class Desk:
    """An agent whose answers are kept."""

    def __init__(self, share: Path) -> None:
        self.lines: list[dict[str, Any]] = []
        self.agent = Agent(lambda line: self.lines.append(json.loads(line)), share)

    def ask(self, verb: str, **args: Any) -> dict[str, Any]:
        self.agent.handle(wire.Request(7, verb, args))
        return self.lines.pop() if self.lines else {}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield Desk(tmp_path)


def test_verbs_answer_with_the_requests_id(desk: Desk) -> None:
    assert desk.ask("ping") == {"v": 1, "id": 7, "ok": {}}
    hello = desk.ask("hello")["ok"]
    assert hello["session"] is False and "launch" in hello["features"]


def test_there_is_no_verb_that_runs_or_reads(desk: Desk) -> None:
    for verb in ("exec", "read", "write", "open", "__class__"):
        assert desk.ask(verb)["error"]["code"] == "unknown-verb"


@pytest.mark.parametrize("name", ["../apps", "", 5, "A" * 64, "0" * 63, "/" * 64])
def test_an_icon_has_a_digest_for_a_name(desk: Desk, name: object) -> None:
    assert desk.ask("icon", icon=name)["error"]["code"] == "bad-argument"


def test_an_icon_is_what_its_name_says(desk: Desk, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"picture").hexdigest()
    assert desk.ask("icon", icon=digest)["error"]["code"] == "not-found"
    (tmp_path / "icons").mkdir()
    (tmp_path / "icons" / f"{digest}.png").write_bytes(b"picture")
    assert desk.ask("icon", icon=digest)["ok"] == {"png": "cGljdHVyZQ=="}


def test_a_session_that_ends_answers_what_it_was_asked(desk: Desk) -> None:
    assert desk.ask("windows")["error"]["code"] == "no-session"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        desk.agent.session = ours
        desk.agent.from_session(wire.event("session", up=True))
        assert desk.lines.pop() == {"v": 1, "event": "session", "up": True}
        assert desk.ask("windows") == {}
        assert json.loads(theirs.recv(4096))["do"] == "windows"
        desk.agent.session_ended()
    assert [line.get("error", {}).get("code", line.get("event")) for line in desk.lines] == ["no-session", "session"]


def test_freezing_ends_by_itself(tmp_path: Path) -> None:
    done: list[int] = []
    freezer = Freezer(lambda: [str(tmp_path)], lambda _, request: done.append(request))
    assert freezer.freeze(100.0, 5) == [str(tmp_path)]
    assert not freezer.due(104.9)
    assert freezer.due(105.0)
    assert freezer.thaw() == [str(tmp_path)]
    assert done == [FIFREEZE, FITHAW]
    assert not freezer.due(1e9)


def test_all_are_frozen_or_none(tmp_path: Path) -> None:
    done: list[int] = []

    def ioctl(_: int, request: int) -> None:
        if request == FIFREEZE and FIFREEZE in done:
            raise OSError(errno.EIO, "damaged")
        done.append(request)

    freezer = Freezer(lambda: [str(tmp_path), str(tmp_path.parent)], ioctl)
    with pytest.raises(OSError, match="damaged"):
        freezer.freeze(0.0, 5)
    assert done == [FIFREEZE, FITHAW]
    assert freezer.until is None


def test_only_written_disks_are_frozen(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/vda / erofs ro 0 0\n/dev/vdb /home ext4 rw,noatime 0 0\n/dev/vdb /srv ext4 rw 0 0\n"
        "tmpfs /run tmpfs rw 0 0\n/dev/vdc /x ext4 ro 0 0\n"
    )
    assert writable(mounts) == ["/home"]


def test_entries_are_what_can_be_started(tmp_path: Path) -> None:
    (tmp_path / "a.desktop").write_text(
        "[Desktop Entry]\nType=Application\nName=A\nExec=a-prog --x %F\nIcon=a\n[Other]\nName=B\n"
    )
    (tmp_path / "b.desktop").write_text("[Desktop Entry]\nType=Link\nName=B\nURL=x\n")
    (tmp_path / "c.desktop").write_text("[Desktop Entry]\nType=Application\nName=C\nExec=c 'broken\n")
    (tmp_path / "d.desktop").write_text("[Desktop Entry]\nType=Application\nName=D\nExec=d\nNoDisplay=true\n")
    found = entries([tmp_path])
    assert list(found) == ["a", "d"]
    assert found["a"].argv == ("a-prog", "--x") and found["a"].name == "A"
    assert found["d"].hidden and not found["a"].hidden


def test_freezing_what_is_frozen_thaws_it_first(tmp_path: Path) -> None:
    done: list[int] = []
    freezer = Freezer(lambda: [str(tmp_path)], lambda _, request: done.append(request))
    freezer.freeze(0.0, 5)
    freezer.freeze(1.0, 5)
    assert done == [FIFREEZE, FITHAW, FIFREEZE]
    assert freezer.until == 6.0
