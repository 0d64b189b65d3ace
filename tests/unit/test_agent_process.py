"""The agent as a real process: lean, alone in its home, gone when asked, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from twofold.agent import logs
from twofold.agent.client import Client, Watch
from twofold.model.errors import BadInputError, NotFoundError, UnreachableError, UsageError
from twofold.platform.dirs import Dirs, dirs

TREE = Path(__file__).resolve().parents[2]
IDLE_LIMIT = 48 << 20


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dirs:
    monkeypatch.setenv("TWOFOLD_HOME", str(tmp_path / "home"))
    return dirs()


@contextmanager
def agent(place: Dirs) -> Iterator[subprocess.Popen[bytes]]:
    env = dict(os.environ) | {"PYTHONPATH": str(TREE / "src")}
    process = subprocess.Popen([sys.executable, "-m", "twofold.agent"], env=env, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 15
        while time.monotonic() < end and process.poll() is None:
            try:
                Client(place.agent_socket).close()
                break
            except UnreachableError:
                time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


def resident(pid: int) -> int:
    """Bytes, as the kernel counts them (proc_pid_status(5), VmRSS): an upper bound of PSS."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def test_an_idle_agent_takes_less_than_its_limit(place: Dirs) -> None:
    with agent(place) as process:
        with Client(place.agent_socket) as client, Watch(place.agent_socket):
            client.call("list")
            client.call("doctor", deadline=60)  # QEMU probed, the device's keys made: all it loads while it idles
        time.sleep(0.5)
        used = resident(process.pid)
        print(f"agent idle: {used / (1 << 20):.1f} MiB RSS")
        assert used < IDLE_LIMIT


def test_a_second_agent_leaves_the_first_alone(place: Dirs) -> None:
    with agent(place), agent(place) as second:
        assert second.wait(10) == 6
        assert second.stderr is not None
        assert b"runs already" in second.stderr.read()
        with Client(place.agent_socket) as client:
            assert client.call("hello")["api"] == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_asked_and_takes_its_socket_along(place: Dirs, how: signal.Signals) -> None:
    with agent(place) as process:
        process.send_signal(how)
        assert process.wait(10) == 0
        assert not place.agent_socket.exists()
    with agent(place) as process, Client(place.agent_socket) as client:
        assert client.call("quit") == {}
        assert process.wait(10) == 0


def test_one_that_was_killed_leaves_no_lock_and_its_socket_is_replaced(place: Dirs) -> None:
    with agent(place) as process:
        process.kill()
        process.wait()
        assert place.agent_socket.exists()
    with agent(place), Client(place.agent_socket) as client:
        assert client.call("list") == {"workspaces": []}


def test_verbs_refuse_what_they_do_not_know(place: Dirs) -> None:
    with agent(place), Client(place.agent_socket) as client:
        for verb in (
            "info",
            "start",
            "suspend",
            "stop",
            "off",
            "pause",
            "resume",
            "remove",
            "display",
            "apps",
            "windows",
            "time",
        ):
            with pytest.raises(NotFoundError):
                client.call(verb, workspace="nothing")
        with pytest.raises(NotFoundError, match="not enrolled"):
            client.call("available")
        with pytest.raises(NotFoundError, match="no such job"):
            client.call("job", operation="x")
        with pytest.raises(UsageError):
            client.call("job", operation="x", wait=1e9)
        for url in ("http://example.org/#A.b", "https://user@host/", "file:///etc/passwd", ""):
            with pytest.raises(BadInputError):
                client.call("enrol", url=url, name="laptop")
        with pytest.raises(BadInputError):
            client.call("checkout", workspace="../../etc")


def test_broken_workspaces_are_listed_with_what_to_do(place: Dirs) -> None:
    folder = place.state / "workspaces" / "broken"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{ torn")
    with agent(place), Client(place.agent_socket) as client:
        (found,) = client.call("list")["workspaces"]
        assert (found["workspace"], found["run"]) == ("broken", "broken")
        assert "cannot be read" in found["error"]["happened"]
        assert "remove" in found["error"]["next"]
        operation = client.call("job", operation=client.call("start", workspace="broken")["operation"], wait=10)
        assert operation["state"] == "failed"
        assert operation["error"]["code"] == "damaged"
        done = client.finish("remove", workspace="broken", yes=True)
        assert done["result"]["receipt"]["key_destroyed"] is False
        assert not folder.exists()
        (receipt,) = client.call("receipts")["receipts"]
        assert (receipt["workspace"], receipt["verb"], receipt["company"]) == ("broken", "remove", False)


def test_a_checkout_that_was_cut_off_is_undone_at_the_next_start(place: Dirs) -> None:
    from twofold.agent.store import Record, Store

    store = Store(place.state)
    store.create("half")
    store.save("half", Record())
    store.write("half", "key.wrapped", b"x" * 80)
    with agent(place), Client(place.agent_socket) as client:
        assert client.call("list") == {"workspaces": []}
        assert not (place.state / "workspaces" / "half").exists()


def test_the_log_is_json_and_says_nothing_personal(place: Dirs) -> None:
    with agent(place), Client(place.agent_socket) as client, pytest.raises(BadInputError):
        client.call("enrol", url="https://secret.example/#SECRETCODE", name="my secret name")
    text = (place.state / "agent.log").read_text()
    for line in text.splitlines():
        assert {"time", "level", "from", "text"} <= json.loads(line).keys()
    assert "secret" not in text.lower()
    assert (place.state / "agent.log").stat().st_mode & 0o777 == 0o600


def test_the_log_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    monkeypatch.setattr(logs, "SIZE", 2000)
    root = logging.getLogger("twofold")
    before = (list(root.handlers), root.level, root.propagate, logging.raiseExceptions)
    try:
        logs.to_file(tmp_path / "agent.log")
        for number in range(200):
            logging.getLogger("twofold.agent").info("line %d", number)
        for handler in root.handlers:
            handler.close()
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "agent.log", "agent.log.1", "agent.log.2", "agent.log.3",
        ]  # fmt: skip
        assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())
    finally:
        root.handlers[:], root.level, root.propagate, logging.raiseExceptions = before
