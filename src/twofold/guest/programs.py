"""The one place in the guest that starts programs. No shell, no standard streams of ours."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence


def run(
    argv: Sequence[str], env: Mapping[str, str] | None = None, seconds: float = 10
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, whatever its status. Raises: OSError, subprocess.TimeoutExpired."""
    return subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)


def start(argv: Sequence[str], env: Mapping[str, str] | None = None, cwd: str | None = None) -> subprocess.Popen[bytes]:
    """Start a program that goes on, in a session of its own. Raises: OSError."""
    return subprocess.Popen(
        argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
