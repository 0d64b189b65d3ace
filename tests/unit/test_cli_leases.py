"""`twofold lease …` and `twofold policy explain|set|list`, on the whole server in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.unit.company_kit import company
from tests.unit.server_kit import Backend
from tests.unit.test_server_client import Direct
from tests.unit.vault_kit import Device, device
from twofold.cli import leases, session
from twofold.cli.table import app

Run = Callable[..., Result]


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Device]:
    local = company(Backend(), tmp_path)
    made = device(local, tmp_path / "a", name="First")
    made.check_out()
    yield made
    local.database.close()


@pytest.fixture
def run(mine: Device, monkeypatch: pytest.MonkeyPatch) -> Run:
    @contextmanager
    def signed_in() -> Iterator[Direct]:
        yield Direct(mine.server)

    monkeypatch.setattr(session, "admin", signed_in)
    monkeypatch.setattr(leases, "admin", signed_in)

    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(app, list(words), catch_exceptions=True)
        assert done.exit_code == code or (code and done.exception), (done.output, done.exception)
        return done

    return go


def test_an_administrator_takes_a_workspace_back_and_restores_a_point(run: Run, mine: Device) -> None:
    first = mine.back_up()
    mine.back_up()
    assert "First" in run("lease", "list").output
    assert "checking-out" in run("lease", "show", "1").output
    points = run("lease", "points", "1").output
    assert first[:16] in points
    refused = run("lease", "break", "1", code=2)
    assert "Lost: what was done there since its last back up" in refused.output
    assert mine.heartbeat()["lost"] == [], "nothing was changed without a yes"
    assert "is free" in run("lease", "break", "1", "--why", "lost", "--yes").output
    assert mine.heartbeat()["lost"][0]["why"] == "broken"
    run("lease", "restore", "1", first[:7], "--yes", code=4)
    assert first[:16] in run("lease", "restore", "1", first[:12], "--yes").output
    mine.check_out()
    assert mine.content == first
    said = run("lease", "show", "1", "--output", "json").output
    shown = json.loads(said[said.index("{\n") :])  # the server in this process logs as well
    assert [row["how"] for row in shown["holders"]] == ["broken", ""]


def test_an_administrator_asks_and_withdraws(run: Run, mine: Device) -> None:
    assert "Request 1 is waiting." in run("lease", "ask", "1", "lock").output
    run("lease", "ask", "1", "wipe", code=2)
    run("lease", "ask", "1", "dance", code=11)
    run("lease", "withdraw", "1", "1")
    assert "withdrawn" in run("lease", "asked", "1").output
    assert "Request 2" in run("lease", "ask", "1", "wipe", "--yes").output
    assert len(mine.heartbeat()["commands"]) == 1


def test_a_policy_is_set_and_explained(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text('{"defer": true}')
    assert "reach 1 workspace." in run("policy", "set", "pool", str(file), "--name", "office").output
    rows = {line.split()[0]: line for line in run("policy", "explain", "1").output.splitlines()}
    assert rows["defer"].split() == ["defer", "yes", "pool", "office"]
    assert rows["usb"].split() == ["usb", "no", "default"]
    assert "defer=True" in run("policy", "list").output
    run("policy", "set", "global", str(file), "--name", "x", code=2)
    run("policy", "set", "pool", str(file), code=2)
    file.write_text('{"defer": 1}')
    run("policy", "set", "global", str(file), code=11)
