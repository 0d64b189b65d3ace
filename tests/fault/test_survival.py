"""Something is killed: the agent, QEMU, the vault's process. The machine goes on or its disks are safe, and the state is true."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.company import TREE, Company, Device
from tests.harness.long import long
from twofold.agent.client import Client
from twofold.model.errors import ConflictError, RefusedError, TwofoldError, UnreachableError
from twofold.vault import process

pytestmark = pytest.mark.vm


def info(client: Client, name: str = "work") -> dict[str, Any]:
    return client.call("info", workspace=name)


def until(client: Client, done: Callable[[dict[str, Any]], bool], seconds: float = 20) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while not done(now := info(client)):
        assert time.monotonic() < end, now
        time.sleep(0.05)
    return now


def vault_pid(device: Device) -> int:
    """The vault's process, by its own record in the workspace's runtime folder."""
    record = json.loads((device.dirs.workspace_runtime("work") / "vault.json").read_text())
    return int(record["pid"])


def recorded(device: Device) -> int | None:
    try:
        return vault_pid(device)
    except FileNotFoundError:
        return None


def disk_head(device: Device) -> str:
    """The state of the disks, which changes with each write of the guest."""
    vault = process.attach(device.dirs.workspace_runtime("work"))
    assert vault is not None
    return str(vault.call("head")[0]["head"])


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_the_whole_life_of_a_workspace(client: Client, work: str) -> None:
    assert info(client)["whereabouts"]["in_memory"] is False
    assert client.finish("start", workspace=work)["result"]["resumed"] is False
    now = info(client)
    assert (now["run"], now["whereabouts"]["in_memory"], now["memory_stored"]) == ("running", True, False)
    assert now["whereabouts"]["on_server_at"] == 0  # nothing is backed up yet, and nothing says so
    assert client.finish("start", workspace=work)["result"] == {"already": "running"}
    client.finish("pause", workspace=work)
    assert info(client)["run"] == "paused"
    client.finish("resume", workspace=work)
    client.finish("suspend", workspace=work)
    now = info(client)
    assert (now["run"], now["whereabouts"]["in_memory"], now["memory_stored"], now["pid"]) == (
        "suspended",
        False,
        True,
        0,
    )
    with pytest.raises(ConflictError, match="suspended"):
        client.finish("stop", workspace=work)
    assert client.finish("start", workspace=work)["result"]["resumed"] is True
    assert info(client)["memory_stored"] is False
    client.finish("off", workspace=work)
    assert info(client)["run"] == "off"
    assert client.finish("start", workspace=work)["result"]["resumed"] is False
    receipt = client.finish("remove", workspace=work, yes=True)["result"]["receipt"]
    assert receipt["key_destroyed"] is True
    assert client.call("list") == {"workspaces": []}


def test_two_starts_at_once_are_one(client: Client, work: str) -> None:
    first, second = client.call("start", workspace=work), client.call("start", workspace=work)
    assert first["operation"] == second["operation"]
    client.finish("start", workspace=work)
    assert info(client)["run"] == "running"


def test_a_killed_agent_is_followed_by_one_that_takes_the_machine_over(
    client: Client, work: str, device: Device
) -> None:
    client.finish("start", workspace=work)
    pid, vault = info(client)["pid"], vault_pid(device)
    device.kill()
    assert alive(pid) and alive(vault)
    with device.start() as again:
        now = info(again)
        assert (now["run"], now["pid"]) == ("running", pid)
        again.finish("suspend", workspace=work)
        assert not alive(pid) and not alive(vault)
        assert again.finish("start", workspace=work)["result"]["resumed"] is True


def test_an_agent_that_is_asked_to_end_leaves_machines_running_unless_told(
    client: Client, work: str, device: Device
) -> None:
    client.finish("start", workspace=work)
    pid = info(client)["pid"]
    assert device.process is not None
    device.process.send_signal(signal.SIGTERM)
    assert device.process.wait(20) == 0
    assert alive(pid)
    with device.start() as again:
        assert info(again)["pid"] == pid
        again.call("quit", suspend=True)
        assert device.process.wait(20) == 0
    assert not alive(pid)
    with device.start() as last:
        assert info(last)["run"] == "suspended"


def test_a_killed_machine_is_said_and_starts_again(client: Client, work: str, device: Device) -> None:
    client.finish("start", workspace=work)
    vault = vault_pid(device)
    os.kill(info(client)["pid"], signal.SIGKILL)
    now = until(client, lambda now: now["run"] == "off")
    assert "ended by itself" in now["error"]["happened"]
    assert "disks are safe" in now["error"]["safe"]
    assert not alive(vault)
    client.finish("start", workspace=work)
    assert info(client)["error"] is None


def test_a_killed_vault_is_started_anew_and_the_machine_goes_on(client: Client, work: str, device: Device) -> None:
    client.finish("start", workspace=work)
    pid = info(client)["pid"]
    for _ in range(3):
        vault = vault_pid(device)
        os.kill(vault, signal.SIGKILL)
        end = time.monotonic() + 20
        while not (fresh := recorded(device)) or fresh == vault:
            assert time.monotonic() < end
            time.sleep(0.05)
        head = disk_head(device)
        while disk_head(device) == head:  # the guest writes 18 times a second
            assert time.monotonic() < end
            time.sleep(0.1)
    now = info(client)
    assert (now["run"], now["pid"], now["error"]) == ("running", pid, None)
    client.finish("suspend", workspace=work)
    assert client.finish("start", workspace=work)["result"]["resumed"] is True


def test_a_killed_vault_that_does_not_open_again_stops_the_machine_and_is_said(
    client: Client, work: str, device: Device
) -> None:
    client.finish("start", workspace=work)
    pid = info(client)["pid"]
    first = device.dirs.state / "workspaces" / "work" / "vault" / "vault"
    kept = first.read_bytes()
    first.write_bytes(bytes(len(kept)))
    os.kill(vault_pid(device), signal.SIGKILL)
    now = until(client, lambda now: now["run"] == "off")
    assert "keeps the disks" in now["error"]["happened"]
    assert not alive(pid)
    first.write_bytes(kept)
    client.finish("start", workspace=work)
    assert info(client)["run"] == "running"


@pytest.mark.parametrize("victim", ["machine", "both", *long("vault")])
def test_what_was_killed_while_no_agent_looked_is_said_by_the_next(
    client: Client, work: str, device: Device, victim: str
) -> None:
    client.finish("start", workspace=work)
    pid, vault = info(client)["pid"], vault_pid(device)
    device.kill()
    for each in {"machine": [pid], "vault": [vault], "both": [pid, vault]}[victim]:
        os.kill(each, signal.SIGKILL)
    with device.start() as again:
        now = info(again)
        assert now["run"] == "off"
        assert now["error"]["safe"].startswith("Its disks are safe")
        assert not alive(pid) and not alive(vault)
        again.finish("start", workspace=work)
        assert info(again)["run"] == "running"


@pytest.mark.parametrize("delay", [0.05, 0.15, *long(0.0, 0.4)])
@pytest.mark.parametrize("verb", ["start", "suspend"])
def test_an_agent_killed_in_the_middle_leaves_a_state_that_the_next_makes_true(
    client: Client, work: str, device: Device, verb: str, delay: float
) -> None:
    """Memory is never lived twice: afterwards the workspace runs, or is suspended, or is off with its disks safe."""
    client.finish("start", workspace=work)
    if verb == "start":
        client.finish("suspend", workspace=work)
    threading.Timer(delay, device.kill).start()
    try:
        client.finish(verb, workspace=work, limit=20)
    except (UnreachableError, TwofoldError):
        pass  # killed in the middle, which is the point
    assert device.process is not None
    device.process.wait(20)
    with device.start() as again:
        now = info(again)
        assert now["run"] in ("running", "suspended", "off"), now
        assert now["memory_stored"] == (now["run"] == "suspended")
        if now["run"] == "off":
            assert now["error"] is not None
        if now["run"] == "running":
            again.finish("suspend", workspace=work)
        done = again.finish("start", workspace=work)["result"]
        assert done["resumed"] is (now["run"] != "off")


def test_a_checkout_killed_in_the_middle_is_undone_and_done_again(
    company: Company, user: str, client: Client, device: Device
) -> None:
    client.call("checkout", workspace="work")
    time.sleep(0.05)
    device.kill()
    with device.start() as again:
        left = again.call("list")["workspaces"]
        assert left == [] or left[0]["custody"] == "checked-out"
        again.finish("checkout", workspace="work")
        assert info(again)["error"] is None


def test_a_cancelled_checkout_leaves_nothing(client: Client, device: Device) -> None:
    operation = client.call("checkout", workspace="work")
    try:
        client.call("cancel", operation=operation["operation"])
    except ConflictError:
        pytest.fail("the check-out was done before it could be cancelled")
    assert client.call("job", operation=operation["operation"], wait=20)["state"] == "cancelled"
    assert client.call("list") == {"workspaces": []}
    assert list((device.dirs.state / "workspaces").iterdir()) == []
    client.finish("checkout", workspace="work")


def test_an_agent_with_a_running_workspace_stays_lean(client: Client, work: str, device: Device) -> None:
    """After a check-out, a start and a suspend: what it loaded for these stays, and still it is below its limit."""
    client.finish("start", workspace=work)
    client.finish("suspend", workspace=work)
    client.finish("start", workspace=work)
    time.sleep(1.5)
    assert device.process is not None
    with open(f"/proc/{device.process.pid}/status") as file:  # noqa: PTH123
        resident = next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))
    print(f"agent with a running workspace: {resident / 1024:.1f} MiB RSS")
    assert resident < 48 << 10


def test_a_grant_that_was_taken_back_locks_the_workspace_when_the_server_says_so(
    client: Client, company: Company, user: str, device: Device
) -> None:
    client.finish("checkout", workspace="work")
    client.finish("start", workspace="work")
    (grant,) = [
        each["grant"] for each in company.admin.list_grants() if (each["user"], each["workspace"]) == (user, "work")
    ]
    company.admin.remove_grant(grant)
    client.call("quit")
    assert device.process is not None
    device.process.wait(20)
    with device.start() as again:  # the first thing an agent does by the clock is to ask the server
        now = until(again, lambda now: now["run"] == "suspended", 40)
        assert "taken back" in now["error"]["happened"]
        assert "nothing was removed" in now["error"]["safe"]
        with pytest.raises(RefusedError, match="taken back"):
            again.finish("start", workspace="work")


def test_a_machine_that_was_started_and_not_yet_recorded_is_ended_by_the_next_agent(
    client: Client, work: str, device: Device
) -> None:
    """As though the agent had been killed between the two: without this an unknown QEMU would hold memory for ever."""
    client.finish("start", workspace=work)
    pid = info(client)["pid"]
    device.kill()
    (device.dirs.workspace_runtime("work") / "machine.json").unlink()
    with device.start() as again:
        assert info(again)["run"] == "off"
        end = time.monotonic() + 10
        while alive(pid) and time.monotonic() < end:
            time.sleep(0.05)
        assert not alive(pid)
        again.finish("start", workspace=work)


@pytest.fixture
def fatal(tmp_path: Path) -> dict[str, str]:
    """A copy of the program whose vault process first kills whoever starts it."""
    folder = tmp_path / "src" / "twofold"
    shutil.copytree(TREE / "src" / "twofold", folder, ignore=shutil.ignore_patterns("__pycache__"))
    real = folder / "bin" / "twofold-vaultd"
    real.rename(folder / "bin" / "real")
    script = f'#!/bin/sh\nkill -KILL $PPID\necho $$ >>{folder}/pids\nexec {folder}/bin/real "$@"\n'
    real.write_text(script)
    real.chmod(0o755)
    return {"PYTHONPATH": str(folder.parent)}


def ends(fatal: dict[str, str], device: Device) -> None:
    """The process that an agent started and did not live to talk to ends by itself."""
    assert device.process is not None
    assert device.process.wait(20) == -signal.SIGKILL
    pids = Path(fatal["PYTHONPATH"]) / "twofold" / "pids"
    end = time.monotonic() + 5
    while not pids.exists() or alive(int(pids.read_text().split()[-1])):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_store_whose_agent_died_as_it_started_is_no_hindrance(
    client: Client, work: str, device: Device, fatal: dict[str, str]
) -> None:
    client.call("quit")
    assert device.process is not None
    device.process.wait(20)
    with device.start(**fatal) as doomed, pytest.raises(UnreachableError):
        doomed.finish("start", workspace=work)
    ends(fatal, device)
    assert not (device.dirs.workspace_runtime("work") / "vault.json").exists()
    with device.start() as again:
        assert info(again)["run"] == "off"
        again.finish("start", workspace=work)


def test_a_store_that_was_opened_and_not_yet_recorded_is_ended_by_the_next_agent(
    client: Client, work: str, device: Device
) -> None:
    """As though the agent had been killed between the two: the vault's lock would be held for ever."""
    client.finish("start", workspace=work)
    vault, machine = vault_pid(device), info(client)["pid"]
    device.kill()
    os.kill(machine, signal.SIGKILL)
    (device.dirs.workspace_runtime("work") / "vault.json").unlink()
    with device.start() as again:
        assert not alive(vault)
        assert info(again)["run"] == "off"
        again.finish("start", workspace=work)


def test_a_checkout_whose_agent_died_as_it_filled_the_store_leaves_no_process(
    client: Client, user: str, device: Device, fatal: dict[str, str]
) -> None:
    client.call("quit")
    assert device.process is not None
    device.process.wait(20)
    with device.start(**fatal) as doomed, pytest.raises(UnreachableError):
        doomed.finish("checkout", workspace="work")
    ends(fatal, device)
    with device.start() as again:
        assert again.call("list") == {"workspaces": []}
        again.finish("checkout", workspace="work")


def test_a_workspace_that_lost_its_key_while_it_ran_can_be_removed(client: Client, work: str, device: Device) -> None:
    client.finish("start", workspace=work)
    pid, vault = info(client)["pid"], vault_pid(device)
    device.kill()
    (device.dirs.state / "workspaces" / "work" / "key.wrapped").unlink()
    with device.start() as again:
        assert info(again)["run"] == "broken"
        assert not alive(pid)
        again.finish("remove", workspace=work, yes=True)
        assert not alive(vault)
        assert again.call("list") == {"workspaces": []}
