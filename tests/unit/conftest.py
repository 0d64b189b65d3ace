"""The two databases that a server can have: what is tested with one is tested with the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.postgres import Postgres, postgres
from tests.unit.server_kit import Backend


@pytest.fixture(scope="session")
def cluster() -> Iterator[Postgres]:
    with postgres() as made:
        yield made


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Where a test's server keeps its tables."""
    return Backend(request.getfixturevalue("cluster") if request.param == "postgresql" else None)
