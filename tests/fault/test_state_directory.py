"""`docs/state-directory.md` against a real state folder after a check-out and a start: no more, no less, no wider mode."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.harness.company import Company, Device
from twofold.agent.client import Client
from twofold.model.policy import Policy

pytestmark = pytest.mark.vm

_DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "state-directory.md"
_SECTIONS = {"State": "state", "Cache": "cache", "Runtime": "runtime"}


def documented() -> dict[str, dict[str, int]]:
    """Patterns and modes by section. `NAME`, `KEY`, `HASH`, `ID`, `ARCH` stand for anything without a slash."""
    found: dict[str, dict[str, int]] = {name: {} for name in _SECTIONS.values()}
    section = ""
    for line in _DOCUMENT.read_text().splitlines():
        if line.startswith("## "):
            section = _SECTIONS.get(line[3:].split(":")[0], "")
        cells = line.split("|")
        if section and len(cells) > 5 and "`" in cells[1]:
            names = re.findall(r"`([^`]+)`", cells[1])
            base = names[0].rpartition("/")[0]
            for name in names:
                if name.startswith("."):
                    continue  # `agent.log.1` to `.3`
                path = name if "/" in name or not base else f"{base}/{name}"
                path = re.sub(r"\b(NAME|KEY|HASH|ID|ARCH|ab)\b", "*", path)
                found[section][path] = int(cells[4].strip() or "0", 8)
    return found


@pytest.fixture
def user(company: Company) -> str:
    """Somebody whose workspace has everything that makes files, a network too."""
    name = company.user("everything")
    company.grant(name, "tiny", "work", "blue", Policy(network="all"))
    return name


def test_every_file_is_documented_with_its_mode_and_each_documented_one_is_there(
    client: Client, work: str, device: Device
) -> None:
    client.finish("backup", workspace=work)
    client.finish("start", workspace=work)
    table = documented()
    seen: set[str] = set()
    for section in _SECTIONS.values():
        root = getattr(device.dirs, section)
        for path in root.rglob("*"):
            name = str(path.relative_to(root))
            whole = [each for each in table[section] if each.endswith("/") and fnmatch(name, f"{each}*")]
            exact = [
                each
                for each in table[section]
                if fnmatch(name, each.rstrip("/")) and name.count("/") == each.rstrip("/").count("/")
            ]
            inside = [
                each for each in table[section] if fnmatch(each, f"{name}/*") or fnmatch(each.split("/")[0], name)
            ]
            assert exact or [each for each in whole if each != "workspaces/*/"] or path.is_dir(), (
                f"{section}: {name} is not documented"
            )
            mode = path.lstat().st_mode & 0o777
            for each in exact:
                seen.add(f"{section} {each}")
                assert mode & ~table[section][each] == 0, f"{section}: {name} has mode {mode:o}"
            assert path.is_dir() or exact or whole, name
            del inside
    optional = {"state agent.log.1", "state receipts.json", "state publisher/", "state seats/",
                "state workspaces/*/parts/kernel.sealed",
                "state workspaces/*/parts/initrd.sealed", "state workspaces/*/next/",
                    "state workspaces/*/former/", "cache builds/*/",
                "runtime */agent-channel.sock"}  # fmt: skip
    missing = {f"{section} {each}" for section, names in table.items() for each in names} - seen - optional
    assert not missing
