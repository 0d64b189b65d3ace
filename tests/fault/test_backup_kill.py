"""Backing up and checking in are cut short at any moment, by the death of the agent, of the vault process or of the server: they
finish by themselves, nothing acknowledged is lost, and there is one line of history."""

from __future__ import annotations

import json
import os
import random
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.fault.test_backup import rows
from tests.fault.test_moving import AT, DATA, Vault
from tests.fault.test_moving_kill import BULK, ended, strike
from tests.fault.test_roaming import until
from tests.harness.company import Company, Device
from tests.harness.long import long
from twofold.agent.client import Client


@pytest.fixture
def store(device: Device, work: str, tmp_path: Path) -> Vault:
    return Vault(device, tmp_path / "r")


def settled(client: Client) -> None:
    """Nothing is under way any more."""

    def still() -> bool:
        return all(each["state"] not in ("queued", "running") for each in client.call("jobs")["operations"])

    until(still, 60)


def _newer(client: Client, before: int) -> bool:
    return bool(client.call("info", workspace="work")["whereabouts"]["on_server_at"] > before)


def one_line(company: Company, user: str) -> list[str]:
    """The generations from the newest to the first, each the parent of the one before it, and no branch."""
    there = rows(company, user)
    assert {row["kind"] for row in there} <= {"line"}
    by_id = {row["id"]: row for row in there}
    at, line = company.admin.find_workspace(user, "work")["head"], []
    while at:
        line.append(at)
        at = by_id[at]["parent"]
    assert len(line) == len(there), "a generation beside the line"
    return line


@pytest.mark.timeout(400)
@pytest.mark.parametrize("victim", ["agent", "vaultd"])
@pytest.mark.parametrize("rounds", [3, *long(30)])
def test_a_back_up_is_cut_short_and_ends_by_itself(
    client: Client, work: str, user: str, company: Company, device: Device, store: Vault, victim: str, rounds: int
) -> None:
    dice, cut, alone = random.Random(11), 0, 0
    for turn in range(rounds):
        store.write(bytes([turn + 1]) * BULK)
        store.write(DATA, AT // 2)
        before = client.call("info", workspace=work)["whereabouts"]["on_server_at"]
        begun = client.call("backup", workspace=work)["operation"]
        time.sleep(dice.choice([0.0, 0.05, 0.15, 0.4]))
        client = strike(device, client, victim, dice, lambda: True)
        if ended(client, begun) != "done":
            cut += 1
            if victim == "agent":
                # It may have died before it had noted anything; else the next one goes on once it has heard the server.
                with suppress(AssertionError):
                    until(partial(_newer, client, before), 15)
                    alone += 1
        settled(client)
        client.finish("backup", workspace=work)
        one_line(company, user)
    assert rounds <= len(one_line(company, user)) <= 3 * rounds
    client.finish("discard", workspace=work, yes=True)
    client.finish("checkout", workspace=work)
    assert store.read(BULK) == bytes([rounds]) * BULK
    assert store.read(len(DATA), AT // 2) == DATA
    print(f"{rounds} back ups, {cut} met by the death of the {victim}, {alone} of them ended by the next one")
    client.close()


@pytest.mark.timeout(200)
def test_what_a_killed_agent_had_kept_is_sent_by_the_next_one(
    client: Client, work: str, user: str, company: Company, device: Device, store: Vault
) -> None:
    """The server stands still meanwhile: the point in time is taken, and nothing of it has been sent."""
    store.write(DATA)
    with company.standing_still():
        begun = client.call("backup", workspace=work)["operation"]
        time.sleep(4)
        assert client.call("job", operation=begun)["state"] == "running"
        client.close()
        device.kill()
        vault = store.open()
        (left,) = [each.number for each in vault.generations() if each.note == "backup"]
        vault.close()
        assert json.loads((store.folder / "state.json").read_text())["backing_up"] == "person"
        store.write(b"later" * 1000, AT * 2 // 3)
    with device.start() as again:
        until(partial(_newer, again, 0), 60)
        settled(again)
    (row,) = rows(company, user)
    assert row["number"] == left, "the very point in time that was taken then"


@pytest.mark.timeout(200)
@pytest.mark.parametrize("step", ["asking the server", "sending", "committing"])
def test_a_server_that_dies_in_the_middle_is_sent_the_rest(
    client: Client, work: str, user: str, company: Company, store: Vault, step: str
) -> None:
    store.write(os.urandom(5 << 20))
    begun = client.call("backup", workspace=work)["operation"]

    def there() -> bool:
        job = client.call("job", operation=begun)
        return (job["step"] == step and (step != "sending" or job["done"] > 0)) or job["state"] not in (
            "queued",
            "running",
        )

    until(there, 20, every=0)
    company.kill()
    time.sleep(1)
    company.mend()
    found = client.call("job", operation=begun, wait=90.0)
    assert found["state"] == "done", found["error"]
    assert found["result"]["kind"] == "line"
    assert len(one_line(company, user)) == 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("rounds", [3, *long(20)])
def test_a_check_in_is_cut_short_and_the_workspace_is_here_or_there(
    client: Client, work: str, user: str, company: Company, device: Device, store: Vault, rounds: int
) -> None:
    dice, folder = random.Random(12), device.dirs.state / "workspaces" / "work"
    for turn in range(rounds):
        data = bytes([turn + 1]) * BULK
        store.write(data)
        client.call("checkin", workspace=work)
        time.sleep(dice.choice([0.05, 0.2, 0.5, 0.8]))
        client = strike(device, client, "agent", dice, lambda: True)
        until(partial(gone_or_settled, client), 60)
        if client.call("list")["workspaces"]:  # it died before it had begun
            client.finish("checkin", workspace=work)
        assert not folder.exists()
        assert company.admin.find_workspace(user, "work")["device"] == ""
        client.finish("checkout", workspace=work)
        assert store.read(BULK) == data
        one_line(company, user)
    client.close()


def gone_or_settled(client: Client) -> bool:
    """It has left, or is here, whole, and nobody is about to change that."""
    busy = any(each["state"] in ("queued", "running") for each in client.call("jobs")["operations"])
    return not busy and all(each["custody"] == "checked-out" for each in client.call("list")["workspaces"])
