"""What was run of the matrix, over all runs of one version of the code: `out/matrix.json`, and `out/matrix.md` as a table."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from tests.harness.company import TREE
from tests.matrix.cells import FAILURES, NOT_COME, Cell, Outcome, Step, cells
from tests.matrix.growing import DEEDS

PATH = TREE / "out" / "matrix.json"
_CODE = ("src/twofold", "tests/matrix", "tests/harness")  # what a cell runs
_RESULTS = ("by itself", "asked again", "skipped", "FAILED")
_TRIES = 3  # of a cell whose step did not come


class Ledger:
    """`steps` of each operation that was done once undisturbed, `rows` by the cell. It is on the disk after each change."""

    def __init__(self, path: Path, version: str, commit: str) -> None:
        self.path, self.version, self.commit = path, version, commit
        self.steps: dict[str, list[Step]] = {}
        self.rows: dict[str, Outcome] = {}

    @classmethod
    def opened(cls, path: Path = PATH, *, again: bool = False) -> Self:
        """What was run of this very code; of another nothing counts."""
        ledger = cls(path, version(), commit())
        kept = {} if again else _kept(path)
        if kept.get("version") == ledger.version:
            ledger.steps = {deed: [Step(**step) for step in steps] for deed, steps in kept["steps"].items()}
            ledger.rows = {row.key: row for row in (Outcome(**row) for row in kept["rows"])}
        return ledger

    def met(self, deed: str, steps: Sequence[Step]) -> None:
        """What it goes through; steps that come in some runs alone are kept."""
        known = {step.name: step for step in self.steps.get(deed, [])}
        self.steps[deed] = list((known | {step.name: step for step in steps}).values())
        self.write()

    def add(self, outcome: Outcome) -> None:
        before = self.rows.get(outcome.key)
        self.rows[outcome.key] = dataclasses.replace(outcome, tries=before.tries + 1 if before else 1)
        self.write()

    def all(self, deed: str) -> list[Cell]:
        return cells(deed, self.steps.get(deed, []))

    def left(self, deed: str) -> list[Cell]:
        """Those never run; then those whose step did not come, which get another chance."""
        fresh = [cell for cell in self.all(deed) if cell.key not in self.rows]
        missed = (cell for cell in self.all(deed) if cell.key in self.rows)
        return fresh + [cell for cell in missed if (row := self.rows[cell.key]).why == NOT_COME and row.tries < _TRIES]

    @property
    def failed(self) -> list[Outcome]:
        return [row for row in self.rows.values() if row.result == "FAILED"]

    def share(self) -> str:
        """In one line: how much of all was run. Of an operation never begun the steps are not known yet."""
        total = sum(len(self.all(deed)) for deed in self.steps)
        counted = Counter(row.result for row in self.rows.values())
        told = ", ".join(f"{number} {result}" for result, number in sorted(counted.items()))
        left, unknown = total - len(self.rows), len(DEEDS) - len(self.steps)
        more = f"; {unknown} operations not begun" if unknown else ""
        share = f"{len(self.rows) / total:.0%}" if total else "nothing"
        return f"{share} of {total} cells of {len(self.steps)} operations ({left} left{more}): {told}"

    def table(self) -> str:
        """Operations by failures: cells that ended by themselves, when asked again, not; those skipped, with the reasons."""
        names = [failure.name for failure in FAILURES]
        lines = ["| operation | " + " | ".join(names) + " | left |", "|---" * (len(names) + 2) + "|"]
        for deed in self.steps:
            counts = [
                Counter(row.result for row in self.rows.values() if (row.deed, row.failure) == (deed, name))
                for name in names
            ]
            told = [
                ", ".join(f"{number} {result}" for result, number in sorted(each.items())) or "-" for each in counts
            ]
            lines.append(f"| {deed} | " + " | ".join(told) + f" | {len(self.left(deed))} |")
        why = Counter(row.why for row in self.rows.values() if row.result == "skipped")
        lines += ["", *(f"- skipped, {number}: {reason}" for reason, number in why.items())]
        lines += [f"- FAILED: {row.key}: {row.why}" for row in self.failed]
        return "\n".join([*lines, ""])

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = {
            "version": self.version, "commit": self.commit, "share": self.share(),
            "counted": Counter(row.result for row in self.rows.values()),
            "steps": {deed: [dataclasses.asdict(step) for step in steps] for deed, steps in self.steps.items()},
            "rows": [dataclasses.asdict(row) for row in self.rows.values()],
        }  # fmt: skip
        for path, text in ((self.path, json.dumps(whole)), (self.path.with_suffix(".md"), self.table())):
            fresh = path.with_name(f"{path.name}.new")
            fresh.write_text(text)
            fresh.replace(path)


def _kept(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def version() -> str:
    """The digest of the code that a cell runs, whatever of it is committed."""
    told = hashlib.sha256()
    for path in _files():
        told.update(f"{path.relative_to(TREE)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return told.hexdigest()[:16]


def _files() -> Iterator[Path]:
    for folder in _CODE:
        yield from sorted(path for path in (TREE / folder).rglob("*") if path.is_file() and path.suffix != ".pyc")


def commit() -> str:
    """As git names it."""
    words = ["git", "-c", "safe.directory=*", "rev-parse", "HEAD"]
    done = subprocess.run(words, cwd=TREE, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "none"


def drawn(seed: str, key: str) -> str:
    """An order that is another one for each seed."""
    return hashlib.sha256(f"{seed} {key}".encode()).hexdigest()
