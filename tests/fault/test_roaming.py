"""Two devices of one person and one server: work on A, lose A, carry on at B, A comes late. Real vaults, no machine."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fault.test_backup import rows
from tests.fault.test_cli_whole import Typed
from tests.fault.test_moving import AT, DATA, Vault, other, user
from tests.harness.company import Company, Device
from twofold.agent.client import Client
from twofold.agent.store import KEY
from twofold.model.errors import TwofoldError
from twofold.vault.seam import Keys
from twofold.vault.store import SealedVault

__all__ = ["other", "user"]
LATE = b"what the first one wrote too late" * 1000
NEW = b"what the second one wrote" * 40_000
THERE = AT + (4 << 20)


def until(what: Callable[[], bool], seconds: float = 20, every: float = 0.05) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(every)


def broken(company: Company, user: str) -> None:
    """The administrator is told what that loses, agrees, and takes the lease away."""
    number = company.admin.find_workspace(user, "work")["number"]
    company.admin.break_lease(number, company.admin.loss(number)["loss"], "lost on a train")


@pytest.mark.timeout(240)
def test_a_lost_device_a_second_one_and_a_late_first_one(
    company: Company, client: Client, work: str, user: str, device: Device, other: Device, tmp_path: Path
) -> None:
    here, there = Typed(device.home), Typed(other.home)
    first, second = Vault(device, tmp_path / "r"), Vault(other, tmp_path / "r")
    first.write(DATA)
    key = there.json("disk", "key")["key"]
    assert key in {row["wrap_public"] for row in company.admin.list_devices()}, (
        "an administrator may read it out as well"
    )
    here("backup", "--for", key)
    client.close()
    device.kill()
    first.write(LATE, THERE)

    there("checkout", "work", code=6)  # A still has it
    broken(company, user)
    done = there.json("checkout", "work")["result"]
    assert done["epoch"] == 2
    assert done["back_up"] > len(DATA) // 2
    assert second.read(len(DATA)) == DATA
    assert second.read(len(LATE), THERE) == bytes(len(LATE)), "it had not been backed up"
    second.write(NEW, THERE)
    after = there.json("backup")["result"]
    assert (after["kind"], after["sent_bytes"] < after["bytes"]) == ("line", True)

    with device.start() as again:
        until(lambda: again.call("info", workspace=work)["error"] is not None)
        said = again.call("info", workspace=work)["error"]
        assert "another device" in said["happened"] or "taken" in said["happened"]
        with pytest.raises(TwofoldError, match="taken"):
            again.finish("start", workspace=work)
        late = again.finish("backup", workspace=work)["result"]
        assert late["kind"] == "branch"
        assert "kept beside it" in again.call("info", workspace=work)["error"]["happened"]
    kinds = {row["id"]: (row["kind"], row["device_name"]) for row in rows(company, user)}
    assert kinds[late["id"]] == ("branch", "laptop")
    assert kinds[after["id"]] == ("line", "desk")
    assert company.admin.find_workspace(user, "work")["head"] == after["id"], "the line is B's alone"
    assert second.read(len(NEW), THERE) == NEW

    # A has all that the server has and all that lies on B's disk, and its own keys.
    number = company.admin.find_workspace(user, "work")["number"]
    served = json.dumps(company.admin.keys(number)).encode()
    stolen = tmp_path / "stolen" / "work"
    shutil.copytree(other.dirs.state / "workspaces" / "work", stolen)
    theirs = SealedVault(other.dirs.state / "device", tmp_path / "theirs")
    with theirs.resting(stolen / "vault", Keys("work", (second.folder / KEY).read_bytes()), accept=True) as opened:
        assert opened.status()["vault"]["epoch"] == 2
    vaults = SealedVault(device.dirs.state / "device", tmp_path / "anchors")
    for keys in ((first.folder / KEY).read_bytes(), (second.folder / KEY).read_bytes(), served):
        with pytest.raises(TwofoldError), vaults.resting(stolen / "vault", Keys("work", keys), accept=True):
            pytest.fail("a former holder's key opened what was written after it")


@pytest.mark.timeout(240)
def test_a_check_in_leaves_nothing_here_and_all_on_the_server(
    company: Company, client: Client, work: str, user: str, device: Device, other: Device, tmp_path: Path
) -> None:
    here, there = Typed(device.home), Typed(other.home)
    store, personal = Vault(device, tmp_path / "r"), device.home / "mine.txt"
    personal.write_bytes(b"mine")
    store.write(DATA)
    here("backup", "--for", there.json("disk", "key")["key"])
    store.write(NEW, THERE)
    said = here.json("checkin")["result"]
    assert said["receipt"]["key_destroyed"] is True
    assert said["receipt"]["sealed_bytes_removed"] > len(NEW) // 2
    assert not (device.dirs.state / "workspaces" / "work").exists()
    assert not (device.dirs.state / "anchors" / "work").exists()
    assert personal.read_bytes() == b"mine"
    assert client.call("list")["workspaces"] == []
    row = company.admin.find_workspace(user, "work")
    assert (row["status"], row["device"], row["head"]) == ("checked-in", "", said["id"])
    # The laptop is given up for good: what it backed up is believed all the same.
    company.admin.revoke_device(here.json("disk", "key")["device"])
    there("checkout", "work")
    after = Vault(other, tmp_path / "r")
    assert (after.read(len(DATA)), after.read(len(NEW), THERE)) == (DATA, NEW)


@pytest.mark.timeout(240)
def test_a_device_that_was_given_no_key_is_told_what_to_do(
    company: Company, client: Client, work: str, user: str, device: Device, other: Device, tmp_path: Path
) -> None:
    here, there = Typed(device.home), Typed(other.home)
    Vault(device, tmp_path / "r").write(DATA)
    here("checkin")
    there("checkout", "work", code=5)
    assert "backup --for" in there.err
    assert company.admin.find_workspace(user, "work")["device"] == "", "the lease was given back"
    assert not (other.dirs.state / "workspaces" / "work").exists()
    here("checkout", "work")
    here("backup", "--for", there.json("disk", "key")["key"])
    here("checkin")
    there("checkout", "work")
    assert Vault(other, tmp_path / "r").read(len(DATA)) == DATA


@pytest.mark.timeout(240)
def test_discarding_says_what_is_lost_and_goes_back_to_the_back_up(
    company: Company, client: Client, work: str, user: str, device: Device, tmp_path: Path
) -> None:
    here, store = Typed(device.home), Vault(device, tmp_path / "r")
    here("discard", "work", code=2)
    assert "never backed up" in here.err
    store.write(DATA)
    here("backup")
    here("discard", "work", code=2)
    assert "nothing: all of it is on the server" in here.err
    store.write(NEW, THERE)
    here("discard", "work", code=2)
    assert "written since it was backed up" in here.err
    assert store.read(len(NEW), THERE) == NEW, "nothing was changed so far"
    here("discard", "work", "--yes")
    assert client.call("list")["workspaces"] == []
    assert company.admin.find_workspace(user, "work")["status"] == "checked-in"
    here("checkout", "work")
    assert store.read(len(DATA)) == DATA
    assert store.read(len(NEW), THERE) == bytes(len(NEW))
    store.write(NEW, THERE)
    here("discard", "work", "--backup")
    here("checkout", "work")
    assert store.read(len(NEW), THERE) == NEW
    assert [row["kind"] for row in here.json("backups")["backups"]] == ["line", "line"]


@pytest.mark.timeout(240)
def test_a_back_up_goes_on_on_the_image_version_that_it_stands_on(company: Company, client: Client, user: str) -> None:
    company.publish("roam")
    company.grant(user, "roam", "second", "vermilion")
    client.finish("checkout", workspace="second", limit=60)
    client.finish("backup", workspace="second")
    company.publish("roam")
    client.finish("discard", workspace="second", yes=True)
    assert client.call("available")["grants"][-1]["version"] == 2, "who begins anew gets the newest"
    client.finish("checkout", workspace="second", limit=60)
    assert client.call("info", workspace="second")["version"] == 1
    until(lambda: client.call("info", workspace="second")["rest"] is None)
    found = client.finish("disk_check", workspace="second", data=True)["result"]
    assert [each["lost"]["bytes"] for each in found["devices"]] == [0]
