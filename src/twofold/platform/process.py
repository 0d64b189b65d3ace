"""Programs that outlive whoever started them: watched by pidfd, reaped if they happen to be our children."""

from __future__ import annotations

import os
import subprocess


def disown(child: subprocess.Popen[bytes]) -> int:
    """Stop treating a running program as a child to be waited for; returns its pid. Its pidfd speaks for it from now on."""
    child.returncode = (
        0  # else Popen warns when it is forgotten: it cannot know that the program is meant to outlive us
    )
    return child.pid


def reap(pidfd: int) -> int | None:
    """Clear away an ended program if it was our child; returns its exit status, negative for a signal, or None if not ours."""
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
