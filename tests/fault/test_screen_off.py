"""A dark screen on a device whose company wants its workspace shut then: real machines, a real vault."""

from __future__ import annotations

import os
import time

import pytest

from tests.fault.test_roaming import until
from tests.harness.company import Company, Device
from twofold.agent.client import Client
from twofold.model.errors import UnreachableError
from twofold.model.policy import SUSPEND, Policy, Scope
from twofold.vault import process

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120)]


@pytest.fixture
def user(company: Company) -> str:
    name = company.user(f"dark{os.urandom(3).hex()}")
    company.grant(name, "tiny", "work", "blue", Policy(screen_off=SUSPEND))
    return name


def run(client: Client) -> str:
    return str(client.call("info", workspace="work")["run"])


def has_keys(device: Device) -> bool:
    """Whether a vault process holds the workspace's keys."""
    return process.attach(device.dirs.workspace_runtime("work")) is not None


def test_in_the_dark_it_is_suspended_without_its_keys_and_comes_back_with_the_light(
    client: Client, work: str, device: Device, company: Company, user: str
) -> None:
    assert client.call("screen", on=False) == {"operations": []}, "it was off"
    client.call("screen", on=True)
    client.finish("start", workspace=work)
    assert has_keys(device)
    (begun,) = client.call("screen", on=False)["operations"]
    assert begun["verb"] == "suspend"
    until(lambda: run(client) == "suspended", 30)
    until(lambda: not has_keys(device), 10)
    client.call("screen", on=True)
    until(lambda: run(client) == "running", 30)

    # Light at once, in the middle of the suspend: it is up again at the end, however the two met.
    client.call("screen", on=False)
    client.call("screen", on=True)
    until(lambda: not under_way(client), 60)
    assert run(client) == "running"

    # Its company changes its mind.
    number = company.admin.find_workspace(user, "work")["number"]
    company.admin.set_policy(Scope.WORKSPACE, str(number), {"screen_off": "run"})
    until(lambda: client.call("info", workspace=work)["policy"]["screen_off"] == "run", 60)
    assert client.call("screen", on=False) == {"operations": []}
    time.sleep(1)
    assert run(client) == "running" and has_keys(device)


def test_an_agent_killed_in_the_dark_leaves_it_shut(client: Client, work: str, device: Device) -> None:
    client.finish("start", workspace=work)
    client.call("screen", on=False)
    device.kill()
    with pytest.raises(UnreachableError):
        client.call("list")
    with device.start() as again:
        until(lambda: not under_way(again) and run(again) in ("running", "suspended"), 60)
        again.call("screen", on=False)  # the shell says it once more to a new agent
        until(lambda: run(again) == "suspended", 40)
        until(lambda: not has_keys(device), 10)


def under_way(client: Client) -> bool:
    return any(each["state"] in ("queued", "running") for each in client.call("jobs")["operations"])
