"""The rule `network`: what is read, what is refused whole, and that the process outside takes what is made of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.engine import network
from twofold.model.errors import BadInputError, UnreachableError
from twofold.model.reach import reach
from twofold.platform.limits import start_time

ALL = [[1, 65535]]


@pytest.mark.parametrize(
    ("text", "names", "ranges"),
    [
        ("www.example.org", [("www.example.org", [])], []),
        ("*.example.org:443", [("*.example.org", [[443, 443]])], []),
        ("intranet. x_y.a-b.example", [("intranet", []), ("x_y.a-b.example", [])], []),
        ("10.0.0.0/8:80,8000-8010", [], [("10.0.0.0", 8, [[80, 80], [8000, 8010]])]),
        ("192.0.2.7:1-65535 0.0.0.0/0", [], [("192.0.2.7", 32, ALL), ("0.0.0.0", 0, [])]),
    ],
)
def test_entries_are_read(text: str, names: list[object], ranges: list[object]) -> None:
    made = reach(text)
    assert made["mode"] == "listed"
    assert [(each["name"], each["ports"]) for each in made["names"]] == names
    assert [(each["net"], each["bits"], each["ports"]) for each in made["ranges"]] == ranges


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "any", "All", "allow", "none all", "all all", "www.example.org none", " www.example.org", "a.b  c.d",
        "Www.example.org", "www..example.org", ".example.org", "*", "*.", "**.example.org", "a.*.org", "*example.org",
        "exämple.org", "a b.org\n", "www.example.org\t", "-", "a/b.org", "http://www.example.org", "www.example.org/path",
        "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "10.0.0.256", "1.2.3.4.5", "010.0.0.1", "::1", "[::1]:80", "2001:db8::/32",
        "a.org:", "a.org:0", "a.org:65536", "a.org:80-70", "a.org:80,", "a.org:-80", "a.org:http", "a.org:080", "a.org:1:2",
        "x." * 127 + "org", "a." + "b" * 64, " ".join(["a.org"] * 1025), "a.org:" + ",".join(["1"] * 65),
    ],
)  # fmt: skip
def test_what_is_not_understood_refuses_the_whole(text: str) -> None:
    with pytest.raises(BadInputError, match="network"):
        reach(text)


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "r"
    folder.mkdir(mode=0o700)
    yield folder
    left = network.attach(folder)
    if left is not None:
        left.stop()


def test_the_process_takes_what_is_made_of_it_and_ends(runtime: Path) -> None:
    text = "www.example.org *.example.net:443 intranet. 10.0.0.0/8:80,8000-8010 127.0.0.1"
    running = network.start(runtime, reach(text))
    assert running.status() == {
        "guest": False,
        "tcp": 0,
        "udp": 0,
        "names": 0,
        "confined": running.status()["confined"],
    }
    assert "seccomp" in running.status()["confined"]
    for each in ("none", "all", text):
        running.set_policy(reach(each))
    for wrong in ({}, {"mode": "some"}, {"mode": "all", "names": [{"name": "a.b"}]}):
        with pytest.raises(BadInputError):
            running.set_policy(wrong)
    found = network.attach(runtime)
    assert found is not None
    assert found.pid == running.pid
    found.close()
    running.stop()
    running.stop()
    assert start_time(running.pid) is None
    assert network.attach(runtime) is None
    assert sorted(each.name for each in runtime.iterdir()) == [network.LOG]


def test_one_that_does_not_come_up_leaves_nothing(runtime: Path) -> None:
    with pytest.raises((BadInputError, UnreachableError)):
        network.start(runtime, {"mode": "some"})
    assert network.attach(runtime) is None


def test_a_killed_process_is_not_taken_for_alive(runtime: Path) -> None:
    running = network.start(runtime, reach("none"))
    running.kill()
    deadline = time.monotonic() + 5
    while network.attach(runtime) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(UnreachableError):
        running.set_policy(reach("all"))
    running.stop()
    assert not os.path.exists(runtime / network.RECORD)  # noqa: PTH110


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(st.text(max_size=60) | st.text("abc.*:/019 -,", max_size=30))
def test_no_text_breaks_it(text: str) -> None:
    try:
        made = reach(text)
    except BadInputError:
        return
    assert made["mode"] in ("none", "all", "listed")
