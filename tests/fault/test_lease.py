"""A lease ends by itself: the vault process drops the keys though its agent is dead; only a renewed lease opens them again."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest

from tests.fault.test_moving import Vault
from tests.fault.test_roaming import until
from tests.fault.test_supply import works
from tests.harness.company import COUNT_AT, Company, Device
from twofold.agent.client import Client
from twofold.model.errors import RefusedError
from twofold.model.policy import Scope
from twofold.platform.clock import boot_id
from twofold.vault import nbd, process
from twofold.vault.process import Process

pytestmark = pytest.mark.vm


def vault_of(device: Device) -> Process | None:
    return process.attach(device.dirs.workspace_runtime("work"))


def counted(vault: Process) -> int:
    """What the guest had acknowledged of its count."""
    with socket.socket(fileno=vault.call("connect", {"device": "system"})[1][0]) as stream:
        client = nbd.Client(stream, "system")
        client.flush()
        found = client.read(COUNT_AT, 4)
        client.disconnect()
    return int.from_bytes(found, "little")


def ends(company: Company, user: str, client: Client, at: int) -> None:
    """The company lets the workspace end then, and the device has heard of it."""
    number, now = company.admin.find_workspace(user, "work")["number"], int(time.time())
    company.admin.set_policy(Scope.WORKSPACE, str(number), {"ends": at} if at else {})
    until(
        lambda: (found := client.call("info", workspace="work")["expires"]) == at or (not at and found > now + 3600), 60
    )


@pytest.mark.timeout(200)
def test_the_keys_go_with_the_lease_though_no_agent_lives(
    client: Client, work: str, user: str, company: Company, device: Device, tmp_path: Path
) -> None:
    client.finish("start", workspace=work)
    works(client, device)
    pid = client.call("info", workspace=work)["pid"]
    end = int(time.time()) + 9  # a busy machine takes a while until the agent has heard of it
    ends(company, user, client, end)
    vault = vault_of(device)
    assert vault is not None
    until(lambda: vault.call("status")[0]["lease_left"] <= 9, 8)  # the agent hands the renewed lease on
    device.kill()
    before = counted(vault)
    until(lambda: not vault.alive(), 12)
    os.kill(pid, 0)  # the machine stands still without its disks
    after = int.from_bytes(Vault(device, tmp_path / "r").read(4, COUNT_AT), "little")
    assert after >= before > 0, "everything acknowledged is there"
    with device.start() as again:
        with pytest.raises(RefusedError, match="ended on"):
            again.finish("start", workspace=work)
        assert vault_of(device) is None
        assert again.call("info", workspace=work)["run"] == "off"
        ends(company, user, again, 0)
        again.finish("start", workspace=work)
        works(again, device)
        again.finish("off", workspace=work)
        found = again.finish("disk_check", workspace=work, data=True)["result"]
        assert [each["lost"]["bytes"] for each in found["devices"]] == [0]


@pytest.mark.timeout(200)
def test_an_agent_that_lives_suspends_before_the_keys_go(
    client: Client, work: str, user: str, company: Company, device: Device
) -> None:
    client.finish("start", workspace=work)
    works(client, device)
    # The agent believes that all of it has passed; the vault process has not heard of that.
    ends(company, user, client, int(time.time()) + 90)
    state = device.dirs.state / "workspaces" / "work" / "state.json"
    device.quit()
    said = json.loads(state.read_text())
    assert said["seen_in"] == boot_id()
    state.write_text(json.dumps(said | {"seen_at": said["seen_at"] + 90}))
    company.cut()
    try:
        with device.start() as again:
            until(lambda: again.call("info", workspace=work)["run"] == "suspended", 20)
            assert "ended on" in again.call("info", workspace=work)["error"]["happened"]
            assert vault_of(device) is None
        device.quit()
    finally:
        company.mend()
    with device.start() as again:
        ends(company, user, again, 0)
        assert again.finish("start", workspace=work)["result"]["resumed"]
        works(again, device)
