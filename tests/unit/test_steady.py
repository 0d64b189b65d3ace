"""`tools/steady`: a second try for few, a list of who needed it, and none for what fails twice."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from twofold.platform.run import run

ROOT = Path(__file__).resolve().parents[2]
ONCE = """
import pathlib, pytest
@pytest.mark.parametrize("number", range({count}))
def test_it(number):
    mark = pathlib.Path(__file__).with_name(f"mark-{{number}}")
    seen = mark.exists()
    mark.touch()
    assert seen and not {always}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "steady", tmp_path / "tools")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "out").mkdir()
    return tmp_path


def steady(tree: Path, count: int, *, always: bool = False) -> tuple[int, str]:
    (tree / "test_once.py").write_text(ONCE.format(count=count, always=always))
    # By the real interpreter's own folder: a link alone would not find its packages.
    packages = str(Path(pytest.__file__).parents[1])
    done = run([str(tree / "tools" / "steady"), "t", "-q", "test_once.py"], check=False,
               env=dict(os.environ) | {"PYTHONPATH": packages})  # fmt: skip
    return done.returncode, done.stdout.decode()


def test_a_test_that_passes_the_second_time_is_named(tree: Path) -> None:
    code, said = steady(tree, 3)
    assert code == 0
    assert "3 failed" in said and "3 passed" in said, "the first failure stays to be read"
    assert (tree / "out" / "unsteady.txt").read_text().count("test_once.py::test_it") == 3


@pytest.mark.parametrize(("count", "always"), [(4, False), (1, True)])
def test_too_many_or_twice_is_a_failure(tree: Path, count: int, always: bool) -> None:
    code, _ = steady(tree, count, always=always)
    assert code == 1
    assert not (tree / "out" / "unsteady.txt").exists()
