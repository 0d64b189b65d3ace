"""A new version travels as patches to who has the former one: through a real server, lied to, damaged, and without any."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.unit.server_kit import running
from tests.unit.test_publish_fetch import built
from twofold import _core
from twofold.agent.enrolment import enrol
from twofold.agent.remote import Remote
from twofold.image import patches
from twofold.image.chunks import Chunk, ImageIndex
from twofold.image.fetch import fetch, open_part
from twofold.image.publish import Published
from twofold.model.policy import Policy
from twofold.server.client import Admin
from twofold.trust.device import identity
from twofold.trust.publisher import publisher

DICE = random.Random(11)
ONE = DICE.randbytes(5 << 20) + bytes(1 << 20) + DICE.randbytes(1 << 20)


def upgraded() -> bytes:
    """Code that moved in the middle of a file, addresses that are others in all its blocks, and a new file in front of it."""
    two = bytearray(ONE)
    two[2_000_000:2_000_000] = b"\x90" * 16
    del two[2_400_000:2_400_016]
    two[1_900_100:3_500_000:4096] = bytes(byte ^ 1 for byte in two[1_900_100:3_500_000:4096])
    two[1_000_000 // 4096 * 4096 : 1_000_000 // 4096 * 4096] = DICE.randbytes(40960)
    return bytes(two)


TWO = upgraded()
SMALL = (
    90_000  # bytes of patches, at most: where cuts fall, and so how many there are, is another secret's choice each run
)


@dataclasses.dataclass(frozen=True)
class World:
    admin: Admin
    remote: Remote
    published: tuple[Published, Published]
    indexes: tuple[ImageIndex, ImageIndex]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("patches")
    folder.chmod(0o700)
    with running(folder) as (admin, _):
        company = publisher(folder / "publisher")
        admin.add_publisher(company)
        admin.create_user("ada", "ada ada ada ada")
        first = admin.publish_image(built(folder / "one", ONE), company)
        admin.add_grant("ada", "office", "work", "ACME Work", "green", Policy())
        who = identity(folder / "state")
        remote = Remote(enrol(admin.invite_device("ada"), "Laptop", who, bytes(32)), who, folder / "seen")
        remote.checkout("work")
        old = remote.index("office", 1)
        fetch(old.ids, remote, folder / "first")
        second = admin.publish_image(built(folder / "two", TWO), company)
        remote.checkin("work")
        assert remote.checkout("work").lease.image_version == 2
        yield World(admin, remote, (first, second), (old, remote.index("office", 2)))
        remote.close()


@pytest.fixture
def cache(world: World, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device's, with all of version 1."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for part, data in (("kernel", b"kernel " * 1000), ("system", ONE)):
        file = tmp_path / part
        file.write_bytes(data)
        sealer = _core.Sealer(file, _secret(tmp_path_factory))
        while (batch := sealer.next(1 << 20)) is not None:
            _core.store_frames(folder, batch.frames(list(dict.fromkeys(row[3] for row in batch.rows))))
    assert not _core.lacking(folder, list(world.indexes[0].ids.items()))
    return folder


def _secret(factory: pytest.TempPathFactory) -> bytes:
    return publisher(next(factory.getbasetemp().glob("patches*")) / "publisher").secret


class Counting:
    """The server, and how many bytes of objects it was asked for; `without` are objects that it has lost."""

    def __init__(self, remote: Remote, without: Sequence[bytes] = ()) -> None:
        self.remote, self.bytes, self.without = remote, 0, without

    def chunks(self, ids: Sequence[bytes]) -> bytes:
        frames = self.remote.chunks([each for each in ids if each not in self.without] or ids[:1])
        self.bytes += len(frames)
        return b"" if set(ids) <= set(self.without) else frames


def test_an_upgrade_sends_patches_and_comes_out_byte_for_byte(world: World, cache: Path) -> None:
    index, source = world.indexes[1], Counting(world.remote)
    new = set(index.ids) - set(world.indexes[0].ids)
    assert len(new) > 10
    assert index.patches
    files = set(cache.glob("??/*"))
    assert 0 < patches.bring(index, source, cache) < SMALL
    left = fetch(index.ids, source, cache).sent
    assert left + SMALL < sum(index.ids[chunk] for chunk in new) // 2
    with open_part(index, "system", cache) as part:
        assert part.read() == TWO
    assert len(set(cache.glob("??/*")) - files) == len(new), "no patch stays in the cache"
    assert patches.bring(index, source, cache) == 0, "nothing is wanted any more"
    assert world.published[1].sent < sum(index.ids[chunk] for chunk in new) + SMALL


def test_a_device_without_the_former_version_asks_for_no_patch(world: World, tmp_path: Path) -> None:
    source = Counting(world.remote)
    assert patches.bring(world.indexes[1], source, tmp_path) == source.bytes == 0
    fetch(world.indexes[1].ids, source, tmp_path)
    with open_part(world.indexes[1], "system", tmp_path) as part:
        assert part.read() == TWO


def test_a_patch_that_is_lost_or_comes_out_otherwise_costs_bytes_alone(world: World, cache: Path) -> None:
    index = world.indexes[1]
    lost = Counting(world.remote, without=[each.id for each in index.patches])
    assert patches.bring(index, lost, cache) == 0
    other = dataclasses.replace(
        index,
        patches=tuple(
            each._replace(old=tuple(Chunk(0, row.size, 0, row.id, bytes(32)) for row in each.old))
            for each in index.patches
        ),
    )
    patches.bring(other, world.remote, cache)  # the old chunks do not open
    for each in index.patches:
        for row in each.old[:1]:
            (cache / row.id.hex()[:2] / row.id.hex()).write_bytes(b"torn")
    patches.bring(index, world.remote, cache)
    fetch(index.ids, world.remote, cache)
    with open_part(index, "system", cache, world.remote) as part:
        assert part.read() == TWO


def test_a_patch_is_sealed_as_its_paper_says(world: World) -> None:
    """With other libraries' BLAKE3 and AES than the core's (crates/chunks/src/patch.rs)."""
    for patch in world.indexes[1].patches:
        sealed = world.admin.chunks([patch.id])[36:]
        assert (blake3(sealed).digest(), len(sealed)) == (patch.id, patch.stored)
        new = world.indexes[1].chunks[patch.part][patch.first : patch.first + patch.rows]
        key = blake3(derive_key_context="twofold 2026-11 patch key")
        key.update(len(patch.old).to_bytes(8, "little"))
        key.update(b"".join(row.id for row in patch.old) + b"".join(row.key for row in new))
        body = AESGCM(key.digest()).decrypt(sealed[:12], sealed[12:], b"twofold-patch-1")
        nonce_key = blake3(key.digest(), derive_key_context="twofold 2026-11 chunk nonce").digest()
        assert sealed[:12] == blake3(body, key=nonce_key).digest()[:12]
        assert body[:5] == b"\x03\x28\xb5\x2f\xfd", "a level and a zstd frame"
