"""What an administrator asks of a device is done at once while it is connected, and a receipt says what was done."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fault.test_moving import DATA, Vault
from tests.fault.test_roaming import until
from tests.harness.company import Company, Device
from twofold.agent.client import Client
from twofold.agent.store import KEY
from twofold.model.errors import RefusedError
from twofold.model.policy import Policy

DAY = 86400


def asked(company: Company, user: str, verb: str) -> dict[str, Any]:
    """Ask, wait for the receipt, and return the request with it."""
    number = company.admin.find_workspace(user, "work")["number"]
    command = company.admin.ask(number, verb)["command"]

    def now() -> dict[str, Any]:
        return next(row for row in company.admin.list_asked(number) if row["command"] == command)

    until(lambda: now()["receipt"] is not None, 60)
    return now()


def everything(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def user(company: Company) -> str:
    name = company.user(f"asked{os.urandom(3).hex()}")
    company.grant(name, "tiny", "work", "blue", Policy(erase_seconds=9 * DAY))
    company.grant(name, "direct", "direct", "teal")
    return name


@pytest.fixture
def heard(client: Client, work: str) -> Client:
    """Its agent has been in contact, and listens."""
    until(lambda: client.call("info", workspace=work)["custody"] == "checked-out", 20)
    return client


@pytest.mark.timeout(200)
def test_lock_and_unlock_come_at_once(heard: Client, work: str, user: str, company: Company) -> None:
    began = time.monotonic()
    done = asked(company, user, "lock")
    assert (done["state"], done["receipt"]["result"]) == ("done", "done")
    assert time.monotonic() - began < 60, "far below the five minutes between two heartbeats"
    with pytest.raises(RefusedError, match="locked"):
        heard.finish("start", workspace=work)
    assert "locked" in heard.call("info", workspace=work)["error"]["happened"]
    assert asked(company, user, "unlock")["state"] == "done"
    assert heard.call("info", workspace=work)["error"] is None


@pytest.mark.timeout(200)
def test_a_wipe_destroys_the_key_and_touches_nothing_of_the_persons(
    heard: Client, work: str, user: str, company: Company, device: Device, tmp_path: Path
) -> None:
    heard.finish("checkout", workspace="direct", limit=60)
    Vault(device, tmp_path / "r").write(DATA)
    mine = device.home / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_bytes(b"mine")
    state = device.dirs.state / "workspaces"
    kept = {name: everything(folder) for name, folder in (("mine", mine), ("direct", state / "direct" / "vault"))}
    done = asked(company, user, "wipe")
    assert done["state"] == "done"
    assert "Its key was destroyed" in done["receipt"]["detail"]
    assert not (state / "work").exists()
    assert not list(device.dirs.state.rglob("*.gone"))
    assert [each["workspace"] for each in heard.call("list")["workspaces"]] == ["direct"]
    (receipt,) = heard.call("receipts")["receipts"]
    assert (receipt["workspace"], receipt["verb"], receipt["company"], receipt["key_destroyed"]) == (
        work,
        "wipe",
        True,
        True,
    )
    assert kept == {
        name: everything(folder) for name, folder in (("mine", mine), ("direct", state / "direct" / "vault"))
    }
    assert (state / "direct" / KEY).exists()
    row = company.admin.find_workspace(user, "work")
    assert (row["status"], row["device"]) == ("checked-in", "")


@pytest.mark.timeout(200)
def test_backing_up_and_giving_back_are_done_on_request(
    heard: Client, work: str, user: str, company: Company, device: Device, tmp_path: Path
) -> None:
    store = Vault(device, tmp_path / "r")
    store.write(DATA)
    done = asked(company, user, "replicate")
    assert done["state"] == "done", done
    assert "(line)" in done["receipt"]["detail"]
    assert heard.call("info", workspace=work)["whereabouts"]["on_server_at"] > 0
    store.write(b"new" * 1000)
    assert asked(company, user, "replicate-discard")["state"] == "done"
    assert heard.call("list")["workspaces"] == []
    heard.finish("checkout", workspace=work)
    assert store.read(3000) == b"new" * 1000
    store.write(b"never sent")
    assert asked(company, user, "discard")["state"] == "done"
    assert heard.call("list")["workspaces"] == []
    heard.finish("checkout", workspace=work)
    assert store.read(3000) == b"new" * 1000


def later(device: Device, seconds: int) -> None:
    """As if so much time had been seen on this device's clock since the last contact."""
    path = device.dirs.state / "workspaces" / "work" / "state.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"seen_at": said["contacted_at"] + seconds}))


@pytest.mark.timeout(300)
def test_without_contact_it_warns_then_locks_then_erases(
    client: Client, work: str, user: str, company: Company, device: Device
) -> None:
    folder = device.dirs.state / "workspaces" / "work"
    device.quit()
    company.cut()
    try:
        for seconds in (6 * DAY + 7200, 7 * DAY - 1800):
            later(device, seconds)
            with device.start() as again:
                said = again.call("info", workspace=work)["warning"]
                assert said is not None
                assert "unless it reaches" in said["happened"]
            device.quit()
        later(device, 8 * DAY)
        with device.start() as again:
            assert again.call("info", workspace=work)["warning"] is None
            with pytest.raises(RefusedError, match="no contact"):
                again.finish("start", workspace=work)
            time.sleep(3)
            assert (folder / KEY).exists(), "locked, and nothing more"
        device.quit()
        later(device, 9 * DAY + 60)
        with device.start() as again:
            until(lambda: again.call("list")["workspaces"] == [], 40)
            assert not folder.exists()
    finally:
        company.mend()
