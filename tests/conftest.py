"""What every test shares: where caches go, the long-run switch, and that nothing which a test started survives the run."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

_OUT = Path(__file__).resolve().parents[1] / "out"
hypothesis.configuration.set_hypothesis_home_dir(_OUT / "cache" / "hypothesis")
# A shared machine may stall any single example for a while; how long a whole test may take is pytest's timeout.
hypothesis.settings.register_profile("house", deadline=None, max_examples=100)
hypothesis.settings.load_profile("house")

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_PATIENCE = 5.0  # seconds that what was told to end may take


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--soak"):
        left = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long forms of the tests that have one")


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--soak"))


@pytest.fixture(scope="session", autouse=True)
def nothing_survives() -> Iterator[None]:
    """Agents, machines and stores outlive whoever started them; here they become our children instead, and none may be left."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    deadline = time.monotonic() + _PATIENCE
    while (left := descendants(os.getpid())) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "\n".join(["still there at the end of the run:", *left.values()])


def descendants(root: int) -> dict[int, str]:
    """Living processes below `root`, each with its command line."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue  # no process, or ended meanwhile
        if state not in "ZX":
            parents[int(entry.name)] = int(parent)
    below: dict[int, str] = {}
    for pid in parents:
        up = parents[pid]
        while up > 1 and up != root:
            up = parents.get(up, 0)
        if up == root:
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue  # ended meanwhile
            below[pid] = f"{pid}: {words[:300]}"
    return below
