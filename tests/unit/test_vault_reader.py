"""docs/vault-format.md is enough to read a vault: a reader written from it finds what the Rust code wrote, and sees tampering.

`tests/golden/vaults/` holds a vault of every released version of the format, with its keys. They must open for ever:
here by that reader and by the present program, and in crates/vault/tests/vectors.rs read-write.
"""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.harness.vaultreader import Vault
from tests.harness.vaultroot import (
    BLOCK,
    DATA,
    DELTA,
    DIR,
    EARLIER_DURABLE,
    INDEX,
    LAST,
    LIST,
    MAP,
    ROOT,
    SLOT,
    STREAM,
    Broken,
    Segment,
    Slot,
    derive,
    digest,
    split,
)
from twofold.platform.run import run

TREE = Path(__file__).resolve().parents[2]
PROGRAM = (
    TREE / ".venv" / "libexec" / "vault-vectors"
)  # crates/vault/examples/vectors.rs, put there by tools/setup-python
GOLDEN = TREE / "tests" / "golden" / "vaults"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault that the present program made, its keys and what it must hold."""
    folder = tmp_path_factory.mktemp("fresh")
    run([PROGRAM, "make", folder])
    return folder


def keys(folder: Path) -> dict[int, bytes]:
    lines = (line.split() for line in (folder / "expected").read_text().splitlines())
    return {int(words[1]): bytes.fromhex(words[2]) for words in lines if words[0] == "epoch"}


def content(blocks: Iterable[tuple[int, bytes]]) -> str:
    hasher = blake3()
    for number, block in blocks:
        if any(block):
            hasher.update(number.to_bytes(8, "little") + block.ljust(BLOCK, b"\0"))
    return hasher.hexdigest()


def opened(folder: Path, kind: type[Vault] = Vault) -> Vault:
    return kind(folder / "vault", keys(folder), (folder / "anchor").read_bytes())


def told(vault: Vault) -> Iterator[str]:
    """All that there is in a vault, in the words of `expected`."""
    yield f"head {vault.head}"
    for kept in (None, *vault.generations):
        state = vault.at(kept.number) if kept else vault.state
        if kept:
            yield f"generation {kept.number} {kept.note}"
        for device in state.devices:
            digest = content(vault.blocks(device.name, state).items())
            yield f"content {kept.number if kept else 'now'} {device.name} {device.size} {digest}"
    for stream in vault.root.streams:
        data = vault.stream(stream.name)
        assert len(data) == stream.size
        pages = content((at // BLOCK, data[at : at + BLOCK]) for at in range(0, len(data), BLOCK))
        yield f"stream {stream.name} {stream.size} {pages} {stream.identity.decode()}"


def expected(folder: Path) -> list[str]:
    return sorted(line for line in (folder / "expected").read_text().splitlines() if not line.startswith("epoch "))


def program(folder: Path) -> list[str]:
    """The same from the Rust code, but of generations the names alone and only the stream that is current; or why not."""
    return sorted(run([PROGRAM, "read", folder], check=False).stdout.decode().splitlines())


def in_short(folder: Path) -> list[str]:
    """What `program` should say."""
    lines = expected(folder)
    return [line for line in lines if not ((line.startswith("content ") and " now " not in line) or " frame " in line)]


def is_refused(said: list[str]) -> bool:
    return len(said) == 1 and said[0].startswith("refused ")


@pytest.mark.parametrize("which", ["fresh", *sorted(path.name for path in GOLDEN.iterdir())])
def test_the_paper_is_enough(which: str, fresh: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fresh if which == "fresh" else GOLDEN / which, tmp_path / "copy"))
    vault = opened(folder)
    assert sorted(told(vault)) == expected(folder)
    assert program(folder) == in_short(folder)
    # It is worth something: there are packs, two epochs, something to replay, generations, streams.
    assert {row.epoch for row in vault.segments.values()} == {1, 2}
    assert any(row.pack for row in vault.segments.values())
    assert vault.replayed > 20
    assert len(vault.generations) == 2
    assert len(vault.root.streams) == 2


def test_the_published_values_are_right() -> None:
    paper = (TREE / "docs" / "vault-format.md").read_text()
    key, ident, salt = bytes(range(32)), bytes(range(0xA0, 0xB0)), bytes(range(0x40, 0x60))
    contexts = {"header": b"", "segment": (7).to_bytes(8, "little") + salt, "head": salt}
    derived = {what: derive(f"twofold 2026-11 vault {what} key", key + ident + more) for what, more in contexts.items()}
    plain = struct.pack("<BBHIQ", DATA, LAST | EARLIER_DURABLE, 1, 3, 9) + bytes(7 * at % 256 for at in range(BLOCK))
    sealed = AESGCM(derived["segment"]).encrypt(struct.pack("<IQ", 5, 0), plain, ident)
    slot = sealed[-16:] + sealed[:-16]
    for value in (*derived.values(), digest(salt)[:16], slot[:48], digest(slot)):
        assert f"`{value.hex()}`" in paper


class Watched(Vault):
    """Notes what it opens: kind of slot and of file to the places."""

    def _open(self, segment: Segment, index: int) -> Slot:
        slot = super()._open(segment, index)
        name, at = self._place(segment, index)
        self.__dict__.setdefault("seen", {}).setdefault((slot.kind, name[0]), set()).add((name, at))
        return slot


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_a_flip_in_any_kind_of_slot_is_seen(fresh: Path, tmp_path: Path) -> None:
    watched = opened(fresh, Watched)
    assert sorted(told(watched)) == expected(fresh)
    seen: dict[tuple[int, str], set[tuple[str, int]]] = watched.__dict__["seen"]
    assert {kind for kind, _ in seen} == {DATA, LIST, MAP, DIR, ROOT, DELTA, STREAM, INDEX}
    chance = random.Random(3)
    for nth, places in enumerate(seen.values()):
        name, at = chance.choice(sorted(places))
        folder = Path(shutil.copytree(fresh, tmp_path / str(nth)))
        flip(folder / "vault" / name, at + chance.randrange(SLOT))
        with pytest.raises(Broken):
            list(told(opened(folder)))
        said = program(folder)
        assert is_refused(said) or said == in_short(folder), "the program says something else than what was written"


def test_a_flip_anywhere_never_gives_other_bytes(fresh: Path, tmp_path: Path) -> None:
    chance, seen = random.Random(11), 0
    files = sorted(path.name for path in (fresh / "vault").iterdir() if path.stat().st_size)
    for nth in range(40):
        folder = Path(shutil.copytree(fresh, tmp_path / str(nth)))
        victim = folder / "vault" / files[nth % len(files)]
        flip(victim, chance.randrange(victim.stat().st_size))
        try:
            assert sorted(told(opened(folder))) == expected(folder)
        except Broken:
            seen += 1
        said = program(folder)
        assert is_refused(said) or said == in_short(folder)
    assert seen > 12


def swap_slots(folder: Path) -> None:
    """Two blocks of one device change places."""
    vault = opened(folder)
    (one, first), (other, second) = sorted(vault.entries(vault.state.devices[0], vault.state).items())[:2]
    assert other == one + 1
    places = [vault._place(vault.segments[number], index) for number, index in (split(first), split(second))]
    held = [(folder / "vault" / name).read_bytes()[at : at + SLOT] for name, at in places]
    for (name, at), slot in zip(places, reversed(held), strict=True):
        data = (folder / "vault" / name).read_bytes()
        (folder / "vault" / name).write_bytes(data[:at] + slot + data[at + SLOT :])


def cut(folder: Path) -> None:
    last = sorted((folder / "vault").glob("s-*"))[-1]
    last.write_bytes(last.read_bytes()[: 256 + 3 * SLOT])


def another_making(folder: Path) -> None:
    """A segment of another vault under the same keys, with the same number."""
    run([PROGRAM, "make", folder / "other"])
    name = sorted((folder / "vault").glob("s-*"))[-1].name
    shutil.copyfile(folder / "other" / "vault" / name, folder / "vault" / name)


PACK = {"header": 57, "record": 64 + 20, "bitmap": 64 + 64}  # 57 is reserved: the MAC alone sees it


def flip_tables(folder: Path, at: int, copies: int) -> None:
    """A bit at `at` of the pack's table, and of its copy at the file's end."""
    path = next((folder / "vault").glob("p-*"))
    size, (count,) = path.stat().st_size, struct.unpack_from("<I", path.read_bytes(), 40)
    for start in (0, size - 96 - 2112 * count)[:copies]:
        flip(path, start + at)


TAMPERING: dict[str, Callable[[Path], None]] = {
    "superblock": lambda folder: flip(folder / "vault" / "vault", 45),
    "anchor": lambda folder: flip(folder / "anchor", 40),
    **{f"pack's {what}, twice": partial(flip_tables, at=at, copies=2) for what, at in PACK.items()},
    "last segment's header": lambda folder: flip(sorted((folder / "vault").glob("s-*"))[-1], 50),
    "last segment gone": lambda folder: sorted((folder / "vault").glob("s-*"))[-1].unlink(),
    "pack gone": lambda folder: next((folder / "vault").glob("p-*")).unlink(),
    "tail cut off": cut,
    "slots exchanged": swap_slots,
    "another vault's segment": another_making,
}


@pytest.mark.parametrize("what", TAMPERING)
def test_tampering_is_seen(what: str, fresh: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fresh, tmp_path / "copy"))
    TAMPERING[what](folder)
    with pytest.raises(Broken):
        list(told(opened(folder)))
    assert is_refused(program(folder))


@pytest.mark.parametrize("what", PACK)
def test_a_pack_with_one_damaged_table_loses_nothing(what: str, fresh: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fresh, tmp_path / "copy"))
    flip_tables(folder, PACK[what], copies=1)
    assert sorted(told(opened(folder))) == expected(folder)
    assert program(folder) == in_short(folder)


def names(folder: Path) -> list[Path]:
    return sorted((folder / "vault").glob("s-*"))


def slot_at(index: int) -> int:
    return 256 + SLOT * index


def agree(folder: Path) -> list[str]:
    """What both the reader and the program say of a vault without an anchor; nothing if both refuse it."""
    (folder / "anchor").unlink(missing_ok=True)
    said = program(folder)
    try:
        vault = Vault(folder / "vault", keys(folder))
        streams = {stream.name for stream in vault.root.streams if vault.head.endswith(":" + stream.head)}
        lines = [words for line in told(vault) if (words := line.split())[0] != "stream" or words[1] in streams]
    except Broken:
        assert is_refused(said)
        return []
    assert said == sorted(" ".join(words) for words in lines if words[0] != "content" or words[1] == "now")
    return said


def test_both_find_the_same_end_wherever_the_log_is_cut(fresh: Path, tmp_path: Path) -> None:
    heads, refused = set(), 0
    for nth, (back, keep) in enumerate((back, keep) for back in (1, 2) for keep in range(16)):
        folder = Path(shutil.copytree(fresh, tmp_path / str(nth)))
        # As a crash leaves it, part of a slot too; with the earlier file cut, the later one stays.
        victim = names(folder)[-back]
        victim.write_bytes(victim.read_bytes()[: slot_at(keep) + 1000 * (nth % 3)])
        said = agree(folder)
        heads |= {line for line in said if line.startswith("head ")}
        refused += not said
    # Cut in the middle of a batch, at its end, before a segment that goes on; and where it had been flushed.
    assert len(heads) >= 3
    assert refused >= 10


@pytest.mark.parametrize(
    ("slot", "witness"),
    [(5, r"but slot \d+ says"), (12, r"but a slot of segment \d+ says"), (15, r"but a slot of segment \d+ says")],
)
def test_damage_before_a_flush_is_no_end_of_the_log(slot: int, witness: str, fresh: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fresh, tmp_path / "copy"))
    flip(names(folder)[-2], slot_at(slot) + 99)
    with pytest.raises(Broken, match=witness):
        Vault(folder / "vault", keys(folder))
    assert agree(folder) == []


def test_a_root_that_a_head_names_is_not_passed_over(fresh: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fresh, tmp_path / "copy"))
    earlier, later = names(folder)[-2:]
    said = agree(folder)
    flip(earlier, slot_at(3) + 99)
    assert agree(folder) == said, "a newer root was found by searching"
    earlier.write_bytes(earlier.read_bytes()[: slot_at(4)])
    later.unlink()
    with pytest.raises(Broken, match=r"root \d+ was durable"):
        Vault(folder / "vault", keys(folder))
    assert agree(folder) == []


def test_a_later_opening_vouches_for_what_it_found(fresh: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fresh, tmp_path / "copy"))
    run([PROGRAM, "write", folder])
    assert agree(folder)
    earlier, later = names(folder)[-2:]
    later.write_bytes(later.read_bytes()[:256])
    assert agree(folder)
    flip(earlier, slot_at(14) + 99)
    with pytest.raises(Broken, match=r"but segment \d+ says"):
        Vault(folder / "vault", keys(folder))
    assert agree(folder) == []


@pytest.mark.parametrize("lost", [-2, -3])
def test_a_segment_missing_from_the_middle_is_no_end(lost: int, fresh: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fresh, tmp_path / "copy"))
    for _ in range(2):
        run([PROGRAM, "write", folder])
    assert agree(folder)
    names(folder)[lost].unlink()
    with pytest.raises(Broken, match="says that it was flushed"):
        Vault(folder / "vault", keys(folder))
    assert agree(folder) == []


def test_of_two_successors_the_later_is_the_log(fresh: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fresh, tmp_path / "copy"))
    before = agree(folder)
    run([PROGRAM, "write", folder])
    lost = names(folder)[-1]
    held, other = lost.read_bytes(), agree(folder)
    lost.write_bytes(b"")  # its number stays taken
    assert agree(folder) == before
    run([PROGRAM, "write", folder])
    later = agree(folder)
    assert later not in (before, other)
    lost.write_bytes(held)
    assert agree(folder) == later


def test_a_block_sealed_for_another_place_is_refused(fresh: Path, tmp_path: Path) -> None:
    """Whoever has the keys makes a map that names the wrong slot."""
    folder = Path(shutil.copytree(fresh, tmp_path / "copy"))
    vault = opened(folder)
    device = vault.state.devices[0]
    number, index = split(vault.entries(device, vault.state)[1])
    segment = vault.segments[number]
    name, at = vault._place(segment, index)
    plain = struct.pack("<BBHIQ", DATA, LAST, device.id, 0, 2) + bytes(BLOCK)
    key = derive(
        "twofold 2026-11 vault segment key",
        keys(folder)[segment.epoch] + vault.id + struct.pack("<Q", number) + segment.salt,
    )
    sealed = AESGCM(key).encrypt(struct.pack("<IQ", index, 0), plain, vault.id)
    data = (folder / "vault" / name).read_bytes()
    (folder / "vault" / name).write_bytes(data[:at] + sealed[-16:] + sealed[:-16] + data[at + SLOT :])
    with pytest.raises(Broken, match="another block"):
        list(told(opened(folder)))
    assert is_refused(program(folder))


@pytest.mark.parametrize("lost", [("head.a",), ("head.b",), ("head.a", "head.b")])
def test_heads_are_hints(lost: tuple[str, ...], fresh: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fresh, tmp_path / "copy"))
    for name in lost:
        flip(folder / "vault" / name, 100)
    assert sorted(told(opened(folder))) == expected(folder)
    assert program(folder) == in_short(folder)


def test_a_cut_tail_is_an_older_vault_to_one_without_an_anchor(fresh: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fresh, tmp_path / "copy"))
    whole = opened(folder)
    cut(folder)
    older = Vault(folder / "vault", keys(folder))
    assert older.end < whole.end
    assert older.data_head[0] < whole.data_head[0]
    assert older.root.counter == whole.root.counter - 1


def test_wrong_keys_open_nothing(fresh: Path) -> None:
    with pytest.raises(Broken):
        Vault(fresh / "vault", {1: bytes(32), 2: bytes(32)})
    with pytest.raises(Broken, match="epoch 2"):
        Vault(fresh / "vault", {1: keys(fresh)[1]})
