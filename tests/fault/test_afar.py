"""A lost device and a new one on a slow line: at work again before its disks are here; whatever is killed or cut meanwhile."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.test_moving import Vault
from tests.fault.test_roaming import broken, until
from tests.fault.test_supply import info, works
from tests.harness.company import COUNT_AT, SIZE, Company, Device
from tests.harness.relay import Relay
from twofold.agent.client import Client
from twofold.model.policy import Policy
from twofold.vault import nbd, process
from twofold.vault.afar import RECORD

pytestmark = pytest.mark.vm
MIB = 1 << 20
BODY = os.urandom(40 * MIB)


@pytest.fixture
def user(company: Company) -> str:
    name = company.user(f"far{os.urandom(3).hex()}")
    company.grant(name, "tiny", "work", "blue", Policy(keys_leave=True))
    return name


@pytest.fixture
def other(company: Company, user: str, tmp_path: Path, line: Relay) -> Iterator[Device]:
    """A second device of this user, on the slow line."""
    made = Device(tmp_path / "other")
    with made.start() as connected:
        connected.call("enrol", url=line.through(company.admin.invite_device(user)), name="desk")
    yield made
    line.mend()
    made.close()


@pytest.fixture
def lost(client: Client, work: str, user: str, company: Company, device: Device, other: Device, tmp_path: Path) -> None:
    """The first device had 40 MiB in its disk, which are backed up; then it went."""
    store = Vault(device, tmp_path / "r")
    vault = store.open()
    vault.resize("system", SIZE + len(BODY))
    vault.close()
    store.write(BODY[: 20 * MIB], SIZE)
    store.write(bytes(4096), COUNT_AT)
    store.write(BODY[20 * MIB :], SIZE + 20 * MIB)
    with other.client() as there:
        key = there.call("device")["key"]
    client.finish("backup", workspace=work, key=key, limit=60)
    client.close()
    device.kill()
    broken(company, user)


def test_a_new_device_is_at_work_before_its_disks_are_here(
    lost: None, other: Device, line: Relay, tmp_path: Path
) -> None:
    line.rate = 3 * MIB
    began = line.came
    with other.client() as client:
        client.finish("checkout", workspace="work", limit=60)
        client.finish("start", workspace="work", limit=60)
        works(client, other)
        assert line.came - began < len(BODY) // 2, "it counts on its disk, and most is still with the server"
        rest = info(client)["rest"]
        assert rest["here"] < rest["of"]
        assert rest["of"] > len(BODY)
        count = written(other)
    other.kill()
    with other.start() as client:
        works(client, other)
        vault = process.attach(other.dirs.workspace_runtime("work"))
        assert vault is not None
        os.kill(vault.pid, signal.SIGKILL)
        works(client, other, 60)
        line.cut()
        time.sleep(0.5)
        works(client, other)
        line.mend()
        line.rate = 0
        until(lambda: info(client)["rest"] is None, 60)
        assert not (other.dirs.workspace("work") / "vault" / RECORD).exists()
        works(client, other)
        assert written(other) > count > 0, "what it wrote meanwhile is there"
        client.finish("off", workspace="work")
        # From here on nobody is needed.
        line.cut()
        store = Vault(other, tmp_path / "r")
        for at in range(0, len(BODY), 20 * MIB):
            assert store.read(20 * MIB, SIZE + at) == BODY[at : at + 20 * MIB]
        client.finish("start", workspace="work")
        works(client, other)


def written(device: Device) -> int:
    """What the guest has counted to, as acknowledged."""
    vault = process.attach(device.dirs.workspace_runtime("work"))
    assert vault is not None
    with socket.socket(fileno=vault.call("connect", {"device": "system"})[1][0]) as stream:
        found = nbd.Client(stream, "system").read(COUNT_AT, 4)
    return int.from_bytes(found, "little")
