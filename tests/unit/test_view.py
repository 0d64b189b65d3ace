"""docs/view.md and the tests that it names are the same."""

from __future__ import annotations

import ast
import re

from tests.harness.company import TREE

ROWS = ("tests/matrix/test_view_semantics.py", "tests/matrix/test_view_policies.py")


def functions() -> dict[str, str]:
    """The tests of rows, with their docstrings."""
    trees = (ast.parse((TREE / path).read_text()) for path in ROWS)
    found = (
        node
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )
    return {node.name: ast.get_docstring(node) or "" for node in found}


def test_each_row_names_a_test_that_exists_and_each_test_has_its_row() -> None:
    page, there = (TREE / "docs" / "view.md").read_text(), functions()
    named = re.findall(r"`(test_\w+)`", page)
    assert sorted(named) == sorted(there)
    for path in re.findall(r"`(tests/[\w/]+\.py)`", page):
        assert (TREE / path).is_file(), path
    rows = [line for line in page.splitlines() if line.startswith("|") and not line.startswith(("|---", "| View |"))]
    assert all(("`test" in row) != ("not built" in row) for row in rows)


def test_each_says_whether_it_is_as_view_or_instead() -> None:
    wrong = [name for name, said in functions().items() if not said.startswith(("As View", "Instead"))]
    assert not wrong
