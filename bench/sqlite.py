"""SQLite in a guest: commits a second on ext4 on our vault, against the same on qcow2+LUKS, both disks of one guest."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from bench.ours import Vault
from bench.report import Row, row
from bench.servers import PATIENCE, peers
from tests.harness.image import business
from tests.harness.tiny import running

SIZE = 512 << 20
NAMES = {"delete": "rollback journal", "wal": "write-ahead log"}


def sqlite(folder: Path, rounds: int, commits: int) -> list[Row]:
    """The peer is opened by QEMU itself, which is its best mode; ours is reached as the engine reaches it."""
    ours, (theirs, *_) = Vault(), peers()
    rates: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for place, server in (("sqlite-ours", ours), ("sqlite-theirs", theirs)):
        server.create(folder / place, SIZE)
    ours.start()
    try:
        with running(
            business(), folder, "sqlite",
            "-blockdev", f"driver=nbd,node-name=ours,server.type=unix,server.path={ours.socket},export=disk,discard=unmap",
            "-device", "virtio-blk-pci,drive=ours",
            "-object", f"secret,id=key,file={theirs.folder / 'key'}",
            "-blockdev", f"driver=qcow2,node-name=theirs,encrypt.format=luks,encrypt.key-secret=key,file.driver=file,"
            f"file.filename={theirs.folder / 'disk'},discard=unmap",
            "-device", "virtio-blk-pci,drive=theirs",
            programs=["mkfs.ext4"], cmdline=f"disks=ours,theirs rounds={rounds} commits={commits}",
        ) as guest:  # fmt: skip
            while (line := guest.next(PATIENCE * 2)) != "end":
                if line is None or not line.startswith("rate "):
                    raise RuntimeError(f"the guest said {line!r}")
                _, disk, mode, _, rate = line.split()
                rates[mode][disk].append(float(rate))
                sys.stderr.write(f"SQLite: {line}\n")
    finally:
        ours.stop()
        ours.remove()
        theirs.remove()
    return [
        row(f"SQLite commits in ext4 in a guest, {name}, against {theirs.name}", "1/s", rates[mode]["ours"],
            {theirs.name: rates[mode]["theirs"]}, at_least=1.0)
        for mode, name in NAMES.items()
    ]  # fmt: skip
