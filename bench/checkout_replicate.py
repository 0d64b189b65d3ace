"""50 MiB change in the 20 GiB disk of a machine that runs: how long until a back up is on the server, and how much was sent.

Ours is the whole path: what `twofold backup` asks of the agent, the vault, and a real server on this machine over TLS, durable
there. QEMU's incremental backup notes changes too; rsync, casync, borg and restic read the same disk, as a file, all of it.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from bench.checkout_kit import MIB, again, fastest_first, size_of, tell, timed
from bench.fio import plain
from bench.generations import CHANGED, Daemon
from bench.report import Row, row
from bench.servers import Server
from tests.harness.company import Company, Device, Tiny, tiny
from twofold.agent.client import Client
from twofold.model.policy import Policy
from twofold.platform.run import run
from twofold.vault.process import NBD

PIECE = 64 << 10  # QEMU's grain: of a smaller change it sends that much
SCANS = 2  # rounds of those that read all of it: a minute each
NOTES: list[str] = []


class Disk(Server):
    """The user's disk of a workspace that runs, over its vault's own socket."""

    def __init__(self, socket: Path) -> None:
        super().__init__("Twofold", lambda _folder, _size: None, lambda _folder, _socket: (), "user")
        self._path = socket

    @property
    def socket(self) -> Path:
        return self._path


@contextmanager
def workspace(folder: Path, size: int) -> Iterator[tuple[Client, Disk]]:
    """A machine of the tests' small image, with a user's disk of `size` bytes, that runs on a device of its own."""
    with Company(folder / "company") as company:
        made = tiny(company.folder / "image", "tiny")
        image = Tiny(made.folder, dataclasses.replace(made.manifest, user_disk_size=size))
        company.admin.publish_image(image, company.publisher)
        company.grant(company.user("ada"), "tiny", "work", "blue", Policy(replicate_seconds=0))
        device = Device(folder / "device")
        try:
            with device.start() as client:
                client.call("enrol", url=company.admin.invite_device("ada"), name="laptop")
                client.finish("checkout", workspace="work", limit=120)
                client.finish("start", workspace="work", limit=120)
                yield client, Disk(device.dirs.workspace_runtime("work") / NBD)
                client.finish("off", workspace="work", limit=60)
        finally:
            device.close()


def replicate(folder: Path, rounds: int, size: int, filled: int) -> list[Row]:
    NOTES[:] = [
        (
            f"replicate: a disk of {size / (1 << 30):g} GiB of which {filled / (1 << 30):g} GiB are written, the rest holes; "
            f"{CHANGED // PIECE} random pieces of {PIECE >> 10} KiB change, in the page cache."
        ),
        (
            f"The scanners, {min(SCANS, rounds)} rounds: rsync --inplace to a copy, casync with zstd, borg with fixed blocks of "
            f"{PIECE >> 10} KiB, --sparse, neither sealed nor compressed, restic not compressed."
        ),
    ]
    seconds: dict[str, list[float]] = defaultdict(list)
    sent: dict[str, list[float]] = defaultdict(list)
    bitmap = Daemon()
    (folder / "company").mkdir()
    try:
        with workspace(folder, size) as (client, disk):
            bitmap.create(folder / "bitmap", size)
            bitmap.start()
            for server in (disk, bitmap):
                plain(server, "write", MIB, 8, filled, filled, ("--end_fsync=1",))
            tell(f"replicate: the first back up: {client.finish('backup', workspace='work', limit=900)['result']}")
            for number in range(rounds):
                bitmap.forget()
                bitmap.prepare()
                steps: list[Callable[[], None]] = [
                    lambda: _ours(client, disk, filled, seconds, sent), lambda: _bitmap(bitmap, filled, seconds),
                ]  # fmt: skip
                for step in steps if number % 2 == 0 else reversed(steps):
                    step()
                tell(
                    f"replicate, round {number + 1}: { {name: round(all_[-1], 3) for name, all_ in seconds.items()} } s"
                )
    finally:
        bitmap.stop()
        bitmap.remove()
    _scanners(folder, min(SCANS, rounds), size, filled, seconds, sent)
    mine, what = seconds.pop("ours"), f"50 MiB changed in a {size / (1 << 30):g} GiB disk"
    theirs = {name: samples for name, samples in seconds.items() if name != bitmap.name}
    return [
        row(f"replicate: {what}, against the fastest scanner", "s", mine, fastest_first(theirs), at_most=0.1),
        row(f"replicate: {what}, against QEMU's bitmap", "s", mine, {bitmap.name: seconds[bitmap.name]}, at_most=1.2),
        row(f"replicate: {what}, bytes sent, against the change", "MiB", sent.pop("ours"),
            {"what changed": [CHANGED / MIB]} | fastest_first(sent), at_most=1.3),
    ]  # fmt: skip


Samples = dict[str, list[float]]


def _ours(client: Client, disk: Disk, filled: int, seconds: Samples, sent: Samples) -> None:
    _change(disk, filled)
    began = perf_counter()
    done = client.finish("backup", workspace="work", limit=300)["result"]
    seconds["ours"].append(perf_counter() - began)
    sent["ours"].append(done["sent_bytes"] / MIB)


def _bitmap(bitmap: Daemon, filled: int, seconds: Samples) -> None:
    _change(bitmap, filled)
    began = perf_counter()
    bitmap.backup()
    seconds[bitmap.name].append(perf_counter() - began)


def _change(server: Server, filled: int) -> None:
    plain(server, "randwrite", PIECE, 32, filled, CHANGED, ("--end_fsync=1",))
    os.sync()


def _rsync(disk: Path, store: Path) -> None:
    run(["rsync", "--inplace", "--no-whole-file", "-I", disk, store / "copy"], timeout=900)


def _casync(disk: Path, store: Path) -> None:
    words = ["casync", "make", "--digest=sha256", "--compression=zstd", f"--store={store / 'chunks.castr'}"]
    run([*words, store / "disk.caibx", disk], timeout=900)


def _borg(disk: Path, store: Path) -> None:
    env = {"BORG_BASE_DIR": str(store), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
    if not (store / "repository").exists():
        run(["borg", "init", "--encryption=none", store / "repository"], env=env)
    words = ["borg", "create", "--compression=none", "--sparse", f"--chunker-params=fixed,{PIECE}"]
    run([*words, f"{store / 'repository'}::{{utcnow}}", disk], env=env, timeout=900)


def _restic(disk: Path, store: Path) -> None:
    env = {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(store.parent / "cache"), "GOMAXPROCS": "2"}
    words: list[str | Path] = ["restic", "--quiet", "--repo", store]
    if not (store / "config").exists():
        run([*words, "init", "--repository-version", "2"], env=env)
    run([*words, "backup", "--compression", "off", disk], env=env, timeout=900)


SCANNERS: Mapping[str, Callable[[Path, Path], None]] = {
    "borg": _borg, "restic": _restic, "rsync": _rsync, "casync": _casync,
}  # fmt: skip


def _scanners(folder: Path, rounds: int, size: int, filled: int, seconds: Samples, sent: Samples) -> None:
    """One after the other, each with its own rounds: two stores of several gigabytes at once would not stay in memory."""
    disk, dice = folder / "disk.raw", random.Random(7)
    with disk.open("wb") as file:
        for _ in range(filled // MIB):
            file.write(os.urandom(MIB))
        file.truncate(size)
    for name, scan in SCANNERS.items():
        store = again(folder / "store")
        scan(disk, store)
        for _ in range(rounds):
            with disk.open("r+b") as file:
                for piece in dice.sample(range(filled // PIECE), CHANGED // PIECE):
                    file.seek(piece * PIECE)
                    file.write(os.urandom(PIECE))
            before = size_of(store)
            seconds[name].append(timed(lambda: scan(disk, store)).wall)  # noqa: B023
            if name != "rsync":  # which writes in place
                sent[name].append((size_of(store) - before) / MIB)
        tell(f"replicate, {name}: {seconds[name]} s, {sent.get(name, [])} MiB")
    again(folder / "store")
    disk.unlink()
