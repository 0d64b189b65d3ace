"""A disk that gets larger, on a real vault under a real machine, whatever dies meanwhile; and more wanted than is allowed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fault.test_cli_whole import Typed
from tests.fault.test_moving import DATA, Vault
from tests.fault.test_roaming import until
from tests.fault.test_survival import alive, info
from tests.harness.company import SIZE, Company, Device
from tests.harness.long import long
from twofold.agent.client import Client
from twofold.model.errors import RefusedError, TwofoldError, UsageError
from twofold.model.policy import Policy, Scope
from twofold.vault import process

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120)]
LARGER, MOST = 3 << 30, 4 << 30


@pytest.fixture
def user(company: Company) -> str:
    """Somebody whose disk may have 4 GiB."""
    name = company.user(f"grower{os.urandom(3).hex()}")
    company.grant(name, "tiny", "work", "blue", Policy(disk_gib=MOST >> 30))
    return name


def disk(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.finish("disk_info", workspace="work")["result"]
    return found


def size(client: Client) -> int:
    return int(disk(client)["devices"][0]["size"])


def resize(client: Client, wanted: int) -> dict[str, Any]:
    found: dict[str, Any] = client.finish("disk_resize", workspace="work", size=wanted)["result"]
    return found


def seen(device: Device) -> int:
    """The size that the machine's own disk has."""
    vault = process.attach(device.dirs.workspace_runtime("work"))
    assert vault is not None
    status, _ = vault.call("status")
    return int(status["vault"]["devices"][0]["size"])


def rule(company: Company, user: str, gib: int) -> None:
    number = company.admin.find_workspace(user, "work")["number"]
    company.admin.set_policy(Scope.WORKSPACE, str(number), Policy(disk_gib=gib).said())


def test_it_grows_at_once_or_at_the_next_boot_and_is_never_made_smaller(
    client: Client, work: str, device: Device, tmp_path: Path
) -> None:
    typed, store = Typed(device.home), Vault(device, tmp_path / "r")
    store.write(DATA)
    said = typed("disk", "resize", "work", "1G")
    assert "system disk of work has 1.1 GB now; it had 16.8 MB" in said and "Only the disk grows" in said
    assert size(client) == 1 << 30
    assert store.read(len(DATA)) == DATA and store.read(4096, (1 << 30) - 4096) == bytes(4096)
    client.finish("start", workspace=work)
    assert seen(device) == 1 << 30
    assert "when it is shut down and started again" in typed("disk", "resize", "work", "2G")
    assert (seen(device), disk(client)["grow_to"]) == (1 << 30, 2 << 30), "what runs goes on as it is"
    # Memory belongs to the disk that it was taken with.
    client.finish("suspend", workspace=work)
    assert resize(client, LARGER)["at"] == "next start"
    assert client.finish("start", workspace=work)["result"]["resumed"] is True
    assert (seen(device), disk(client)["grow_to"]) == (1 << 30, LARGER)
    client.finish("suspend", workspace=work)
    assert client.finish("start", workspace=work, boot=True)["result"]["resumed"] is False
    assert (seen(device), disk(client)["grow_to"]) == (LARGER, 0)
    client.finish("off", workspace=work)
    for smaller in (LARGER - 1 - (1 << 20), 1):
        with pytest.raises(RefusedError, match="never made smaller"):
            resize(client, smaller)
    assert resize(client, LARGER) == {"device": "system", "was": LARGER, "size": LARGER, "inside": False, "at": "now"}
    assert store.read(len(DATA)) == DATA


def test_what_was_asked_for_can_be_taken_back_before_it_is_done(client: Client, work: str) -> None:
    client.finish("start", workspace=work)
    resize(client, LARGER)
    resize(client, SIZE)
    assert disk(client)["grow_to"] == 0
    client.finish("off", workspace=work)
    client.finish("start", workspace=work)
    assert size(client) == SIZE


def test_no_more_than_the_company_lets_it_have(
    company: Company, client: Client, work: str, user: str, device: Device
) -> None:
    with pytest.raises(RefusedError, match="4 GiB at the most"):
        resize(client, MOST + 1)
    for off in (0, -1, 1 << 60):
        with pytest.raises(UsageError):
            resize(client, off)
    for text in ("12", "1.5G", "G", "9999999999G"):
        Typed(device.home)("disk", "resize", "work", text, code=2)
    client.finish("start", workspace=work)
    assert resize(client, MOST)["at"] == "next start"
    rule(company, user, 0)
    until(lambda: info(client)["policy"]["disk_gib"] == 0, 60)
    with pytest.raises(RefusedError, match="does not let the disk"):
        resize(client, LARGER)
    # What was asked for while it was allowed is not done when it is allowed no more.
    client.finish("off", workspace=work)
    client.finish("start", workspace=work)
    assert (size(client), disk(client)["grow_to"]) == (SIZE, 0)


def test_an_earlier_point_is_as_large_as_it_was_then(
    company: Company, client: Client, work: str, user: str, device: Device, tmp_path: Path
) -> None:
    store = Vault(device, tmp_path / "r")
    store.write(DATA)
    first = client.finish("backup", workspace=work)["result"]["id"]
    resize(client, LARGER)
    store.write(b"far" * 4096, LARGER - 65536)
    client.finish("checkin", workspace=work, limit=60)
    client.finish("checkout", workspace=work, limit=60)
    assert size(client) == LARGER, "a check-out goes on with the size of its back up"
    assert store.read(12288, LARGER - 65536) == b"far" * 4096
    client.finish("discard", workspace=work, yes=True, limit=60)
    row = company.admin.find_workspace(user, "work")
    company.admin.restore(row["number"], first, row["head"])
    client.finish("checkout", workspace=work, limit=60)
    assert size(client) == SIZE
    assert store.read(len(DATA)) == DATA
    client.finish("start", workspace=work)
    client.finish("off", workspace=work)
    resize(client, LARGER)
    assert store.read(12288, LARGER - 65536) == bytes(12288), "nothing of what lay there comes back"


@pytest.mark.parametrize("pause", [0.0, 0.06, *long(*(step / 50 for step in range(1, 20)))])
def test_an_agent_that_is_killed_leaves_the_old_size_or_the_new(
    pause: float, client: Client, work: str, device: Device, tmp_path: Path
) -> None:
    store = Vault(device, tmp_path / "r")
    store.write(DATA)

    def ask() -> None:
        try:
            client.call("disk_resize", workspace=work, size=LARGER)
        except TwofoldError:
            pass  # it died before it answered

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(pause)
    device.kill()
    asking.join()
    with device.start() as again:
        found = disk(again)
        assert found["devices"][0]["size"] in (SIZE, LARGER)
        wanted = LARGER if found["grow_to"] else found["devices"][0]["size"]
        again.finish("start", workspace=work)
        assert (seen(device), disk(again)["grow_to"]) == (wanted, 0)
        again.finish("off", workspace=work)
        assert store.read(len(DATA)) == DATA


def test_a_store_whose_process_dies_as_its_machine_runs_keeps_what_is_wanted(
    client: Client, work: str, device: Device
) -> None:
    client.finish("start", workspace=work)
    resize(client, LARGER)
    vault = process.attach(device.dirs.workspace_runtime("work"))
    assert vault is not None
    os.kill(vault.pid, signal.SIGKILL)
    until(lambda: not alive(vault.pid), 10)
    until(
        lambda: (fresh := process.attach(device.dirs.workspace_runtime("work"))) is not None and fresh.pid != vault.pid,
        20,
    )
    assert seen(device) == SIZE
    client.finish("off", workspace=work)
    client.finish("start", workspace=work)
    assert seen(device) == LARGER
