"""The busy host: every kind of load does something, stops in time, and leaves nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.bloat import KINDS, Bloat


def workers() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found += [words] if "bench.bloat.work" in words else []
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_works_alone_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with Bloat([kind], seed=1, folder=tmp_path, memory_mib=96) as busy:
        time.sleep(0.7)
        assert any(f" {kind} " in words for words in workers())
    assert time.monotonic() - began < 12
    assert busy.rounds[kind] > 0
    assert busy.facts[kind]
    assert not any(str(tmp_path) in words for words in workers())
    assert list(tmp_path.iterdir()) == []
    assert list(Path("/sys/fs/cgroup").glob("**/bloat-*")) == []


def test_it_ends_by_itself(tmp_path: Path) -> None:
    with Bloat(["loops"], seed=1, folder=tmp_path, seconds=0.3) as busy:
        deadline = time.monotonic() + 10
        while any(str(tmp_path) in words for words in workers()) and time.monotonic() < deadline:
            time.sleep(0.05)
            busy._running["loops"].poll()
        assert not any(str(tmp_path) in words for words in workers())


def test_an_unknown_kind_starts_nothing() -> None:
    with pytest.raises(ValueError, match="no such load"):
        Bloat(["nonsense"])
