"""What a start was seen to read decides where chunks are cut, and is carried to versions in which it lies elsewhere."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.server_kit import running
from tests.unit.test_publish_fetch import built
from twofold.image.base import order
from twofold.image.chunks import ImageIndex, Range
from twofold.image.firstboot import edges
from twofold.image.sealed import unseal
from twofold.server.client import Admin
from twofold.trust.publisher import Publisher, publisher

DICE = random.Random(3)
PLAIN = DICE.randbytes(6 << 20)
STARTS: list[list[object]] = [["system", at, 8192] for at in range(100 * 4096, len(PLAIN) - (1 << 19), 90 * 4096)]


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Admin, Publisher, Path]]:
    folder = tmp_path_factory.mktemp("world")
    folder.chmod(0o700)
    with running(folder) as (admin, _):
        owner = publisher(folder / "publisher")
        admin.add_publisher(owner)
        yield admin, owner, folder


def published(company: tuple[Admin, Publisher, Path], image: str, system: bytes, starts: object = None) -> ImageIndex:
    admin, owner, folder = company
    done = admin.publish_image(built(folder / image, system, image), owner, first_boot=starts)
    return unseal(admin.index(image, done.version), owner.reading, image, done.version)


def urgent(index: ImageIndex) -> int:
    """Sealed bytes that come before a start has all it was seen to read."""
    pieces = order(index, ())
    return sum(stored for _, stored in zip(range(pieces.urgent), pieces.stored.values(), strict=False))


def contents(ranges: tuple[Range, ...], system: bytes) -> bytes:
    return b"".join(system[offset : offset + length] for _, offset, length in ranges)


def test_near_ranges_are_one_and_the_part_s_ends_are_no_edges() -> None:
    ranges = [("system", 40960, 100), ("system", 0, 4096), ("kernel", 8192, 4096), ("system", 49152, 5000)]
    assert edges(ranges, "system", 1 << 20) == [4096, 40960, 57344]
    assert edges(ranges, "system", 57000) == [4096, 40960]
    assert edges(ranges, "initrd", 1 << 20) == []


def test_what_a_start_reads_comes_alone(company: tuple[Admin, Publisher, Path]) -> None:
    read = 8192 * len(STARTS)
    plain = published(company, "plain", PLAIN)
    noted = published(company, "noted", PLAIN, STARTS)
    assert read <= urgent(noted) < read * 1.05, (
        "random bytes: sealed they are as long as they were, and a little longer"
    )
    assert sum(noted.ids.values()) < sum(plain.ids.values()) * 1.01


def test_a_version_keeps_the_cuts_and_the_starts_of_the_one_before_wherever_they_went(
    company: tuple[Admin, Publisher, Path],
) -> None:
    one = published(company, "office", PLAIN, STARTS)
    grown = DICE.randbytes(5 * 4096)
    system = PLAIN[:409600] + grown + PLAIN[409600 : 5 << 20] + PLAIN[(5 << 20) + 8192 :]
    two = published(company, "office", system)
    assert len(set(two.ids) - set(one.ids)) <= 4, "what is the same is the same chunk"
    assert contents(two.first_boot, system) == contents(one.first_boot, PLAIN)
    assert urgent(two) < urgent(one) + 3 * (256 << 10)


def test_what_a_start_reads_and_the_new_version_changed_is_sought_behind_what_did_not(
    company: tuple[Admin, Publisher, Path],
) -> None:
    published(company, "changed", PLAIN, STARTS)
    at, grown = STARTS[3][1], DICE.randbytes(5 * 4096)
    assert isinstance(at, int)
    system = bytearray(PLAIN[:409600] + grown + PLAIN[409600:])
    system[at + len(grown) + 17] ^= 1
    two = published(company, "changed", bytes(system))
    assert ("system", at + len(grown), 8192) in two.first_boot
