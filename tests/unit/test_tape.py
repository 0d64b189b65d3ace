"""The recorder that power cuts and full disks of tests are made with: what was synced is there, what was not may be gone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.company import TREE
from tests.harness.tape import Cut, Tape

_WORK = """
import os, signal
def put(name, data, sync=True):
    fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(fd, data)
    if sync: os.fsync(fd)
    os.close(fd)
def folder(name="."):
    fd = os.open(name, os.O_RDONLY); os.fsync(fd); os.close(fd)
os.mkdir("made")
put("made/whole", b"a" * 5000)
put("before", b"now")
put("fresh", b"b" * 5000)
os.rename("fresh", "renamed")
folder("made"); folder()
put("made/unsynced", b"c" * 5000, sync=False)
put("unnamed", b"d" * 5000)
os.rename("renamed", "again")
os.unlink("removed")
fd = os.open("before", os.O_WRONLY); os.pwrite(fd, b"later", 0); os.ftruncate(fd, 5)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def tape(tmp_path: Path) -> Tape:
    folder = tmp_path / "disk"
    folder.mkdir()
    (folder / "before").write_bytes(b"was")
    (folder / "removed").write_bytes(b"still")
    return Tape(folder, tmp_path / "beside", TREE / "out" / "cache" / "tape")


def work(tape: Tape, code: str = _WORK) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", code]
    return subprocess.run(
        words, cwd=tape.below, env=dict(os.environ) | tape.environment, capture_output=True, text=True, check=False
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_not_synced_is_gone_and_what_was_is_there(tape: Tape) -> None:
    tape.begin()
    assert work(tape).returncode == -9
    live = contents(tape.below)
    assert live["before"] == b"later"
    assert "removed" not in live
    tape.cut(Cut.NOTHING, random.Random(1))
    assert contents(tape.below) == {
        "made/whole": b"a" * 5000, "before": b"now", "renamed": b"b" * 5000, "removed": b"still",
    }  # fmt: skip


@pytest.mark.parametrize("how", [Cut.SECTORS, Cut.PREFIX])
def test_whatever_else_is_there_what_was_promised_is(tape: Tape, how: Cut) -> None:
    seen = set()
    for seed in range(6):
        tape.begin()
        work(tape)
        tape.cut(how, random.Random(seed))
        found = contents(tape.below)
        assert found["made/whole"] == b"a" * 5000
        assert found.get("renamed", found.get("again")) == b"b" * 5000
        assert found["before"][:1] in b"nl"
        seen.add(repr(sorted(found.items())))
        for path in tape.below.iterdir():
            if path.is_file():
                path.unlink()
        work_again = tape.below / "made"
        for path in work_again.iterdir():
            path.unlink()
        work_again.rmdir()
        (tape.below / "before").write_bytes(b"was")
        (tape.below / "removed").write_bytes(b"still")
    assert len(seen) > 1, "it is the same each time"


def test_a_full_disk_takes_nothing_new_and_lets_go(tape: Tape) -> None:
    tape.fill()
    for code in ("open('new', 'w')", "import os; os.mkdir('new')", "open('before', 'ab').write(b'x' * 9000)"):
        assert "No space left" in work(tape, code).stderr, code
    code = "import os; os.unlink('removed'); f = open('before', 'r+b'); f.write(b'own'); f.close()"
    assert work(tape, code).returncode == 0
    tape.free()
    assert work(tape, "open('new', 'w')").returncode == 0
