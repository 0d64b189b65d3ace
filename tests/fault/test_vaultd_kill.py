"""The vault's process is killed in a loop, under writes: whatever it replied to is there, and requests it did not reply to
are there whole or not at all. Without a guest: an own writer over NBD."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.ours import Vault
from tests.harness.long import long
from twofold.vault.nbd import Client

BLOCK = 4096
BLOCKS = 4096
"""16 MiB, written over and over."""
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_WRITE, _FLUSH, _ZEROES = 1, 3, 6
_UNDER_WAY = 24


@dataclass
class Disk:
    """What each block may hold: the version that was replied to, and the requests that were not replied to yet."""

    sure: list[int] = field(default_factory=lambda: [0] * BLOCKS)
    open: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """By number: first block, count, version (0: zeroes)."""
    version: int = 0
    replies: int = 0


def content(block: int, version: int) -> bytes:
    return struct.pack("<QQ", block, version) * (BLOCK // 16) if version else bytes(BLOCK)


def connect(vault: Vault) -> tuple[socket.socket, Client]:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.connect(str(vault.socket))
    return stream, Client(stream, "disk")


class Writer:
    """Writes, zeroes and flushes, many requests at once, until the other end is gone."""

    def __init__(self, vault: Vault, disk: Disk, dice: random.Random) -> None:
        self.stream, self.client = connect(vault)
        self.disk, self.dice = disk, dice
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self) -> None:
        with self.stream, contextlib.suppress(OSError):
            number = 0
            while True:
                number += 1
                self._send(number << 1)
                while len(self.disk.open) >= _UNDER_WAY:
                    if not self._reply():
                        return

    def _send(self, number: int) -> None:
        disk, dice = self.disk, self.dice
        if dice.random() < 0.05:
            self.stream.sendall(_REQUEST.pack(0x25609513, 0, _FLUSH, number | 1, 0, 0))
            return
        busy = {block for first, count, _ in disk.open.values() for block in range(first, first + count)}
        while True:
            count = dice.choice([1, 1, 1, 2, 4, 16])
            first = dice.randrange(BLOCKS - count)
            if busy.isdisjoint(range(first, first + count)):
                break
        disk.version += 1
        zeroes = dice.random() < 0.1
        disk.open[number] = first, count, 0 if zeroes else disk.version
        kind = _ZEROES if zeroes else _WRITE
        self.stream.sendall(_REQUEST.pack(0x25609513, 0, kind, number, first * BLOCK, count * BLOCK))
        if not zeroes:
            self.stream.sendall(b"".join(content(block, disk.version) for block in range(first, first + count)))

    def _reply(self) -> bool:
        """Take one reply; False once there are none any more."""
        head = b""
        while len(head) < _REPLY.size:
            part = self.stream.recv(_REPLY.size - len(head))
            if not part:
                return False
            head += part
        magic, error, number = _REPLY.unpack(head)
        assert (magic, error) == (0x67446698, 0)
        if not number & 1:
            first, count, version = self.disk.open.pop(number)
            self.disk.sure[first : first + count] = [version] * count
            self.disk.replies += 1
        return True


def examine(vault: Vault, disk: Disk) -> None:
    """All that was replied to is there; what was found becomes what is sure."""
    stream, client = connect(vault)
    with stream:
        found = b"".join(client.read(at, 1 << 20) for at in range(0, BLOCKS * BLOCK, 1 << 20))
    doubtful = dict[int, int]()
    for number, (first, count, version) in disk.open.items():
        here = {
            found[block * BLOCK : (block + 1) * BLOCK] == content(block, version)
            for block in range(first, first + count)
        }
        # Zeroes over zeroes look as if they were there.
        was = [disk.sure[block] for block in range(first, first + count)]
        assert len(here) == 1 or (version == 0 and 0 in was), f"request {number} is there in part"
        if True in here:
            doubtful |= dict.fromkeys(range(first, first + count), version) if here == {True} else {}
    for block in range(BLOCKS):
        version = doubtful.get(block, disk.sure[block])
        assert found[block * BLOCK : (block + 1) * BLOCK] == content(block, version), f"block {block} lost {version}"
        disk.sure[block] = version
    disk.open.clear()


@pytest.mark.parametrize("rounds", [8, *long(200)])
def test_what_was_replied_to_outlives_a_kill(tmp_path: Path, rounds: int) -> None:
    vault, disk, dice = Vault(), Disk(), random.Random(rounds)
    vault.create(tmp_path / "v", BLOCKS * BLOCK)
    generations = 0
    for _ in range(rounds):
        vault.start()
        try:
            examine(vault, disk)
            writer = Writer(vault, disk, dice)
            for _ in range(dice.randrange(3)):
                writer.thread.join(dice.uniform(0.02, 0.3))
                vault.commit()
                generations += 1
            writer.thread.join(dice.uniform(0.02, 0.4))
        finally:
            vault.stop(kill=True)
        writer.thread.join(20)
        assert not writer.thread.is_alive()
    vault.start()
    examine(vault, disk)
    vault.stop()
    vault.start()
    examine(vault, disk)
    vault.stop()
    print(f"{rounds} kills, {disk.replies} requests replied to, {generations} generations")
    assert disk.replies > 100 * rounds


def test_a_second_process_is_told_that_the_vault_is_open(tmp_path: Path) -> None:
    first, second = Vault(), Vault()
    first.create(tmp_path / "v", BLOCKS * BLOCK)
    first.start()
    second.folder, second._keys = first.folder, first._keys
    with (tmp_path / "log").open("ab") as log:
        second.process = second._talk(log)
    with socket.socket(socket.AF_UNIX) as control, socket.socket(socket.AF_UNIX) as data:
        for one, name in ((control, "c"), (data, "d")):
            one.bind(str(tmp_path / name))
            one.listen()
        with pytest.raises(RuntimeError, match="open"):
            second._call(
                "open", *second._places(), control.fileno(), data.fileno(), workspace="bench", keys=second._keys
            )
    second.stop(kill=True)
    # The first one noticed nothing.
    stream, client = connect(first)
    with stream:
        client.write(0, content(0, 1))
        client.flush()
    first.stop()
