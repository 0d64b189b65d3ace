"""One fio job against an NBD server, and what it took."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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
    others: float  # processors that were busy with neither the server, fio nor us


# More than this share of a processor with others, and what waits for a disk waits for the scheduler instead: a wake-up then
# costs up to its tick of 4 ms, and a loop of writes and fsyncs is ten to thirty times as slow, whoever the server is.
CALM = 0.25
_TRIES = 3


def calm(server: Server, job: Job) -> Sample:
    """A sample while the machine is ours alone; where it never is, the one with the least beside it."""
    taken: list[Sample] = []
    while len(taken) < _TRIES and (not taken or taken[-1].others > CALM):
        taken.append(sample(server, job))
    return min(taken, key=lambda one: one.others)


def sample(server: Server, job: Job) -> Sample:
    """The rate over the whole time from the first request to the end of the closing flush and of the server's own debt."""
    if job.warm:
        plain(server, "read", MIB, 8, job.region, job.region)
    os.sync()  # nobody pays for what another left behind
    before, ours, busy, since = server.seconds(), _ours(), _busy(), perf_counter()
    said = plain(server, job.rw, job.block, job.depth, job.region, job.amount, ("--end_fsync=1", *job.extra))
    seconds = max(said[way]["runtime"] for way in ("read", "write")) / 1000
    requests = sum(said[way]["total_ios"] for way in ("read", "write"))
    moved = sum(said[way]["io_bytes"] for way in ("read", "write"))
    if said["write"]["total_ios"]:
        began = perf_counter()
        server.settle()
        seconds += perf_counter() - began
    theirs, elapsed = server.seconds() - before, perf_counter() - since
    others = max(0.0, _busy() - busy - theirs - (_ours() - ours)) / elapsed
    rate = moved / seconds / 1e6 if job.unit == "MB/s" else requests / seconds
    return Sample(rate, theirs / requests * 1e6, others)


def _ours() -> float:
    """Processor time of this process and of what it ran and waited for, in seconds."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _busy() -> float:
    """Processor time that anybody has used, and that a hypervisor took, in seconds (proc_stat(5))."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


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
