"""A device that was given the key of now is stolen and revoked: what the holder writes from then on it can't open, though it had
every file. Real devices, server and vaults."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fault.test_backup import rows
from tests.fault.test_moving import DATA, Vault, other, user
from tests.fault.test_roaming import until
from tests.fault.test_survival import disk_head, vault_pid
from tests.harness.company import Company, Device
from tests.harness.long import long
from twofold.agent.client import Client
from twofold.agent.store import KEY
from twofold.model.errors import TwofoldError
from twofold.vault import process
from twofold.vault.seam import Keys
from twofold.vault.store import SealedVault

__all__ = ["other", "user"]
pytestmark = [pytest.mark.timeout(180)]
LATER = b"what nobody else is to read" * 3000
THERE = (1 << 20) + (4 << 20)


def epoch(device: Device) -> int:
    return Keys("work", (device.dirs.state / "workspaces" / "work" / KEY).read_bytes()).epoch


class Thief:
    """Has the other device's keys, what the holder gave it, and a copy of every file."""

    def __init__(self, company: Company, client: Client, theirs: Device, folder: Path) -> None:
        self._folder, self._theirs = folder, theirs
        with theirs.client() as there:
            public = there.call("device")["key"]
        client.finish("disk_export", workspace="work", to=str(folder / "stick"), key=public, limit=60)
        (given,) = (folder / "stick").glob("keys-*.json")
        self.keys = Keys("work", given.read_bytes())

    def opens(self, store: Path) -> bool:
        copy = self._folder / "copy" / "work" / "vault"
        shutil.rmtree(copy.parent, ignore_errors=True)
        shutil.copytree(store, copy)
        (copy / "afar").unlink(missing_ok=True)
        vaults = SealedVault(self._theirs.dirs.state / "device", self._folder / "anchors")
        try:
            with vaults.resting(copy, self.keys, accept=True):
                return True
        except TwofoldError:
            return False


@pytest.fixture
def thief(company: Company, client: Client, work: str, other: Device, tmp_path: Path) -> Iterator[Thief]:
    yield Thief(company, client, other, tmp_path)


@pytest.fixture
def revoke(company: Company, user: str, other: Device) -> Callable[[], None]:
    def now() -> None:
        with other.client() as there:
            mine = there.call("device")["device"]
        company.admin.revoke_device(mine)

    return now


def store(device: Device) -> Path:
    return device.dirs.state / "workspaces" / "work" / "vault"


def test_what_is_written_after_a_revocation_opens_for_no_key_of_before(
    company: Company, client: Client, work: str, user: str, device: Device, thief: Thief, revoke: Callable[[], None],
    tmp_path: Path,
) -> None:  # fmt: skip
    mine = Vault(device, tmp_path / "r")
    mine.write(DATA)
    client.finish("backup", workspace=work, limit=60)
    assert thief.opens(store(device)), "it was given that key"
    revoke()
    until(lambda: epoch(device) == 2)
    mine.write(LATER, THERE)
    assert not thief.opens(store(device))
    newest = client.finish("backup", workspace=work, limit=60)["result"]
    assert newest["kind"] == "line"
    assert [row["epoch"] for row in rows(company, user)] == [2, 1]
    # The holder itself goes on, also elsewhere and from the server.
    assert mine.read(len(DATA)) == DATA and mine.read(len(LATER), THERE) == LATER
    client.finish("discard", workspace=work, yes=True, limit=60)
    client.finish("checkout", workspace=work, limit=60)
    assert epoch(device) == 3
    assert mine.read(len(LATER), THERE) == LATER


@pytest.mark.vm
def test_a_machine_that_runs_goes_on_under_the_new_key_and_so_does_its_next_agent(
    client: Client, work: str, device: Device, thief: Thief, revoke: Callable[[], None], tmp_path: Path
) -> None:
    client.finish("start", workspace=work)
    pid = vault_pid(device)

    def sealed_under() -> int:
        found = process.attach(device.dirs.workspace_runtime("work"))
        assert found is not None
        return int(found.call("status")[0]["vault"]["epoch"])

    revoke()
    until(lambda: sealed_under() == 2)
    assert (vault_pid(device), client.call("info", workspace=work)["run"]) == (pid, "running")
    # Killed after the key was on the disk, and before the store heard of it: that is begun once more.
    path = device.dirs.state / "workspaces" / "work" / "state.json"
    until(lambda: json.loads(path.read_bytes())["epoch"] == 2)
    client.close()
    device.kill()
    path.write_bytes(json.dumps(json.loads(path.read_bytes()) | {"epoch": 1}).encode())
    with device.start() as again:
        until(lambda: sealed_under() == 3)
        assert epoch(device) == 3
        again.finish("backup", workspace=work, limit=60)
        again.finish("off", workspace=work)
        assert not thief.opens(store(device))
        again.finish("start", workspace=work)
        assert sealed_under() == 3
        again.finish("off", workspace=work)


@pytest.mark.parametrize("when", ["while it is sent", *long("before it is sent")])
def test_a_back_up_that_was_under_way_is_not_lost(
    when: str,
    company: Company,
    client: Client,
    work: str,
    user: str,
    device: Device,
    revoke: Callable[[], None],
    tmp_path: Path,
) -> None:
    mine = Vault(device, tmp_path / "r")
    mine.write(DATA)
    if when == "while it is sent":
        with company.standing_still():
            job = client.call("backup", workspace=work)
        revoke()
    else:
        revoke()
        job = client.call("backup", workspace=work)
    done = list(client.follow(job, limit=60))[-1]
    assert done["state"] == "done", done
    until(lambda: epoch(device) == 2)
    mine.write(LATER, THERE)
    client.finish("backup", workspace=work, limit=60)
    assert rows(company, user)[0]["epoch"] == 2
    client.finish("discard", workspace=work, yes=True, limit=60)
    client.finish("checkout", workspace=work, limit=60)
    assert mine.read(len(DATA)) == DATA and mine.read(len(LATER), THERE) == LATER


@pytest.mark.vm
def test_under_an_unlock_code_it_begins_with_the_code(
    client: Client, work: str, device: Device, thief: Thief, revoke: Callable[[], None], tmp_path: Path
) -> None:
    code = "correct horse"
    client.call("unlock", workspace=work, code=code, new=True)
    path = device.dirs.state / "workspaces" / "work" / "state.json"
    revoke()
    lease = path.with_name("lease.json")
    before = lease.read_bytes()
    until(lambda: lease.read_bytes() != before)
    assert json.loads(path.read_bytes())["epoch"] == 1, "nobody can keep a new key without the code"
    client.finish("backup", workspace=work, limit=60)
    client.call("unlock", workspace=work, code=code)
    until(lambda: json.loads(path.read_bytes())["epoch"] == 2)
    client.finish("start", workspace=work)
    head = disk_head(device)
    until(lambda: disk_head(device) != head)
    client.finish("off", workspace=work)
    assert not thief.opens(store(device))
    client.call("unlock", workspace=work, code=code)
    client.finish("start", workspace=work)
    client.finish("off", workspace=work)
