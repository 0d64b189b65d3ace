"""Where benches take place is a folder that an agent or a server takes for its home."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.setting import folder
from twofold.platform.dirs import private


def test_a_bench_has_a_private_empty_folder_that_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "twofold-bench-x").mkdir()
    (tmp_path / "twofold-bench-x" / "left").touch()
    with folder("x") as made:
        assert private(made) == made
        assert list(made.iterdir()) == []
    assert not made.exists()
