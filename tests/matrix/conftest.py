"""One company for each file, a person of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.matrix.stage import Stage


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("company")) as made:
        yield made


@pytest.fixture
def stage(company: Stage) -> Stage:
    company.mend()
    company.people()
    return company
