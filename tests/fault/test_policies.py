"""Rules of a policy, each with a person who tries to get past it: edited files, killed agents, requests of no client of ours."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fault.test_roaming import until
from tests.harness.company import Company, Device
from twofold.agent.client import Client
from twofold.agent.store import KEY, LEASE
from twofold.model.canonical import canonical
from twofold.model.errors import RefusedError, TwofoldError, UsageError
from twofold.model.policy import Policy, Scope

CODE = "correct horse"


@pytest.fixture
def user(company: Company) -> str:
    """Somebody whose workspace opens with a code, is locked after two wrong ones and erased after four."""
    name = company.user(f"ruled{os.urandom(3).hex()}")
    company.grant(name, "tiny", "work", "blue", Policy(unlock=True, unlock_failures=2, erase_failures=4))
    return name


@pytest.fixture
def coded(client: Client, work: str) -> Client:
    """It has a code, and was shut since."""
    with pytest.raises(RefusedError, match="open with a code"):
        client.finish("start", workspace=work)
    assert client.call("unlock", workspace=work, code=CODE, new=True) == {"code": "open"}
    return client


def folder(device: Device) -> Path:
    return device.dirs.state / "workspaces" / "work"


def tries(device: Device) -> int:
    return int(json.loads((folder(device) / "state.json").read_bytes())["unlock_tries"])


@pytest.fixture
def fresh(coded: Client, device: Device) -> Iterator[Client]:
    """A new agent, which was not given the code."""
    coded.close()
    device.quit()
    with device.start() as client:
        yield client


def rule(company: Company, user: str, **rules: Any) -> int:
    """Add to the workspace's own rules; returns its number."""
    number = int(company.admin.find_workspace(user, "work")["number"])
    whole = Policy(unlock=True, unlock_failures=2, erase_failures=4).said() | rules
    company.admin.set_policy(Scope.WORKSPACE, str(number), whole)
    return number


@pytest.mark.timeout(120)
def test_only_the_code_opens_it(fresh: Client, work: str, device: Device, tmp_path: Path) -> None:
    for verb in ("start", "disk_info", "disk_check", "backup"):
        with pytest.raises(RefusedError, match="unlock code"):
            fresh.finish(verb, workspace=work)
    with pytest.raises(RefusedError, match="unlock code"):
        fresh.call("unlock", workspace=work, code="another one", new=True)
    with pytest.raises(RefusedError, match="not the unlock code"):
        fresh.call("unlock", workspace=work, code="correct hors")
    assert tries(device) == 1
    assert fresh.call("unlock", workspace=work, code=CODE) == {"code": "open"}
    assert tries(device) == 0
    fresh.finish("disk_check", workspace=work)
    with pytest.raises(UsageError, match="4 to 256"):
        fresh.call("unlock", workspace=work, code="abc", new=True)
    assert fresh.call("info", workspace=work)["code"] == "open"


@pytest.mark.timeout(200)
def test_wrong_codes_lock_it_then_erase_it(
    fresh: Client, work: str, device: Device, company: Company, user: str
) -> None:
    (device.home / "mine.txt").write_text("mine")
    for _ in range(2):
        with pytest.raises(RefusedError, match="not the unlock code"):
            fresh.call("unlock", workspace=work, code="wrong one")
    with pytest.raises(RefusedError, match="too many wrong unlock codes"):
        fresh.call("unlock", workspace=work, code=CODE)
    assert tries(device) == 2, "locked: not even tried"
    number = int(company.admin.find_workspace(user, "work")["number"])
    for left in (1, 0):
        company.admin.ask(number, "unlock")
        until(lambda: fresh.call("info", workspace=work)["shut"] == "code", 30)
        with pytest.raises(RefusedError, match="locked now" if left else "has been erased"):
            fresh.call("unlock", workspace=work, code="wrong one")
    until(lambda: not folder(device).exists(), 20)
    assert fresh.call("list")["workspaces"] == []
    assert (device.home / "mine.txt").read_text() == "mine"


@pytest.mark.timeout(120)
def test_an_agent_killed_in_the_middle_of_a_try_has_counted_it(fresh: Client, work: str, device: Device) -> None:
    """Whoever kills it just before it says no gets no more tries than others."""
    fresh.close()
    for number in (1, 2):
        with device.client() as other:
            asking = threading.Thread(target=_wrong, args=[other])
            asking.start()
            until(partial(_counted, device, number), 20, every=0.001)
            device.kill()
            asking.join()
        device.start().close()
    with device.client() as again, pytest.raises(RefusedError, match="too many wrong unlock codes"):
        again.call("unlock", workspace=work, code=CODE)
    assert (folder(device) / KEY).exists()


def _counted(device: Device, number: int) -> bool:
    return tries(device) == number


def _wrong(client: Client) -> None:
    with suppress(TwofoldError, OSError):
        client.call("unlock", workspace="work", code="wrong one")


@pytest.mark.timeout(200)
def test_a_locked_one_stays_locked_while_its_agent_was_away(
    coded: Client, work: str, device: Device, company: Company, user: str, tmp_path: Path
) -> None:
    """Below the company's minimum, too: what runs is put to sleep at the next word of the server."""
    coded.finish("start", workspace=work)
    rule(company, user, tpm=True)
    until(lambda: coded.call("info", workspace=work)["run"] == "suspended", 40)
    said = coded.call("info", workspace=work)
    assert said["shut"] == "assurance"
    assert "a key that is kept in a TPM" in said["error"]["happened"]
    with pytest.raises(RefusedError, match="may not run on this machine"):
        coded.finish("start", workspace=work)
    rule(company, user)
    until(lambda: coded.call("info", workspace=work)["shut"] == "code", 40)
    with pytest.raises(RefusedError, match="unlock code"):
        coded.finish("start", workspace=work)  # it slept: the code was forgotten
    coded.call("unlock", workspace=work, code=CODE)
    assert coded.finish("start", workspace=work)["result"]["resumed"]


@pytest.mark.timeout(200)
def test_an_edited_lease_is_no_lease(coded: Client, work: str, device: Device) -> None:
    """A longer lease, a kinder policy: what the server did not sign runs nothing."""
    coded.close()
    device.quit()
    path = folder(device) / LEASE
    text = path.read_text()
    document = json.loads(text)
    body = json.loads(base64.b64decode(document["payload"]))
    assert body["policy"]["unlock"] is True
    for change in ({"expires": body["expires"] + 86400 * 365}, {"policy": body["policy"] | {"unlock": False}}):
        edited = base64.b64encode(canonical(body | change)).decode()
        path.write_text(json.dumps(document | {"payload": edited}))
        with device.start() as client:
            assert client.call("info", workspace=work)["run"] == "broken"
            with pytest.raises(TwofoldError):
                client.finish("start", workspace=work)
        device.quit()
    path.write_text(text)
    with device.start() as client:
        assert client.call("info", workspace=work)["run"] == "off"


@pytest.mark.timeout(120)
def test_what_a_person_may_not_do_is_refused_here_and_there(
    coded: Client, work: str, device: Device, company: Company, user: str, tmp_path: Path
) -> None:
    """Backing up, putting off, giving back, discarding: asked of the agent past every client of ours."""
    rule(company, user, replicate=False, defer=False, checkin=False, discard=False)
    until(lambda: coded.call("info", workspace=work)["policy"]["discard"] is False, 40)
    for verb, args in (("backup", {}), ("discard", {"yes": True}), ("checkin", {})):
        with pytest.raises(RefusedError):
            coded.finish(verb, workspace=work, **args)
    with pytest.raises(RefusedError):
        coded.call("defer", workspace=work)
    assert folder(device).exists()
    assert company.admin.find_workspace(user, "work")["status"] == "checked-out"


@pytest.mark.timeout(120)
def test_turning_the_clock_back_and_editing_the_state_file_gain_no_time(
    coded: Client, work: str, device: Device, company: Company, user: str
) -> None:
    """The state file says that no time has passed; the lease that the server signed says until when."""
    now = int(time.time())
    rule(company, user, ends=now + 8)
    until(lambda: coded.call("info", workspace=work)["expires"] == now + 8, 40)
    device.kill()
    path = folder(device) / "state.json"
    said = json.loads(path.read_bytes())
    path.write_text(
        json.dumps(said | {"seen_at": 0, "contacted_at": now + 86400 * 400, "seen_boot": 0, "locked": False})
    )
    time.sleep(max(0, now + 9 - time.time()))
    with device.start() as client, pytest.raises(RefusedError, match="ended on"):
        client.finish("start", workspace=work)
