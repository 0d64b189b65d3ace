"""Inside a small guest: speaking to whoever started it, and running programs. Standard library alone."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

HOST = "/run/inside/host/"
_POWER_OFF = 0x4321FEDC  # reboot(2)


def port(number: int) -> str:
    """The virtio port of this number, as a device file."""
    (found,) = Path("/dev").glob(f"vport*p{number}")
    return str(found)


_words = os.open(port(1), os.O_RDWR)


def say(*words: object) -> None:
    rest = (" ".join(map(str, words)) + "\n").encode()
    while rest:
        rest = rest[os.write(_words, rest) :]


def sh(*words: str, check: bool = True) -> str:
    """What a program prints, both streams."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if check and done.returncode != 0:
        raise RuntimeError(f"{words}: status {done.returncode}: {done.stdout[-600:]}")
    return done.stdout


def main(work: Callable[[], None]) -> None:
    """Do it, say `end` or what went wrong, and switch the machine off."""
    os.environ["PATH"] = "/usr/sbin:/usr/bin"
    try:
        work()
        say("end")
    except BaseException:  # noqa: BLE001 - whatever it is, who waits outside must hear of it
        say("failed", traceback.format_exc().replace("\n", " | "))
    finally:
        sys.stdout.flush()
        os.sync()
        ctypes.CDLL(None).reboot(_POWER_OFF)
