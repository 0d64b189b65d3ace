"""`make bench-vault`: the vault over NBD against other people's NBD servers on the same disk, with the same fio jobs."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.ageing import aged, opening
from bench.cleaning import upload
from bench.fio import CALM, MIB, Job, Sample, calm, sample
from bench.generations import generations
from bench.ours import Vault
from bench.report import Row, report, row
from bench.servers import Server, peers
from bench.setting import folder as work_folder
from bench.sqlite import sqlite

LUKS, RAW, KIT = "qcow2+LUKS", "qemu-nbd raw", "nbdkit file"


@dataclass(frozen=True)
class Size:
    """All in bytes, but the counts. `write` is four times the vault's largest buffer: the 256 MiB of log that may lie behind its
    newest checkpoint; its segments (64 MiB) and its append buffer are smaller, and what the system's page cache holds back is
    paid in every server's closing flush. `warm` is read through the page cache, so that processors are compared and not one
    disk with itself."""

    rounds: int
    disk: int
    write: int
    warm: int
    reads: int
    mixed: int
    single: int
    syncs: int
    commits: int  # of SQLite in a guest, for each sample
    kept: int  # the disk whose changes are sent
    large: int  # the disk that is opened after a crash, of which 20/64 are written


FULL = Size(5, 2048 * MIB, 1024 * MIB, 1024 * MIB, 262144, 131072, 40000, 500, 200, 20 << 30, 64 << 30)
QUICK = Size(1, 512 * MIB, 1024 * MIB, 512 * MIB, 65536, 32768, 8000, 100, 60, 1 << 30, 4 << 30)


def jobs(size: Size) -> list[Job]:
    k4 = 4096
    return [
        Job("1 MiB sequential write", "write", MIB, 8, size.disk, size.disk),
        Job("1 MiB sequential read", "read", MIB, 8, size.warm, size.warm, warm=True),
        Job("4 KiB random read, qd 32", "randread", k4, 32, size.warm, size.reads * k4, warm=True),
        Job(
            "4 KiB 70/30 mix, qd 32", "randrw", k4, 32, size.warm, size.mixed * k4, warm=True, extra=("--rwmixread=70",)
        ),
        Job(
            "4 KiB 70/30 mix, qd 1", "randrw", k4, 1, size.warm, size.single * k4, warm=True, extra=("--rwmixread=70",)
        ),
        Job("4 KiB write, fsync=1", "randwrite", k4, 1, size.warm, size.syncs * k4, extra=("--fsync=1",), turns=4),
        Job("4 KiB random write, qd 32", "randwrite", k4, 32, size.disk, size.write),
    ]


# Figure, the peer that its goal names, the least ratio (issue "The vault": How fast).
GOALS = [
    ("4 KiB random write, qd 32", LUKS, 2.0),
    ("4 KiB random write, qd 32", RAW, 1.2),
    ("4 KiB random write, qd 32", KIT, 0.7),
    ("4 KiB random read, qd 32", LUKS, 2.0),
    ("4 KiB random read, qd 32", RAW, 1.2),
    ("4 KiB random read, qd 32", KIT, 0.7),
    ("4 KiB 70/30 mix, qd 32", LUKS, 1.5),
    ("4 KiB 70/30 mix, qd 1", LUKS, 1.2),
    ("1 MiB sequential write", LUKS, 1.5),
    ("1 MiB sequential read", LUKS, 1.5),
    ("4 KiB write, fsync=1", RAW, 0.9),
    ("4 KiB write, fsync=1", KIT, 0.9),
]


def measure(servers: Sequence[Server], size: Size) -> dict[tuple[str, str], list[Sample]]:
    """All jobs on all servers by figure and server, in rounds: job by job, and within a job the servers take turns to begin."""
    samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for one in range(size.rounds):
        for job in jobs(size):
            turn = [*servers[one % len(servers) :], *servers[: one % len(servers)]]
            for _ in range(job.turns):
                for server in turn:
                    samples[job.figure, server.name].append(calm(server, job) if job.turns > 1 else sample(server, job))
            best = "  ".join(f"{s.name} {samples[job.figure, s.name][-1].rate:.0f}" for s in servers)
            sys.stderr.write(f"round {one + 1}: {job.figure} ({job.unit}): {best}\n")
    return samples


def rows(samples: dict[tuple[str, str], list[Sample]], size: Size, ours: str, others: Sequence[str]) -> list[Row]:
    table = []
    units = {job.figure: job.unit for job in jobs(size)}
    for figure, named, least in GOALS:
        order = [named, *(name for name in others if name != named)]
        rates: dict[str, Sequence[float]] = {
            name: [one.rate for one in samples[figure, name]] for name in (ours, *order)
        }
        table.append(row(f"{figure}, against {named}", units[figure], rates.pop(ours), rates, at_least=least))
    for figure in ("4 KiB random write, qd 32", "4 KiB random read, qd 32"):
        costs: dict[str, Sequence[float]] = {
            name: [one.processor for one in samples[figure, name]] for name in (ours, *others)
        }
        table.append(row(f"{figure}: the server's processor time for one", "us", costs.pop(ours), costs))
    return table


def rates(folder: Path, size: Size) -> list[Row]:
    others = peers()
    servers = [Vault(), *others]
    try:
        for place, server in enumerate(servers):
            server.create(folder / str(place), size.disk)
            server.start()
        samples = measure(servers, size)
    finally:
        for server in servers:
            server.stop()
            server.remove()
    beside = [one.others for some in samples.values() for one in some]
    NOTES.append(
        f"Others took {statistics.median(beside):.2f} of a processor beside the middle sample, {max(beside):.2f} at most."
    )
    return rows(samples, size, servers[0].name, [server.name for server in others])


NOTES: list[str] = []
PARTS: dict[str, Callable[[Path, Size], list[Row]]] = {
    "rates": rates,
    "ageing": lambda folder, size: aged(folder, size.rounds, size.disk),
    "sqlite": lambda folder, size: sqlite(folder, size.rounds, size.commits),
    "cleaner": lambda folder, size: upload(folder, size.rounds, size.disk),
    "generations": lambda folder, size: generations(folder, size.rounds, size.kept),
    "opening": lambda folder, size: opening(folder, size.rounds, size.large, size.large * 20 // 64),
}


def main() -> int:
    words = argparse.ArgumentParser(prog="make bench-vault", description=__doc__)
    words.add_argument(
        "--quick", action="store_true", help="one round on small disks, under 4 minutes: for a look, not for figures"
    )
    words.add_argument("--only", choices=PARTS, help="one part, told apart from the whole")
    asked = words.parse_args()
    size = QUICK if asked.quick else FULL
    notes = [
        f"Disks of {size.disk // MIB} MiB, written over whole at the start of each round; writeback caching for all.",
        f"Random writes: {size.write // MIB} MiB and a closing flush in the time. Reads: from the page cache.",
        "The time of ours includes what its cleaner and its checkpoints had left to do.",
        f"Writes with fsync wait for a machine that others leave alone (below {CALM} of a processor), three tries each.",
    ]
    name, table = "vault" if asked.only is None else f"vault-{asked.only}", []
    for part in PARTS if asked.only is None else (asked.only,):
        with work_folder("vault") as folder:
            table += PARTS[part](folder, size)
        told = report(name, table, [*notes, *NOTES])  # after each part: what comes later may fail
    sys.stdout.write(f"written to {told}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
