"""What a process that holds a workspace's memory may not do: dump core, be killed first, be mistaken for another."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path

_PR_SET_DUMPABLE = 4  # prctl(2)


def harden_self() -> None:
    """No core dumps of this process, and no tracing by others of the same user (prctl(2), PR_SET_DUMPABLE)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def harden(pid: int, oom_adjust: int = 0) -> None:
    """No core dumps of a started program. `oom_adjust` -1000 to 1000; lowering it needs a privilege and is left out without.

    A program can only make itself undumpable, exec resets it; QEMU's guest memory is kept out of dumps by its own option
    dump-guest-core, and dumps of either process by this limit.
    """
    resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
    if oom_adjust:
        try:
            Path(f"/proc/{pid}/oom_score_adj").write_text(str(oom_adjust))
        except OSError:
            return


def locked_memory_limit() -> int:
    """Bytes that this user's programs may lock into memory."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return 1 << 62 if soft == resource.RLIM_INFINITY or os.geteuid() == 0 else soft


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (proc_pid_stat(5), field 22); None where there is no such process or
    it is a zombie. With the pid it names a process for ever."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])
