"""The one place that starts programs: replayable errors, deadlines that hold, a short environment, sessions of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from twofold.model.errors import MissingError, TimedOutError
from twofold.platform.run import CommandError, environment, run, spawn


def test_failure_says_how_to_see_it_again() -> None:
    with pytest.raises(CommandError) as failed:
        run(["sh", "-c", "echo broken >&2; exit 3"], env={"WORD": "a b"})
    assert failed.value.status == 3
    assert "sh ended with status 3" in str(failed.value)
    assert "broken" in str(failed.value)
    again = subprocess.run(failed.value.replay, shell=True, capture_output=True, check=False)  # noqa: S602 - that is the promise
    assert again.returncode == 3


def test_a_signal_is_named() -> None:
    with pytest.raises(CommandError, match="SIGKILL"):
        run(["sh", "-c", "kill -9 $$"])


def test_a_deadline_holds() -> None:
    began = time.monotonic()
    with pytest.raises(TimedOutError, match="did not end within"):
        run(["sleep", "30"], timeout=0.2)
    assert time.monotonic() - began < 5


def test_a_missing_program_is_said_with_its_cure() -> None:
    with pytest.raises(MissingError, match="is not installed"):
        run(["no-such-program-anywhere"])


def test_children_see_a_short_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("LD_PRELOAD", "")
    assert "AWS_SECRET_ACCESS_KEY" not in environment()
    seen = run([sys.executable, "-c", "import os; print(sorted(os.environ))"]).stdout.decode()
    assert "SECRET" not in seen
    assert "LD_PRELOAD" not in seen


def test_a_spawned_program_has_a_session_of_its_own_and_only_given_descriptors() -> None:
    reader, writer = os.pipe()
    kept = os.open("/dev/null", os.O_RDONLY)
    process = spawn(["bash", "-c", f"ls /proc/self/fd >&{writer}; ps -o sid= -p $$ >&{writer}"], pass_fds=[writer])
    os.close(writer)
    with os.fdopen(reader) as pipe:
        *fds, session = pipe.read().split()
    process.wait(5)
    os.close(kept)
    assert str(kept) not in fds or kept == writer
    assert int(session) == process.pid != os.getsid(0)
