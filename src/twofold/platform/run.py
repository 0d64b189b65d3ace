"""The one place that starts programs. Every failure carries a command that can be pasted to see it again."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from twofold.model.errors import MissingError, TimedOutError, TwofoldError

# What a child inherits: enough to find programs and a language, nothing that a person's shell happens to hold.
_KEEP = ("PATH", "LANG", "LC_ALL", "HOME", "TMPDIR", "SOURCE_DATE_EPOCH")

_HINTS = {
    "qemu-system-x86_64": "Install QEMU 10 or newer (Debian: qemu-system-x86; on Debian 12 from bookworm-backports).",
    "qemu-system-aarch64": "Install QEMU 10 or newer with its Arm targets (package qemu-system-arm).",
    "qemu-storage-daemon": "Install QEMU's tools (Debian: qemu-utils; on Debian 12 from bookworm-backports).",
    "qemu-img": "Install QEMU's tools (Debian: qemu-utils; on Debian 12 from bookworm-backports).",
    "mmdebstrap": "Install the image tools (Debian: mmdebstrap, erofs-utils).",
    "mkfs.erofs": "Install the image tools (Debian: mmdebstrap, erofs-utils).",
}


class CommandError(TwofoldError):
    """A program ended badly. `replay` can be pasted into a shell."""

    def __init__(self, replay: str, status: int, untrusted_stderr: str) -> None:
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        tail = "\n".join(untrusted_stderr.strip().splitlines()[-8:])
        super().__init__(
            f"{_program(replay)} {how}." + (f"\n{tail}" if tail else ""), next=f"To see it again:  {replay}"
        )
        self.replay, self.status, self.stderr = replay, status, untrusted_stderr


def _program(replay: str) -> str:
    words = [word for word in shlex.split(replay) if "=" not in word or word.startswith("/")]
    return Path(words[0]).name if words else replay


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment that programs get: a short list of the caller's variables, and `extra`."""
    kept = {name: os.environ[name] for name in _KEEP if name in os.environ}
    kept.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return kept | dict(extra or {})


def replayable(argv: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """The command as a person would type it."""
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in (env or {}).items()), shlex.join(argv)])


def own(name: str) -> Path:
    """A program of ours: the binary that belongs to this very build.

    Raises:
        MissingError: it was not built.
    """
    path = Path(__file__).resolve().parents[1] / "bin" / name
    if not os.access(path, os.X_OK):
        raise MissingError(f"{name} is missing.", next="Install Twofold anew; in a source tree:  make setup")
    return path


def find(program: str) -> str:
    """The path of an installed program.

    Raises:
        MissingError: it is not installed; the error says which package has it where we know.
    """
    path = shutil.which(program, path=environment()["PATH"])
    if path is None:
        raise MissingError(
            f"{program} is not installed.", next=_HINTS.get(program, f"Install {program} and try again.")
        )
    return path


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    timeout: float = 60,
    check: bool = True,
    pass_fds: Sequence[int] = (),
    capture: bool = True,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end. No shell; standard input is `stdin` or empty; `timeout` in seconds always holds.

    Raises:
        MissingError: not installed.
        CommandError: it ended with another status than 0 (with `check`).
        TimedOutError: it did not end in time and was killed.
    """
    words = [os.fspath(word) for word in argv]
    words[0] = find(words[0])
    pipe = subprocess.PIPE if capture else None
    try:
        done = subprocess.run(
            words, input=stdin if stdin is not None else b"", stdout=pipe, stderr=pipe, env=environment(env),
            cwd=cwd, timeout=timeout, check=False, pass_fds=tuple(pass_fds),
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise TimedOutError(
            f"{Path(words[0]).name} did not end within {timeout:g} s and was killed.",
            next=f"To see it again:  {replayable(words, env)}",
        ) from late
    if check and done.returncode != 0:
        raise CommandError(replayable(words, env), done.returncode, (done.stderr or b"").decode(errors="replace"))
    return done


def spawn(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: IO[bytes] | int = subprocess.DEVNULL,
    stderr: IO[bytes] | int = subprocess.DEVNULL,
    new_session: bool = True,
) -> subprocess.Popen[bytes]:
    """Start a program that goes on. It gets a session of its own, so that it outlives us and our terminal's signals.

    Raises:
        MissingError: not installed.
    """
    words = [os.fspath(word) for word in argv]
    words[0] = find(words[0])
    return subprocess.Popen(
        words, stdin=stdin, stdout=stdout, stderr=stderr, env=environment(env), cwd=cwd,
        pass_fds=tuple(pass_fds), start_new_session=new_session, close_fds=True,
    )  # fmt: skip
