"""`twofold server backup|restore|verify|collect` as programs, on a server's folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.unit.company_kit import company
from tests.unit.server_kit import Backend
from tests.unit.vault_kit import device
from twofold.platform.run import run


def twofold(*words: str | Path, code: int = 0) -> tuple[Any, str]:
    """Its JSON, and what it said beside."""
    environment = {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = run(
        [sys.executable, "-m", "twofold.cli", "server", *words, "--output", "json"], env=environment, check=False
    )
    assert done.returncode == code, done.stderr.decode()
    return (json.loads(done.stdout) if done.stdout else None), done.stderr.decode()


def test_the_commands_of_a_server(tmp_path: Path) -> None:
    local = company(Backend(), tmp_path)
    mine = device(local, tmp_path / "a")
    mine.check_out()
    mine.back_up()
    local.database.close()
    home = local.home.folder
    made, _ = twofold("backup", tmp_path / "backup", "--home", home)
    assert (made["objects"], made["copied"]) == (2, 2)
    assert twofold("verify", "--backup", tmp_path / "backup")[0]["lost"] == 0
    restored, _ = twofold("restore", tmp_path / "backup", "--home", tmp_path / "second")
    assert restored["pin"] == local.home.pin
    assert twofold("restore", tmp_path / "backup", "--home", tmp_path / "second", code=6)[0] is None
    assert twofold("collect", "--home", tmp_path / "second")[0]["files"] == 0
    next((tmp_path / "second" / "objects").glob("workspaces/1/1/*")).unlink()
    found, said = twofold("verify", "--home", tmp_path / "second", code=7)
    assert found["lost"] == 1
    assert "a file of 'ACME' of ada; generations that need it: 1 " in said
    assert "Everything else is as it was written." in said
