"""The two databases that a server can have: what is tested with one is tested with the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.postgres import Postgres, postgres
from tests.unit.company_kit import company
from tests.unit.server_kit import Backend, Local


@pytest.fixture(scope="session")
def cluster() -> Iterator[Postgres]:
    with postgres() as made:
        yield made


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Where a test's server keeps its tables."""
    return Backend(request.getfixturevalue("cluster") if request.param == "postgresql" else None)


@pytest.fixture(scope="session")
def template(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A company, made once and closed; each test works on a copy."""
    local = company(backend, tmp_path_factory.mktemp("template"))
    local.database.close()
    return local.home.folder, local.token


@pytest.fixture
def server(template: tuple[Path, str], backend: Backend, tmp_path: Path) -> Iterator[Local]:
    folder, token = template
    local = backend.copy(folder, tmp_path / "home", token)
    yield local
    local.database.close()
