"""A vault's base from chunks, with the real vault process: read from the cache, asked for, healed, given up for a while."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.vault import Kept
from twofold import _core
from twofold.image import base
from twofold.image.chunks import Chunk, ImageIndex
from twofold.model.errors import DamagedError
from twofold.model.image import Arch, Firmware, ImageVersion, Part, SystemMode
from twofold.vault.nbd import Client
from twofold.vault.seam import Base, DeviceSpec
from twofold.vault.store import _Open

DICE = random.Random(11)
SYSTEM = DICE.randbytes(1 << 20) + bytes(1 << 20) + b"words " * 100_000 + DICE.randbytes(50_000)
SIZE = -(-len(SYSTEM) // 4096) * 4096
PLAIN = SYSTEM + bytes(SIZE - len(SYSTEM))


class World:
    """A vault over an image whose chunks lie in `server`; `cache` is what the vault process reads."""

    def __init__(self, folder: Path, *, writable: bool) -> None:
        self.folder, self.cache, self.server = folder, folder / "cache", folder / "server"
        self.cache.mkdir()
        self.server.mkdir()
        (folder / "system").write_bytes(SYSTEM)
        sealer = _core.Sealer(folder / "system", bytes(range(32)))
        rows: list[Chunk] = []
        while (batch := sealer.next(1 << 20)) is not None:
            rows += [Chunk(*row) for row in batch.rows]
            _core.store_frames(self.server, batch.frames([row[3] for row in batch.rows]))
        part = Part("system", len(SYSTEM), hashlib.sha256(SYSTEM).hexdigest())
        mode = SystemMode.PERSISTENT if writable else SystemMode.STATELESS
        manifest = ImageVersion("office", 1, Arch.AMD64, Firmware.UEFI, mode, (part,))
        self.index = ImageIndex(manifest, {"system": tuple(rows)})
        self.rows = rows
        self.kept = Kept(folder / "kept")
        (folder / "kept").mkdir()
        body = base.index(self.index, ["system"])
        self.base = Base(folder / "base.sealed", hashlib.sha256(body).hexdigest(), (self.cache,))
        keys = self.kept.vaults.new_keys("work")
        (folder / "kept" / "key.wrapped").write_bytes(keys.wrapped)
        device = DeviceSpec("system", SIZE, base=not writable)
        with (
            self.kept.vaults.creating(self.kept.where, keys, [device]) as filling,
            io.FileIO(folder / "plain", "x+") as plain,
        ):
            plain.write(body)
            plain.seek(0)
            sealed = os.open(self.base.sealed, os.O_CREAT | os.O_WRONLY, 0o600)
            filling.seal_part(Part("base", len(body), self.base.digest), plain.fileno(), sealed)
            os.close(sealed)
        (folder / "plain").unlink()

    @contextlib.contextmanager
    def open(self, base: Base | None = None) -> Iterator[_Open]:
        runtime = self.folder / "runtime"
        runtime.mkdir(exist_ok=True)
        vault = self.kept.vaults.open(self.kept.where, self.kept.keys, runtime, base or self.base)
        assert isinstance(vault, _Open)
        try:
            yield vault
        finally:
            vault.close()

    def send(self, *rows: Chunk) -> None:
        """As the agent does."""
        _core.store_frames(
            self.cache, _core.read_frames(self.server, list({row.id: None for row in rows or self.rows}))
        )

    def path(self, row: Chunk) -> Path:
        return self.cache / row.id.hex()[:2] / row.id.hex()


@contextlib.contextmanager
def nbd(vault: _Open) -> Iterator[Client]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(30)
        stream.connect(str(vault.socket))
        yield Client(stream, "system")


def whole(client: Client) -> bytes:
    return b"".join(client.read(at, min(1 << 20, SIZE - at)) for at in range(0, SIZE, 1 << 20))


async def first_wants(vault: _Open, count: int) -> list[bytes]:
    """What is asked for, in the order of asking, until there are `count`."""
    found: dict[bytes, None] = {}
    async with asyncio.timeout(20):
        async for ids in vault.wants():
            found |= dict.fromkeys(ids)
            if len(found) >= count:
                break
    return list(found)


@pytest.fixture(params=[False, True], ids=["read-only", "writable"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(tmp_path, writable=request.param)


def test_a_device_reads_as_its_part_and_takes_no_space(world: World) -> None:
    world.send()
    with world.open() as vault:
        with nbd(vault) as client:
            assert whole(client) == PLAIN
            assert client.read(4095, 4098) == PLAIN[4095:8193]
        status = vault.status()["vault"]
        assert status["base"]["devices"] == [{"name": "system", "size": len(SYSTEM)}]
        assert 0 < status["base"]["kept"] <= (16 << 20) + (256 << 10)
        assert status["live"] < 1 << 20
    assert b"words words" not in world.base.sealed.read_bytes()
    assert world.rows[0].key not in world.base.sealed.read_bytes(), "keys lie sealed"


def test_the_order_of_the_first_reading_is_noted(world: World) -> None:
    world.send()
    rows = world.rows
    with world.open() as vault, nbd(vault) as client:
        assert vault.touched() == []
        for row in (rows[5], rows[2], rows[3], rows[5]):
            client.read(row.offset, 512)
        assert vault.touched() == [("system", rows[each].offset, 4096) for each in (5, 2, 3)], "blocks, not chunks"
        client.read(rows[5].offset, rows[5].size)
        assert vault.touched()[3] == ("system", rows[5].offset + 4096, rows[5].size - 4096)


def test_what_lacks_is_asked_for_once_and_read_when_it_came(world: World) -> None:
    held = world.rows[1]
    world.send(*[row for row in world.rows if row.id != held.id])
    with world.open() as vault, nbd(vault) as one, nbd(vault) as two, nbd(vault) as other:
        answers: list[bytes] = []
        readers = [
            threading.Thread(target=lambda client=client: answers.append(client.read(held.offset, held.size)))
            for client in (one, two)
        ]
        for reader in readers:
            reader.start()
        assert asyncio.run(first_wants(vault, 1)) == [held.id]
        assert other.read(0, 4096) == PLAIN[:4096], "others are read meanwhile"
        assert vault.status()["vault"]["base"]["wanted"] == 1, "asked for once"
        # A watcher that comes after another died is told again.
        assert asyncio.run(first_wants(vault, 1)) == [held.id]
        world.send(held)
        vault.arrived([held.id])
        for reader in readers:
            reader.join(20)
        assert answers == [PLAIN[held.offset : held.offset + held.size]] * 2
        assert vault.status()["vault"]["base"]["wanted"] == 0


@pytest.mark.parametrize("damage", ["torn", "flipped", "grown", "empty", "another's"])
def test_a_damaged_chunk_is_as_good_as_none_and_heals(world: World, damage: str) -> None:
    world.send()
    row = world.rows[2]
    sealed = bytearray(world.path(row).read_bytes())
    flipped = bytes(sealed[:-1]) + bytes([sealed[-1] ^ 1])
    bad = {
        "torn": bytes(sealed[:-5]), "flipped": flipped, "grown": bytes(sealed) + b"x", "empty": b"",
        "another's": world.path(world.rows[3]).read_bytes(),
    }[damage]  # fmt: skip
    world.path(row).write_bytes(bad)
    with world.open() as vault, nbd(vault) as client:
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(client.read(row.offset, row.size)))
        reader.start()
        assert asyncio.run(first_wants(vault, 1)) == [row.id]
        world.send(row)
        assert world.path(row).read_bytes() == sealed, "what was there of the same length is replaced too"
        vault.arrived([row.id])
        reader.join(20)
        assert found == [PLAIN[row.offset : row.offset + row.size]]


def test_what_can_not_be_had_is_an_error_on_its_blocks_and_comes_later(world: World) -> None:
    gone = world.rows[1]
    world.send(*[row for row in world.rows if row.id != gone.id])
    with world.open() as vault, nbd(vault) as client:
        failed: list[BaseException] = []

        def read() -> None:
            try:
                client.read(gone.offset, 4096)
            except Exception as error:  # noqa: BLE001 - whatever the client makes of an error number
                failed.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        assert asyncio.run(first_wants(vault, 1)) == [gone.id]
        vault.absent([gone.id], "the server is away")
        reader.join(20)
        assert len(failed) == 1
        with nbd(vault) as again:
            assert again.read(0, 4096) == PLAIN[:4096]
            world.send(gone)
            assert again.read(gone.offset, gone.size) == PLAIN[gone.offset : gone.offset + gone.size]


def test_a_chunk_that_comes_and_is_never_whole_is_given_up(world: World) -> None:
    row = world.rows[0]
    with world.open() as vault, nbd(vault) as client:
        ended = threading.Event()

        def read() -> None:
            with contextlib.suppress(Exception):
                client.read(row.offset, 4096)
            ended.set()

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(3):
            asyncio.run(first_wants(vault, 1))
            vault.arrived([row.id])  # a lie
        assert ended.wait(20)
        reader.join()


def test_a_stick_is_a_second_folder(world: World) -> None:
    with (
        world.open(Base(world.base.sealed, world.base.digest, (world.cache, world.server))) as vault,
        nbd(vault) as client,
    ):
        assert whole(client) == PLAIN
    assert not any(world.cache.iterdir())


def test_a_writable_device_keeps_what_was_written_over_its_base(tmp_path: Path) -> None:
    world = World(tmp_path, writable=True)
    world.send()
    expected = bytearray(PLAIN)
    with world.open() as vault, nbd(vault) as client:
        for at, data in ((0, b"boot" * 128), (70_000, b"odd bytes"), (SIZE - 4096, bytes(4096)), (1 << 20, b"x" * 512)):
            client.write(at, data)
            expected[at : at + len(data)] = data
        client.flush()
        assert whole(client) == expected
    with world.open() as vault, nbd(vault) as client:
        assert whole(client) == expected


def test_an_index_of_another_version_or_a_torn_one_opens_nothing(world: World) -> None:
    world.send()
    other = Base(world.base.sealed, hashlib.sha256(b"another").hexdigest(), (world.cache,))
    with pytest.raises(DamagedError), world.open(other):
        pass
    sealed = bytearray(world.base.sealed.read_bytes())
    sealed[len(sealed) // 2] ^= 1
    world.base.sealed.write_bytes(sealed)
    with pytest.raises(DamagedError), world.open():
        pass
