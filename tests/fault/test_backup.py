"""Backing up to a real server, through a real vault; no machine runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.fault.test_cli_whole import Typed
from tests.fault.test_moving import AT, DATA, Vault
from tests.harness.company import COUNT_AT, Company, Device
from twofold.agent.client import Client


def rows(company: Company, user: str) -> list[dict[str, Any]]:
    """The line and the branches as the administrator sees them, newest first."""
    (found,) = [row for row in company.admin.list_workspaces() if (row["user"], row["workspace"]) == (user, "work")]
    listed: list[dict[str, Any]] = company.admin.list_generations(found["number"])
    return listed


def test_a_back_up_sends_what_is_new_and_is_seen_on_the_server(
    company: Company, client: Client, work: str, user: str, device: Device, tmp_path: Path
) -> None:
    typed, store = Typed(device.home), Vault(device, tmp_path / "r")
    assert client.call("info", workspace=work)["whereabouts"]["on_server_at"] == 0
    store.write(DATA)
    first = typed.json("backup")["result"]
    assert first["kind"] == "line"
    assert first["sent_files"] == first["files"]
    assert first["sent_bytes"] == first["bytes"] > len(DATA) // 2
    assert client.call("info", workspace=work)["whereabouts"]["on_server_at"] == first["time"]
    store.write(b"more" * 1024, AT + (4 << 20))
    second = typed.json("backup")["result"]
    assert second["sent_bytes"] < 200_000 < second["bytes"]
    there = rows(company, user)
    assert [(row["id"], row["parent"], row["kind"]) for row in there] == [
        (second["id"], first["id"], "line"), (first["id"], "", "line"),
    ]  # fmt: skip
    said = typed("backup")
    assert "is on the server" in said
    assert len(rows(company, user)) == 3
    vault = store.open()
    assert len([each for each in vault.generations() if each.note == "backup"]) <= 2, "older ones are let go"
    vault.close()
    assert store.read(len(DATA)) == DATA


@pytest.mark.vm
def test_a_machine_that_runs_is_backed_up_and_goes_on(
    client: Client, work: str, device: Device, tmp_path: Path
) -> None:
    store = Vault(device, tmp_path / "r")
    client.finish("start", workspace=work)
    time.sleep(2)  # it counts, and writes the count, 18 times a second
    first = client.finish("backup", workspace=work)["result"]
    assert (first["kind"], first["frozen"]) == ("line", False)  # it has no agent of ours inside
    time.sleep(2)
    again = client.finish("backup", workspace=work)["result"]
    assert again["generation"] > first["generation"]
    assert again["sent_bytes"] < 2 << 20
    assert client.call("info", workspace=work)["run"] == "running"
    client.finish("discard", workspace=work, yes=True)
    client.finish("checkout", workspace=work)
    count = int.from_bytes(store.read(4, COUNT_AT), "little")
    assert count > 18, "what was on its disk at the last back up"


@pytest.mark.timeout(120)
def test_a_paused_back_up_outlives_its_agent_and_goes_on_under_its_id(
    company: Company, client: Client, work: str, user: str, device: Device, tmp_path: Path
) -> None:
    Vault(device, tmp_path / "r").write(DATA)
    with company.standing_still():
        job = client.call("backup", workspace=work)["operation"]
        time.sleep(0.3)
        assert client.call("job_pause", operation=job)["state"] == "paused"
    time.sleep(1)
    assert not rows(company, user), "nothing was committed meanwhile"
    client.close()
    device.kill()
    with device.start() as again:
        found = again.call("job", operation=job)
        assert (found["state"], found["verb"], found["place"]) == ("paused", "backup", 0)
        time.sleep(1)
        assert not rows(company, user)
        again.call("job_resume", operation=job)
        assert list(again.follow(again.call("job", operation=job), limit=60))[-1]["state"] == "done"
    assert len(rows(company, user)) == 1
