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


def until(what: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


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
    here("backup", "--for", there.json("disk", "key")["key"])
    client.close()
    device.kill()
    first.write(LATE, THERE)

    there("checkout", "work", code=6)  # A still has it
    broken(company, user)
    done = there.json("checkout", "work")["result"]
    assert done["epoch"] == 2
    assert done["received_back_up"] > len(DATA) // 2
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
