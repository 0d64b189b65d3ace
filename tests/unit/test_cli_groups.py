"""`twofold group …`, and grants to groups, on the whole server in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.unit.company_kit import company
from tests.unit.server_kit import Backend, Local
from tests.unit.test_server_client import Direct
from tests.unit.vault_kit import device
from twofold.cli import grants, groups, session, workspace
from twofold.cli.table import app

Run = Callable[..., Result]


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    made = company(Backend(), tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def run(local: Local, monkeypatch: pytest.MonkeyPatch) -> Run:
    @contextmanager
    def signed_in() -> Iterator[Direct]:
        yield Direct(local)

    for module in (session, grants, groups, workspace):
        monkeypatch.setattr(module, "admin", signed_in)

    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(app, list(words), catch_exceptions=True)
        assert done.exit_code == code or (code and done.exception), (done.output, done.exception)
        return done

    return go


def test_an_administrator_gives_a_group_a_workspace_and_takes_it_back(run: Run, local: Local, tmp_path: Path) -> None:
    assert "There is no group" in run("group", "list").output
    run("group", "create", "pilot")
    assert "bob is in pilot." in run("group", "join", "pilot", "ada", "bob").output
    rules = tmp_path / "rules.json"
    rules.write_text('{"usb": true}')
    made = run("grant", "add", "pilot", "office", "--group", "--channel", "testing", "--policy", str(rules)).output
    assert "Grant 2: members of pilot may check out work (Work) from office, 1 now." in made
    assert "1 have it by another grant:  twofold grant show 2" in made
    shown = run("grant", "show", "2").output
    assert "ada: grant 1 of their own comes first; bob: number 3" in shown
    assert "testing" in shown
    said = run("grant", "list", "-o", "json").output
    listed = json.loads(said[said.index("{\n") :])["grants"]  # the server in this process logs as well
    assert [(row["user"], row["group"], row["channel"]) for row in listed] == [
        ("ada", "", "stable"),
        ("", "pilot", "testing"),
    ]
    assert "group pilot" in " ".join(run("policy", "explain", "3").output.split())
    assert "rank 3" in run("grant", "change", "2", "--rank", "3").output
    assert "follows slow" in run("grant", "change", "2", "--channel", "slow").output
    rules.write_text('{"usb": false}')
    assert "reach 1 workspace." in run("policy", "set", "group", str(rules), "--name", "2").output
    assert "2 work from office, slow" in run("group", "show", "pilot").output
    upgraded = run("workspace", "upgrade", "work", "--group", "pilot", "--yes").output
    assert "work of bob (3): nobody has it" in upgraded
    assert "ada" not in upgraded
    bob = device(local, tmp_path / "b", "bob")
    bob.check_out()
    for words in (("group", "leave", "pilot", "bob"), ("group", "delete", "pilot"), ("grant", "remove", "2")):
        refused = run(*words, code=2)
        assert "Lost: " in refused.output
        assert len(bob.heartbeat()["leases"]) == 1, "nothing was changed without a yes"
    said = run("group", "delete", "pilot", "--yes").output
    assert "2 members to work" in said
    assert "1 workspaces are there by it, 1 of them on a device" in said
    assert bob.heartbeat()["leases"] == []
    run("group", "show", "pilot", code=4)
