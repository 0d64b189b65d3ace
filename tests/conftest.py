"""What every test shares: where caches go, the long-run switch."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

_OUT = Path(__file__).resolve().parents[1] / "out"
hypothesis.configuration.set_hypothesis_home_dir(_OUT / "cache" / "hypothesis")
# A shared machine may stall any single example for a while; how long a whole test may take is pytest's timeout.
hypothesis.settings.register_profile("house", deadline=None, max_examples=100)
hypothesis.settings.load_profile("house")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long forms of the tests that have one")


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--soak"))
