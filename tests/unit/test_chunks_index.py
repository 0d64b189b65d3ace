from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from twofold import _core
from twofold.image import sealed as sealed_index
from twofold.image.chunks import BLOCK, MAX_CHUNK, MAX_INDEX, Chunk, ImageIndex, Patch
from twofold.image.fetch import open_part
from twofold.model.errors import BadInputError, DamagedError, RefusedError, TwofoldError
from twofold.model.image import App, Arch, Firmware, ImageVersion, Part, SystemMode

KEY = b"reading key of thirty-two bytes!"


def chunk(offset: int, size: int, mark: int = 1) -> Chunk:
    return Chunk(offset, size, size + 29, bytes([mark]) * 32, bytes([mark + 1]) * 32)


INDEX = ImageIndex(
    ImageVersion(
        "office", 3, Arch.AMD64, Firmware.DIRECT, SystemMode.STATELESS,
        (Part("kernel", 5000, "a" * 64), Part("system", 1 << 20, "b" * 64)),
        cmdline="quiet", user_disk_size=1 << 30, has_agent=True, recipe="r" * 64, apps=(App("mail", "Mail"),),
    ),
    {"kernel": (chunk(0, 5000),), "system": (chunk(0, MAX_CHUNK, 3), chunk(MAX_CHUNK + BLOCK, 4096, 5))},
)  # fmt: skip


PATCHED = dataclasses.replace(
    INDEX, patches=(Patch("system", 1, 1, (Chunk(0, 4096, 0, b"\x08" * 32, b"\x09" * 32),), b"\7" * 32, 100),)
)


def seal(path: Path, data: bytes, window: int = 1 << 20) -> tuple[tuple[Chunk, ...], bytes]:
    path.write_bytes(data)
    sealer = _core.Sealer(path, b"s" * 32)
    rows: list[Chunk] = []
    frames = b""
    while (batch := sealer.next(window)) is not None:
        found = [Chunk(*row) for row in batch.rows]
        frames += batch.frames(list(dict.fromkeys(row.id for row in found)))
        rows += found
    return tuple(rows), frames


def small(data: bytes, rows: tuple[Chunk, ...]) -> ImageIndex:
    part = Part("system", len(data), hashlib.sha256(data).hexdigest())
    return ImageIndex(dataclasses.replace(INDEX.manifest, parts=(part,)), {"system": rows})


def test_an_index_survives_the_wire() -> None:
    assert ImageIndex.from_wire(json.loads(json.dumps(INDEX.to_wire()))) == INDEX
    assert list(INDEX.ids.values()) == [5029, MAX_CHUNK + 29, 4125]


def test_patches_survive_the_wire_under_a_newer_schema() -> None:
    wire = json.loads(json.dumps(PATCHED.to_wire()))
    assert (wire["schema"], INDEX.to_wire()["schema"]) == ("twofold-index-2", "twofold-index-1")
    assert ImageIndex.from_wire(wire) == PATCHED
    assert PATCHED.ids == INDEX.ids, "a patch is no part of the image"
    assert PATCHED.objects == INDEX.ids | {b"\7" * 32: 100}
    with pytest.raises(BadInputError):
        ImageIndex.from_wire(wire | {"schema": "twofold-index-1"})


@pytest.mark.parametrize(
    ("at", "value"),
    [
        ((), {}),
        ((0,), []),
        ((0, 0), "user"),
        ((0, 0), 1),
        ((0, 1), -1),
        ((0, 1), 1.0),
        ((0, 1), 2),
        ((0, 2), 0),
        ((0, 2), 2),
        ((0, 2), True),
        ((0, 3), [[4096, "08" * 32]]),
        ((0, 3, 0, 0), 0),
        ((0, 3, 0, 0), MAX_CHUNK + 1),
        ((0, 3, 0, 0), "4096"),
        ((0, 3, 0, 1), "08" * 31),
        ((0, 3, 0, 1), "zz" * 32),
        ((0, 3, 0, 2), None),
        ((0, 4), "07" * 33),
        ((0, 5), 28),
        ((0, 5), MAX_CHUNK + 65),
    ],
)
def test_a_patch_that_is_off_is_refused_with_the_index(at: tuple[Any, ...], value: Any) -> None:
    wire: dict[str, Any] = json.loads(json.dumps(PATCHED.to_wire()))
    place: Any = wire
    for step in ("patches", *at)[:-1]:
        place = place[step]
    place[("patches", *at)[-1]] = value
    with pytest.raises(BadInputError):
        ImageIndex.from_wire(wire)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("schema",), "twofold-index-2"),
        (("schema",), "twofold-index-3"),
        (("schema",), ["twofold-index-1"]),
        (("extra",), 1),
        (("chunks",), {}),
        (("chunks", "more"), []),
        (("chunks", "system"), {}),
        (("chunks", "system", 0), [0, 1, 30, "0" * 64]),
        (("chunks", "system", 0, 0), -4096),
        (("chunks", "system", 0, 0), 512),
        (("chunks", "system", 0, 0), True),
        (("chunks", "system", 0, 1), 0),
        (("chunks", "system", 0, 1), MAX_CHUNK + 1),
        (("chunks", "system", 0, 1), 4096.0),
        (("chunks", "system", 0, 2), 1 << 40),
        (("chunks", "system", 0, 3), "0" * 62),
        (("chunks", "system", 0, 3), "zz" * 32),
        (("chunks", "system", 0, 4), None),
        (("chunks", "system", 1, 0), 0),
        (("chunks", "system", 1, 0), 1 << 20),
        (("manifest", "parts", 0, "size"), 4999),
        (("manifest", "parts", 0, "name"), "../kernel"),
        (("manifest", "parts", 0, "name"), "system"),
        (("manifest", "image"), "Office"),
        (("manifest", "version"), "3"),
        (("manifest", "arch"), "pdp11"),
        (("manifest", "cmdline"), "a\nb"),
        (("manifest", "has_agent"), 1),
        (("manifest", "apps"), [{"id": 1, "name": "x", "icon": ""}]),
    ],
)
def test_an_index_that_is_off_is_refused_whole(at: tuple[Any, ...], value: Any) -> None:
    wire = copy.deepcopy(INDEX.to_wire())
    place: Any = wire
    for step in at[:-1]:
        place = place[step]
    place[at[-1]] = value
    with pytest.raises(BadInputError):
        ImageIndex.from_wire(wire)


@given(
    st.recursive(st.none() | st.integers() | st.text(max_size=8), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_any_other_document_is_refused(document: object) -> None:
    with pytest.raises(BadInputError):
        ImageIndex.from_wire(document)
    with pytest.raises(BadInputError):
        ImageIndex.from_wire({"schema": "twofold-index-1", "manifest": INDEX.manifest.to_wire(), "chunks": document})


def test_an_old_version_or_another_image_is_not_passed_off() -> None:
    sealed = sealed_index.seal(INDEX, KEY)
    assert sealed_index.unseal(sealed, KEY, "office", 3) == INDEX
    for image, version in (("office", 4), ("office", 2), ("other", 3)):
        with pytest.raises(RefusedError):
            sealed_index.unseal(sealed, KEY, image, version)
    for bad in (sealed[:-1], sealed[:5], b"", sealed[:20] + bytes([sealed[20] ^ 1]) + sealed[21:]):
        with pytest.raises(RefusedError):
            sealed_index.unseal(bad, KEY, "office", 3)
    with pytest.raises(RefusedError):
        sealed_index.unseal(sealed, b"other" + KEY[5:], "office", 3)


def test_a_sealed_index_says_nothing_and_is_never_twice_the_same() -> None:
    sealed = sealed_index.seal(INDEX, KEY)
    rows = [row for rows in INDEX.chunks.values() for row in rows]
    assert rows
    for row in rows:
        for secret in (row.key, row.key.hex().encode(), row.id.hex().encode()):
            assert secret not in sealed
    assert sealed_index.seal(INDEX, KEY) != sealed


def test_an_index_that_unpacks_without_end_is_refused() -> None:
    name = b"twofold-index-1 office 3"
    key = HKDF(SHA256(), 32, None, b"twofold 2026-11 index " + name).derive(KEY)
    bomb = zlib.compress(bytes(MAX_INDEX + 1))
    with pytest.raises(BadInputError, match="cannot be read"):
        sealed_index.unseal(bytes(12) + AESGCM(key).encrypt(bytes(12), bomb, name), KEY, "office", 3)


def test_the_published_vector_opens_with_another_librarys_aes() -> None:
    key = bytes.fromhex("3625416dfdac5f4457b7432d4136e3a4122c7abb6fb9aa5f9574fd611047812b")
    sealed = bytes.fromhex("16f2a43c3cc960b140c47db84bae583d3739527cf019ea1f014a6631006c7289423abec4")
    assert AESGCM(key).decrypt(sealed[:12], sealed[12:], b"twofold-chunk-1") == b"\0twofold"
    assert _core.chunk_id(sealed).hex() == "f9affc3531022623f12dc6ccd16a62a67f0105748a4a8206a251cf047d7d4020"


@given(
    st.lists(st.tuples(st.sampled_from([b"\0", b"a", b"xyz\0"]), st.integers(1, 90000)), max_size=12),
    st.binary(max_size=5000),
)
def test_any_bytes_come_back(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[bytes, int]], tail: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    data = b"".join(unit * (count // len(unit)) for unit, count in runs) + tail
    rows, frames = seal(folder / "part", data)
    _core.store_frames(folder / "cache", frames)
    with open_part(small(data, rows), "system", folder / "cache") as part:
        assert part.read() == data


def test_a_damaged_chunk_is_named_and_not_given_out(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096
    rows, frames = seal(tmp_path / "part", data)
    _core.store_frames(tmp_path / "cache", frames)
    target = tmp_path / "cache" / rows[2].id.hex()[:2] / rows[2].id.hex()
    good = target.read_bytes()
    for bad in (good[:-1], b"", good + b"x", good[:20] + bytes([good[20] ^ 1]) + good[21:]):
        target.write_bytes(bad)
        with (
            open_part(small(data, rows), "system", tmp_path / "cache") as part,
            pytest.raises(DamagedError, match="chunks"),
        ):
            part.read()
    target.write_bytes(good)
    with open_part(small(data, rows), "system", tmp_path / "cache") as part:
        assert part.read() == data


def test_chunks_in_another_order_are_not_the_part(tmp_path: Path) -> None:
    # Each chunk verifies by itself; that they are the publisher's part in the publisher's order is the digest's to say.
    data = b"a" * MAX_CHUNK + b"b" * MAX_CHUNK
    rows, frames = seal(tmp_path / "part", data)
    _core.store_frames(tmp_path / "cache", frames)
    one, two = rows[0], next(row for row in rows if row.size == rows[0].size and row.id != rows[0].id)
    swap = {one.offset: one._replace(id=two.id, key=two.key, stored=two.stored)}
    index = small(data, tuple(swap.get(row.offset, row) for row in rows))
    with (
        open_part(index, "system", tmp_path / "cache") as part,
        pytest.raises(DamagedError, match="not what its publisher"),
    ):
        part.read()


def test_a_part_that_is_empty_or_only_zeroes_is_read(tmp_path: Path) -> None:
    for data in (b"", b"\0" * (9 << 20)):
        rows, _ = seal(tmp_path / "part", data)
        assert rows == ()
        with open_part(small(data, rows), "system", tmp_path / "cache") as part:
            assert part.read() == data
    lie = small(b"", ())
    lie = ImageIndex(dataclasses.replace(lie.manifest, parts=(Part("system", 0, "0" * 64),)), lie.chunks)
    with pytest.raises(TwofoldError):
        open_part(lie, "system", tmp_path / "cache")


def test_arguments_that_are_off_are_errors_not_panics(tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError)):
        _core.Sealer(tmp_path / "none", b"short")
    with pytest.raises(FileNotFoundError):
        _core.Sealer(tmp_path / "none", b"s" * 32)
    with pytest.raises(FileNotFoundError):
        _core.read_frames(tmp_path, [b"0" * 32])
    with pytest.raises(ValueError, match="size"):
        _core.open_rows(tmp_path, [(0, 1 << 62, 1, b"0" * 32, b"0" * 32)], 0, 10)
    with pytest.raises((ValueError, OverflowError)):
        _core.open_rows(tmp_path, [(-1, 1, 1, b"0" * 32, b"0" * 32)], 0, 10)
