"""Runs of the matrix add up: what was run of the same code counts in the next run, and of other code does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.matrix import ledger as books
from tests.matrix.cells import FAILURES, NOT_COME, Cell, Outcome, Step
from tests.matrix.ledger import Ledger

STEPS = [Step("make the folder #1", 0), Step("vaultd: ask open #1", 1)]


def outcome(cell: Cell, result: str = "by itself", why: str = "") -> Outcome:
    return Outcome(*cell.names, result, why, 1.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "matrix.json"


def test_a_run_goes_on_where_the_last_one_was_stopped(path: Path) -> None:
    first = Ledger.opened(path)
    first.met("remove", STEPS)
    cells = first.left("remove")
    assert len(cells) == 2 * len(FAILURES)
    for cell in cells[:4]:
        first.add(outcome(cell))
    first.add(outcome(cells[4], "FAILED", "lost"))
    second = Ledger.opened(path)
    assert second.left("remove") == cells[5:]
    assert [row.why for row in second.failed] == ["lost"]
    assert second.share().startswith(f"36% of {len(cells)} cells of 1 operations ({len(cells) - 5} left")
    assert "| remove | 1 by itself" in path.with_suffix(".md").read_text()
    assert Ledger.opened(path, again=True).rows == {}


def test_what_other_code_did_counts_for_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Ledger.opened(path)
    first.met("remove", STEPS)
    first.add(outcome(first.left("remove")[0]))
    monkeypatch.setattr(books, "version", lambda: "another")
    fresh = Ledger.opened(path)
    assert (fresh.rows, fresh.steps) == ({}, {})


def test_the_version_is_that_of_the_files_whatever_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("src/twofold", "tests/matrix", "tests/harness"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(books, "TREE", tmp_path)
    file = tmp_path / "src" / "twofold" / "agent.py"
    versions = []
    for text in ("one", "two", "one"):
        file.write_text(text)
        versions.append(books.version())
    assert versions[0] == versions[2] != versions[1]


def test_a_step_that_did_not_come_is_tried_again_but_not_for_ever(path: Path) -> None:
    ledger = Ledger.opened(path)
    ledger.met("remove", STEPS[:1])
    cells = ledger.left("remove")
    for cell in cells:
        ledger.add(outcome(cell, "skipped", NOT_COME))
    assert Ledger.opened(path).left("remove") == cells
    for _ in range(2):
        ledger.add(outcome(cells[0], "skipped", NOT_COME))
    assert Ledger.opened(path).left("remove") == cells[1:]
    ledger.add(outcome(cells[1]))
    assert Ledger.opened(path).left("remove") == cells[2:]


def test_steps_that_come_in_some_runs_alone_are_kept(path: Path) -> None:
    ledger = Ledger.opened(path)
    ledger.met("remove", STEPS[:1])
    ledger.met("remove", STEPS[1:])
    assert ledger.steps["remove"] == STEPS


def test_a_broken_file_is_begun_anew(path: Path) -> None:
    Ledger.opened(path).met("remove", STEPS)
    path.write_text(path.read_text()[:-20])
    assert Ledger.opened(path).steps == {}
