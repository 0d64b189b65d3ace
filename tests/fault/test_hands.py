"""A person's hands on the whole: the real window over the real agent, server and machine."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fault.test_closing import button, status
from tests.fault.test_survival import info
from tests.harness.company import TREE, Company, Device
from tests.harness.injector import Injector
from tests.harness.xserver import XServer, end, window_manager, xserver
from twofold.agent.client import Client
from twofold.model.policy import Policy
from twofold.platform.run import spawn

pytestmark = [pytest.mark.vm, pytest.mark.timeout(240)]
__all__ = ["button"]
CODE = "horse 9"


@pytest.fixture
def user(company: Company, button: str) -> str:
    name = company.user(f"hands{os.urandom(3).hex()}")
    company.grant(name, button, "work", "blue", Policy(unlock=True))
    return name


class Window:
    """The switcher of a device, and what it says of itself."""

    def __init__(self, device: Device, server: XServer) -> None:
        self.said: dict[str, Any] = {}
        reader, writer = os.pipe()
        self.process = spawn(
            [sys.executable, "-m", "twofold.switcher", "--socket", device.dirs.agent_socket, "--front",
             "--status-fd", str(writer)],
            env=server.environment(PYTHONPATH=str(TREE / "src")), pass_fds=[writer],
        )  # fmt: skip
        os.close(writer)
        threading.Thread(target=self._listen, args=(reader,), daemon=True).start()

    def _listen(self, reader: int) -> None:
        with os.fdopen(reader) as lines:
            for line in lines:
                self.said |= json.loads(line)

    def until(self, what: str, value: object) -> None:
        until(lambda: self.said.get(what) == value, lambda: f"never {what} = {value!r}: {self.said}")


def until(what: Callable[[], bool], why: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, why()
        time.sleep(0.02)


@pytest.fixture
def hands(device: Device, client: Client, work: str) -> Iterator[tuple[Window, Injector]]:
    with contextlib.ExitStack() as undo:
        server = undo.enter_context(xserver(1280, 800))
        undo.enter_context(window_manager(server))
        injector = Injector(server)
        undo.callback(injector.close)
        window = Window(device, server)
        undo.callback(end, window.process)
        yield window, injector


def test_a_code_is_chosen_given_and_the_workspace_given_back(
    company: Company, client: Client, user: str, device: Device, hands: tuple[Window, Injector]
) -> None:
    window, fingers = hands
    said = device.dirs.state / "workspaces" / "work" / "state.json"

    def press(spot: str) -> None:
        until(lambda: spot in window.said.get("spots", {}), lambda: (spot, window.said))
        time.sleep(0.1)
        fingers.click(*window.said["spots"][spot])

    def typed(text: str) -> None:
        window.until("side", "typing")
        time.sleep(0.1)
        fingers.type(text)
        fingers.key("Return")

    window.until("sheet", "new")
    typed(CODE)
    typed(CODE)
    until(lambda: info(client)["run"] == "running", lambda: info(client))
    window.until("side", "work")  # the keyboard is the guest's now
    time.sleep(1)
    client.finish("stop", workspace="work")
    window.until("sheet", "code")
    typed("horse 8")
    until(lambda: json.loads(said.read_bytes())["unlock_tries"] == 1, said.read_text)
    time.sleep(0.5)
    typed(CODE)
    until(lambda: info(client)["run"] == "running", lambda: info(client))
    window.until("live", True)
    time.sleep(1)
    press("details")
    press("checkin?")
    press("checkin")
    until(lambda: not client.call("list")["workspaces"], lambda: client.call("jobs"), 60)
    window.until("workspace", "")
    assert status(company, user) == "checked-in"
    (job,) = [each for each in client.call("jobs")["operations"] if each["verb"] == "checkin"]
    job = client.call("job", operation=job["operation"], wait=20.0)  # it clears its image away last
    assert job["state"] == "done" and job["result"]["receipt"]["key_destroyed"] is True
