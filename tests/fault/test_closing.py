"""A workspace that runs or sleeps is given back: shut down cleanly first, and as it was before where that does not succeed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.test_cli_whole import Typed
from tests.fault.test_moving import Vault
from tests.fault.test_survival import info
from tests.harness.company import COUNT_AT, Company, Device
from tests.harness.relay import Relay
from twofold.agent.client import Client
from twofold.model.errors import ConflictError, RefusedError, TimedOutError, TwofoldError, UnreachableError
from twofold.model.policy import Policy

pytestmark = [pytest.mark.vm, pytest.mark.timeout(240)]
CODE = "correct horse"
# The product's own agent with less patience: a guest that does not shut down, a server that is away.
_IMPATIENT = """
import sys
from twofold.agent import backup, power
power.BUTTON_SECONDS, backup.PATIENCE = 1.5, 1.0
from twofold.agent.__main__ import main
sys.exit(main([]))
"""


class Impatient(Device):
    def _program(self) -> list[str]:
        return [sys.executable, "-c", _IMPATIENT]


@pytest.fixture(scope="module")
def button(company: Company) -> str:
    """An image that shuts down when its button is pressed; `tiny` does not."""
    company.publish("button", button=True)
    return "button"


@pytest.fixture
def user(company: Company, button: str) -> str:
    name = company.user(f"leaves{os.urandom(3).hex()}")
    company.grant(name, button, "work", "blue")
    company.grant(name, button, "coded", "teal", Policy(unlock=True))
    company.grant(name, "tiny", "stubborn", "vermilion")
    return name


@pytest.fixture
def client(company: Company, user: str, device: Device, line: Relay) -> Iterator[Client]:
    with device.start() as connected:
        connected.call("enrol", url=line.through(company.admin.invite_device(user)), name="laptop")
        yield connected


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Impatient(tmp_path / "device")
    yield made
    made.close()


def status(company: Company, user: str, workspace: str = "work") -> str:
    return str(company.admin.find_workspace(user, workspace)["status"])


def counted(device: Device, runtime: Path) -> int:
    return int.from_bytes(Vault(device, runtime).read(4, COUNT_AT), "little")


def test_what_runs_is_backed_up_as_it_runs_then_shut_down_and_given_back(
    company: Company, client: Client, work: str, user: str, device: Device, tmp_path: Path
) -> None:
    client.finish("start", workspace=work)
    with pytest.raises(ConflictError, match="is running"):
        client.finish("checkin", workspace=work)
    time.sleep(1)
    seen = []
    for now in client.follow(client.call("checkin", workspace=work, stop=True)):
        there = [each for each in client.call("list")["workspaces"] if each["workspace"] == work]
        seen.append((now["step"], there[0]["run"] if there else "gone"))
    assert now["result"]["receipt"]["key_destroyed"] is True
    assert status(company, user) == "checked-in"
    steps = [step for step, _ in seen]
    assert steps.index("sending") < steps.index("pressing the power button") < steps.index("giving it back"), steps
    assert ("sending", "running") in seen and ("sending", "off") in seen, "most of it goes while the person works"
    assert len(company.admin.list_generations(company.admin.find_workspace(user, "work")["number"])) == 2
    client.finish("checkout", workspace=work)
    first = counted(device, tmp_path / "r")
    assert first > 9, "what it wrote until it was shut down"

    # One that sleeps is woken for it; at a terminal a person is asked.
    typed = Typed(device.home)
    client.finish("start", workspace=work)
    time.sleep(1)
    client.finish("suspend", workspace=work)
    typed("checkin", "work", code=2)
    assert "not saved" in typed.err and "Safe:" in typed.err
    assert info(client)["run"] == "suspended"
    assert "key destroyed" in typed("discard", "work", "--backup", "--yes")
    assert status(company, user) == "checked-in"


def test_a_guest_that_does_not_shut_down_is_as_it_was(
    company: Company, client: Client, user: str, device: Device
) -> None:
    client.finish("checkout", workspace="stubborn")
    client.finish("start", workspace="stubborn")
    pid = info(client, "stubborn")["pid"]
    for before in ("running", "paused", "suspended"):
        if before != "running":
            client.finish("pause" if before == "paused" else "suspend", workspace="stubborn")
        with pytest.raises(TimedOutError, match="did not shut down") as said:
            client.finish("checkin", workspace="stubborn", stop=True)
        now = info(client, "stubborn")
        assert now["run"] == before, "by the time it is said"
        assert ("sleeps again" if before == "suspended" else "still running") in said.value.safe
        assert (now["custody"], now["memory_stored"]) == ("checked-out", before == "suspended")
        assert before == "suspended" or now["pid"] == pid
    assert status(company, user, "stubborn") == "checked-out"
    client.finish("start", workspace="stubborn")

    # Cancelled while it is asked to shut down: it runs on.
    job = client.call("checkin", workspace="stubborn", stop=True)
    while "button" not in client.call("job", operation=job["operation"])["step"]:
        time.sleep(0.01)
    client.call("cancel", operation=job["operation"])
    with pytest.raises(TwofoldError, match="cancelled") as stopped:
        list(client.follow(job))
    assert "Nothing was given up" in stopped.value.safe
    assert info(client, "stubborn")["run"] == "running"


def test_a_server_that_is_away_shuts_nothing_down_and_a_code_is_not_asked_for_twice(
    company: Company, client: Client, user: str, device: Device, line: Relay
) -> None:
    client.finish("checkout", workspace="coded")
    client.call("unlock", workspace="coded", code=CODE, new=True)
    client.finish("start", workspace="coded")
    pid = info(client, "coded")["pid"]
    line.cut()
    with pytest.raises(UnreachableError):
        client.finish("checkin", workspace="coded", stop=True)
    assert (info(client, "coded")["pid"], info(client, "coded")["run"]) == (pid, "running")
    line.mend()
    time.sleep(1)  # it is past its BIOS, which hears no button
    client.finish("suspend", workspace="coded")
    with pytest.raises(RefusedError, match="unlock code"):
        client.finish("checkin", workspace="coded", stop=True)  # it sleeps, and wants its code to be woken
    assert info(client, "coded")["run"] == "suspended"
    client.call("unlock", workspace="coded", code=CODE)
    client.finish("checkin", workspace="coded", stop=True)
    assert status(company, user, "coded") == "checked-in"
    kept = [path for path in device.home.rglob("*") if path.is_file() and CODE.encode() in path.read_bytes()]
    assert not kept, "a code is written nowhere, the log least of all"
