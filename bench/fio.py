"""One fio job against an NBD server, and what it took."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from bench.servers import Server
from twofold.platform.run import run

MIB = 1 << 20
Said = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Job:
    """`figure` in the table; `rw`, `block` and `depth` as fio's; within the first `region` bytes, `amount` bytes in all."""

    figure: str
    rw: str
    block: int
    depth: int
    region: int
    amount: int
    warm: bool = False
    extra: tuple[str, ...] = ()
    turns: int = 1  # samples of it in each round, `amount` each

    @property
    def unit(self) -> str:
        return "MB/s" if self.block >= MIB else "1/s"


@dataclass(frozen=True)
class Sample:
    rate: float
    processor: float  # microseconds of the server for each request


def sample(server: Server, job: Job) -> Sample:
    """The rate over the whole time from the first request to the end of the closing flush and of the server's own debt."""
    if job.warm:
        plain(server, "read", MIB, 8, job.region, job.region)
    os.sync()  # nobody pays for what another left behind
    before = server.seconds()
    said = plain(server, job.rw, job.block, job.depth, job.region, job.amount, ("--end_fsync=1", *job.extra))
    seconds = max(said[way]["runtime"] for way in ("read", "write")) / 1000
    requests = sum(said[way]["total_ios"] for way in ("read", "write"))
    moved = sum(said[way]["io_bytes"] for way in ("read", "write"))
    if said["write"]["total_ios"]:
        began = perf_counter()
        server.settle()
        seconds += perf_counter() - began
    processor = (server.seconds() - before) / requests * 1e6
    return Sample(moved / seconds / 1e6 if job.unit == "MB/s" else requests / seconds, processor)


def words(
    server: Server, rw: str, block: int, depth: int, region: int, amount: int, extra: Sequence[str] = ()
) -> list[str]:
    """The command line of a job; unlike what fio does by itself, each run has its own order of blocks."""
    return [
        "fio", "--name=bench", "--ioengine=nbd", f"--uri={server.uri}", f"--rw={rw}", f"--bs={block}", f"--iodepth={depth}",
        f"--size={region}", f"--io_size={amount}", "--randrepeat=0", "--thread", "--output-format=json", *extra,
    ]  # fmt: skip


def plain(server: Server, rw: str, block: int, depth: int, region: int, amount: int, extra: Sequence[str] = ()) -> Said:
    """Run it to its end; what fio says of the one job."""
    said = run(words(server, rw, block, depth, region, amount, extra), timeout=900).stdout
    job: Said = json.loads(said[said.index(b"{") :])["jobs"][0]
    return job
