"""The kinds of load, each a program: `python -m bench.bloat.work KIND SEED SECONDS FOLDER MEMORY_MIB`.

Each prints how it is bounded, works until its deadline or SIGTERM, and prints its rounds. Its children end with it.
"""

from __future__ import annotations

import ctypes
import functools
import json
import mmap
import os
import random
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PAGE = mmap.PAGESIZE
_GROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Setting:
    chance: random.Random
    deadline: float
    folder: Path
    memory: int  # bytes

    def over(self) -> bool:
        return _stopped[0] or time.monotonic() >= self.deadline


_stopped = [False]


def services(it: Setting) -> int:
    """Forty resident programs of 2 MiB, each woken by a timer of its own (20 to 500 ms) for a millisecond of small work."""
    _say("40 programs of 2 MiB")
    seeds = [it.chance.random() for _ in range(40)]
    return _children(it, [functools.partial(_service, it, seed) for seed in seeds])


def _service(it: Setting, seed: float) -> int:
    chance, rounds = random.Random(seed), 0
    held = bytearray(chance.randbytes(2 << 20))
    while not it.over():
        time.sleep(chance.uniform(0.02, 0.5))
        until = time.monotonic() + 0.001
        while time.monotonic() < until:
            at = chance.randrange(0, len(held), _PAGE)
            held[at] ^= 1
            json.loads(json.dumps({"at": at, "state": list(held[at : at + 32])}))
        rounds += 1
    return rounds


def fsync(it: Setting) -> int:
    """Two writers of 4 KiB blocks at random places of a 16 MiB file, each write made durable."""
    _say("2 files of 16 MiB")
    return _children(it, [functools.partial(_writer, it, number) for number in range(2)])


def _writer(it: Setting, number: int) -> int:
    chance, rounds = random.Random(it.chance.random() + number), 0
    file = os.open(it.folder / f"fsync-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    while not it.over():
        os.pwrite(file, chance.randbytes(4096), chance.randrange(4096) * 4096)
        os.fsync(file)
        rounds += 1
    os.close(file)
    return rounds


def memory(it: Setting) -> int:
    """A hog that goes round its memory and streams a file, in a group that holds two thirds of both: reclaim all the time.
    Where no group can be made it takes the stated amount and no more, and the machine may have room for it."""
    group, back = _limit(it.memory * 2 // 3)
    _say(
        f"{it.memory >> 20} MiB, " + (f"reclaim at {it.memory * 2 // 3 >> 20} MiB in a group" if group else "no group")
    )
    held, rounds = mmap.mmap(-1, it.memory // 2), 0
    path = it.folder / "stream"
    block = it.chance.randbytes(1 << 20)
    with path.open("wb") as file:
        for _ in range(it.memory // 2 >> 20):
            file.write(block)
    with path.open("rb", buffering=0) as file:
        while not it.over():
            for at in range(0, len(held), _PAGE):
                held[at] = rounds & 255
                if at % (16 << 20) == 0:
                    if not file.read(8 << 20):
                        file.seek(0)
                    if it.over():
                        break
            rounds += 1
    if group:
        (back / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()
    return rounds


def network(it: Setting) -> int:
    """Eight conversations over the loopback interface, 1 to 8 KiB each way, answered at once."""
    _say("8 conversations on 127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address, rounds = server.getsockname(), 0
        pairs = []
        for _ in range(8):
            caller = socket.create_connection(address)
            pairs.append((caller, server.accept()[0]))
            for end in pairs[-1]:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not it.over():
            for caller, answerer in pairs:
                message = it.chance.randbytes(it.chance.randrange(1024, 8192))
                caller.sendall(message)
                _take(answerer, len(message))
                answerer.sendall(message[::-1])
                _take(caller, len(message))
                rounds += 1
            time.sleep(it.chance.uniform(0.0005, 0.003))
        for pair in pairs:
            for end in pair:
                end.close()
    return rounds


def _take(sock: socket.socket, length: int) -> None:
    while length:
        length -= len(sock.recv(length))


def loops(it: Setting) -> int:
    """Two busy loops for each processor."""
    count = 2 * (os.cpu_count() or 1)
    _say(f"{count} loops")
    return _children(it, [functools.partial(_loop, it)] * count)


def _loop(it: Setting) -> int:
    rounds, value = 0, 1
    while not it.over():
        for _ in range(100_000):
            value = (value * 1103515245 + 12345) & 0x7FFFFFFF
        rounds += 1
    return rounds


KINDS: dict[str, Callable[[Setting], int]] = {
    "services": services,
    "fsync": fsync,
    "memory": memory,
    "network": network,
    "loops": loops,
}


def _children(it: Setting, works: list[Callable[[], int]]) -> int:
    """Run each in a process of its own; the sum of their rounds."""
    readers: dict[int, int] = {}
    for work in works:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            _die_with_parent()
            os.close(reader)
            os.write(writer, str(work()).encode())
            os._exit(0)
        os.close(writer)
        readers[pid] = reader
    while not it.over():
        select.select([], [], [], 0.1)
    total = 0
    for pid in readers:
        os.kill(pid, signal.SIGTERM)  # all at once: each ends with its own nap
    for pid, reader in readers.items():
        total += int(os.read(reader, 32) or b"0")
        os.close(reader)
        os.waitpid(pid, 0)
    return total


def _limit(size: int) -> tuple[Path | None, Path]:
    """A control group of our own that holds `size` bytes, with us in it (v2, then v1), and the group to go back to. It is made at
    the top, else beside our own where that was handed over to this user."""
    own = next((line[4:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::/")), "")
    for base, back, sign, limit in (
        (_GROUP, _GROUP, "cgroup.controllers", "memory.max"),
        ((_GROUP / own).parent, _GROUP / own, "cgroup.controllers", "memory.max"),
        (_GROUP / "memory", _GROUP / "memory", "memory.stat", "memory.limit_in_bytes"),
    ):
        if not (base / sign).exists():
            continue
        group = base / f"bloat-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(size))
            (group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            group.rmdir()
            continue
        return group, back
    return None, _GROUP


def _stop(*_: object) -> None:
    _stopped[0] = True


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _say(line: str) -> None:
    print(line, flush=True)


def main(argv: list[str]) -> int:
    kind, seed, seconds, folder, mib = argv
    _die_with_parent()
    signal.signal(signal.SIGTERM, _stop)
    deadline = time.monotonic() + float(seconds)
    it = Setting(random.Random(f"{kind} {seed}"), deadline, Path(folder), int(mib) << 20)
    print(json.dumps({"kind": kind, "rounds": KINDS[kind](it)}), flush=True)
    return 0
