"""What time does to a vault: how fast it is when its disk was written over and over, and how soon it opens after a crash."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from bench.fio import MIB, Job, plain, sample, words
from bench.ours import Vault
from bench.report import Row, row
from twofold.platform.run import spawn


def aged(folder: Path, rounds: int, size: int) -> list[Row]:
    """A vault written randomly three times over, against one that was just filled from end to end."""
    old = Vault("aged")
    old.create(folder / "aged", size)
    old.start()
    rates: dict[tuple[str, str], list[float]] = {}
    jobs = [
        Job("4 KiB random read, qd 32", "randread", 4096, 32, size, min(size, 1024 * MIB), warm=True),
        Job("1 MiB sequential read", "read", MIB, 8, size, size, warm=True),
        Job("4 KiB random write, qd 32", "randwrite", 4096, 32, size, min(size, 1024 * MIB)),
    ]
    try:
        plain(old, "write", MIB, 8, size, size)
        plain(old, "randwrite", 4096, 32, size, 3 * size, ("--end_fsync=1", "--norandommap"))
        old.settle()
        for one in range(rounds):
            new = Vault("fresh")
            new.create(folder / f"fresh{one}", size)
            new.start()
            try:
                plain(new, "write", MIB, 8, size, size, ("--end_fsync=1",))
                new.settle()
                for job in jobs:
                    for server in (old, new) if one % 2 else (new, old):
                        rates.setdefault((job.figure, server.name), []).append(sample(server, job).rate)
                    last = {name: rates[job.figure, name][-1] for name in ("aged", "fresh")}
                    sys.stderr.write(f"ageing, round {one + 1}: {job.figure}: {last}\n")
            finally:
                new.stop()
                new.remove()
    finally:
        old.stop()
        old.remove()
    return [
        row(f"aged against fresh: {job.figure}", job.unit, rates[job.figure, "aged"],
            {"fresh": rates[job.figure, "fresh"]}, at_least=0.8)
        for job in jobs
    ]  # fmt: skip


def opening(folder: Path, rounds: int, size: int, written: int) -> list[Row]:
    """Each time the vault is killed in the midst of writing, and what it had in the page cache is dropped."""
    vault = Vault("opening")
    vault.create(folder / "opening", size)
    vault.start()
    seconds: list[float] = []
    resident: list[float] = []
    try:
        plain(vault, "randwrite", 4096, 32, size, written, ("--end_fsync=1",))
        for one in range(rounds):
            writer = spawn(words(vault, "randwrite", 4096, 32, size, size, ("--norandommap",)))
            time.sleep(3)
            vault.stop(kill=True)
            writer.kill()
            writer.wait()
            _drop(vault.files)
            seconds.append(vault.start())
            resident.append(vault.resident())
            sys.stderr.write(f"opening, round {one + 1}: {seconds[-1]:.3f} s, {resident[-1]:.0f} MiB\n")
    finally:
        vault.stop()
        vault.remove()
    what = f"{size >> 30} GiB vault, {written / (1 << 30):.3g} GiB written randomly at 4 KiB"
    return [
        row(f"opening after a crash, {what}", "s", seconds, {}, at_most=1.0),
        row(f"resident when opened after a crash, {what}", "MiB", resident, {}, at_most=160),
    ]


def _drop(folder: Path) -> None:
    """What the files hold goes to the disk and out of memory (posix_fadvise(2))."""
    for path in folder.iterdir():
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
