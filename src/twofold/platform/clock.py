"""Clocks that nobody can set: the time since the computer was switched on, and which time that was."""

from __future__ import annotations

import functools
import time


def boottime() -> float:
    """Seconds since the kernel started, sleep included (CLOCK_BOOTTIME, clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@functools.cache
def boot_id() -> str:
    """The kernel's id of this boot of the host system (proc_sys_kernel(5))."""
    with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123
        return file.read().strip()
