"""What an agent fetches, in which order, what it keeps and what it frees: the lists, the first start's order, the background."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold import _core
from twofold.agent import base as kept
from twofold.agent.rooms import Rooms
from twofold.agent.store import Record, Store
from twofold.agent.supply import Stock, Supply
from twofold.image import base
from twofold.image.chunks import Chunk, ImageIndex, ranges
from twofold.model.errors import BadInputError, DamagedError, UnreachableError
from twofold.model.image import Arch, Firmware, ImageVersion, Part, SystemMode
from twofold.model.workspace import Custody

DICE = random.Random(3)


def chunk(part: int, nth: int, size: int = 8192) -> Chunk:
    name = hashlib.sha256(struct.pack("<II", part, nth)).digest()
    return Chunk(nth * size, size, 100 + nth, name, bytes(31) + b"k")


def manifest(**parts: int) -> ImageVersion:
    rows = tuple(Part(name.replace("_", "-"), size, "0" * 64) for name, size in parts.items())
    return ImageVersion("office", 1, Arch.AMD64, Firmware.DIRECT, SystemMode.STATELESS, rows)


def image(*first_boot: tuple[str, int, int]) -> ImageIndex:
    tables = {
        "system": tuple(chunk(0, nth) for nth in range(10)),
        "kernel": (chunk(1, 0),),
        "user-template": (chunk(2, 0), chunk(0, 9)._replace(offset=8192)),  # one chunk in two parts
    }
    return ImageIndex(manifest(system=81920, kernel=8192, user_template=16384), tables, first_boot)


def test_what_a_start_needs_comes_first_then_what_it_was_seen_to_read_then_the_rest() -> None:
    index = image(("system", 40960, 1), ("system", 12288, 8192))
    system = [row.id for row in index.chunks["system"]]
    pieces = base.order(index, kept.FIRST)
    found = pieces.stored
    assert pieces.urgent == 6
    assert base.order(image(), kept.FIRST).urgent == 0, "nobody has seen a start"
    assert list(found)[:3] == [chunk(2, 0).id, system[9], chunk(1, 0).id]
    assert list(found)[3:6] == [system[5], system[1], system[2]], "12288 to 20480 lies in two"
    assert list(found)[6:] == [system[nth] for nth in (0, 3, 4, 6, 7, 8)]
    assert found == index.ids


def test_a_list_comes_back_and_a_torn_one_is_noticed() -> None:
    pieces = base.order(image(), kept.FIRST)
    assert base.from_list(base.to_list(pieces)) == pieces
    assert list(base.from_list(base.to_list(pieces)).stored) == list(pieces.stored)
    assert base.from_list(base.to_list(base.Pieces({}))) == base.Pieces({})
    for torn in (base.to_list(pieces)[:-1], b"", b"x" + base.to_list(pieces), b"twofold-chunks-1\n\0"):
        with pytest.raises(DamagedError):
            base.from_list(torn)


def test_the_index_for_the_vault_process_has_the_form_that_it_reads() -> None:
    body = base.index(image(), ["system"])
    row = chunk(0, 0)
    head = b"twofold-base-1\n" + struct.pack("<HB6sQI", 1, 6, b"system", 81920, 10)
    assert body.startswith(head + struct.pack("<QI", 0, 8192) + row.id + row.key)
    assert len(body) == len(head) + 10 * 76
    assert kept.plain(image()) == kept.plain(image(("system", 0, 1))), "it is known by what it holds"


def test_the_first_starts_order_travels_in_the_index_and_an_index_without_it_stays_valid() -> None:
    plain = image()
    assert "first_boot" not in plain.to_wire()
    assert ImageIndex.from_wire(json.loads(json.dumps(plain.to_wire()))) == plain
    noted = image(("system", 4096, 100), ("kernel", 0, 8192))
    assert ImageIndex.from_wire(json.loads(json.dumps(noted.to_wire()))) == noted


@pytest.mark.parametrize(
    "off",
    [
        {}, "x", [["system", 0]], [["system", 0, 0]], [["system", -1, 4]], [["system", 81919, 2]], [["nothing", 0, 1]],
        [["system", 0.0, 1]], [["system", True, 1]], [[0, 0, 1]], ["abc"], [None], [["system", 0, 1]] * ((1 << 18) + 1),
    ],
)  # fmt: skip
def test_a_first_start_that_does_not_fit_is_refused(off: object) -> None:
    with pytest.raises(BadInputError):
        ranges(off, manifest(system=81920))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda each: st.lists(each, max_size=4),
)


@given(_JSON)
def test_no_order_makes_it_fail_otherwise(untrusted: Any) -> None:
    try:
        found = ranges(untrusted, manifest(system=81920))
    except BadInputError:
        return
    assert all(name == "system" and 0 <= offset < offset + length <= 81920 for name, offset, length in found)


class Remote:
    """A server with chunks. `away`: it does not answer."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.away = folder, False
        self.asked: list[bytes] = []

    def chunks(self, ids: Sequence[bytes]) -> bytes:
        if self.away:
            raise UnreachableError("The server does not answer.")
        self.asked += ids
        return _core.read_frames(self.folder, list(ids))


class Place:
    """A device's folders with workspaces that stand on chunks of one image."""

    def __init__(self, folder: Path) -> None:
        (folder / "server").mkdir()
        (folder / "system").write_bytes(DICE.randbytes(3 << 20))
        sealer = _core.Sealer(folder / "system", bytes(32))
        self.rows: list[Chunk] = []
        while (batch := sealer.next(1 << 20)) is not None:
            self.rows += [Chunk(*row) for row in batch.rows]
            _core.store_frames(folder / "server", batch.frames([row[3] for row in batch.rows]))
        self.remote = Remote(folder / "server")
        self.store = Store(folder)
        self.all: list[Any] = []
        rooms = cast(Rooms, SimpleNamespace(remote=lambda: self.remote))
        self.supply = Supply(folder, rooms, self.store, lambda: self.all)
        self.supply.cache.mkdir()

    def workspace(self, name: str, rows: Sequence[Chunk]) -> Any:
        folder = self.store.create(name)
        part = Part("system", 3 << 20, "0" * 64)
        version = ImageVersion("office", 1, Arch.AMD64, Firmware.UEFI, SystemMode.PERSISTENT, (part,))
        kept.note(folder, ImageIndex(version, {"system": tuple(rows)}))
        ws = SimpleNamespace(
            name=name, folder=folder, base_digest="d", wrong=None, machine=None, seen=[], record=Record(), lease=None
        )
        ws.stocked = ws.seen.append
        self.all.append(ws)
        return ws

    def here(self) -> set[bytes]:
        return {bytes.fromhex(path.name) for path in self.supply.cache.glob("??/*")}

    async def run(self, ws: Any, until: Stock, seconds: float = 10) -> None:
        task = asyncio.ensure_future(self.supply.run())
        try:
            async with asyncio.timeout(seconds):
                while until not in ws.seen:  # noqa: ASYNC110 - what tells is a plain function
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_background_brings_what_lacks_in_order_and_counts_it(place: Place) -> None:
    ws = place.workspace("work", place.rows)
    total = sum(row.stored for row in place.rows)
    _core.store_frames(place.supply.cache, _core.read_frames(place.remote.folder, [place.rows[3].id]))
    asyncio.run(place.run(ws, Stock(total, total)))
    assert ws.seen[0] == Stock(place.rows[3].stored, total)
    assert [each.here for each in ws.seen] == sorted(each.here for each in ws.seen)
    assert place.remote.asked == [row.id for row in place.rows if row.id != place.rows[3].id]
    asyncio.run(place.run(ws, Stock(total, total)))
    assert len(place.remote.asked) == len(place.rows) - 1, "what is here is not fetched twice"


def test_four_requests_are_under_way_and_nothing_is_freed_beside_one(place: Place) -> None:
    ws = place.workspace("work", place.rows)
    ws.machine = object()  # what runs has the line to itself in between: small requests
    total, plain, free = sum(row.stored for row in place.rows), place.remote.chunks, place.supply._clear
    under_way = [0]
    most: list[int] = []
    beside: list[int] = []

    def slow(ids: Sequence[bytes]) -> bytes:
        under_way[0] += 1
        most.append(under_way[0])
        time.sleep(0.05)
        under_way[0] -= 1
        return plain(ids)

    def clear() -> int:
        for _ in range(5):
            beside.append(under_way[0])
            time.sleep(0.02)
        return free()

    place.remote.chunks, place.supply._clear = slow, clear  # type: ignore[method-assign]

    async def story() -> None:
        running = asyncio.ensure_future(place.run(ws, Stock(total, total)))
        while not most:  # noqa: ASYNC110 - a thread's
            await asyncio.sleep(0.01)
        assert await place.supply.clear() == 0
        await running

    asyncio.run(story())
    assert max(most) == 4
    assert beside == [0] * 5
    assert sorted(place.remote.asked) == sorted(row.id for row in place.rows)


def test_what_is_still_being_checked_out_is_filled_and_what_went_away_is_not(place: Place) -> None:
    ws = place.workspace("work", place.rows)
    ws.base_digest, ws.record = "", Record(custody=Custody.CHECKING_OUT)
    whole = place.workspace("old", place.rows[:1])
    whole.base_digest, whole.record = "", Record(custody=Custody.CHECKED_OUT)
    total = sum(row.stored for row in place.rows)
    asyncio.run(place.run(ws, Stock(total, total)))
    assert whole.seen == []


def test_a_server_that_is_away_is_asked_again_when_somebody_says_so(place: Place) -> None:
    ws = place.workspace("work", place.rows)
    total = sum(row.stored for row in place.rows)

    async def story() -> None:
        place.remote.away = True
        running = asyncio.ensure_future(place.run(ws, Stock(total, total)))
        await asyncio.sleep(0.3)
        assert place.here() == set()
        place.remote.away = False
        place.supply.look_again()
        await running

    asyncio.run(story())
    assert place.here() == {row.id for row in place.rows}


def test_only_what_no_workspace_stands_on_is_freed(place: Place) -> None:
    half = len(place.rows) // 2
    place.workspace("one", place.rows[: half + 2])
    place.workspace("two", place.rows[half:])
    _core.store_frames(place.supply.cache, _core.read_frames(place.remote.folder, [row.id for row in place.rows]))
    assert asyncio.run(place.supply.clear()) == 0
    place.store.destroy("one")
    freed = asyncio.run(place.supply.clear())
    assert freed == sum(row.stored for row in place.rows[:half])
    assert place.here() == {row.id for row in place.rows[half:]}
    (place.store.folder("two") / "parts" / "base.chunks").write_bytes(b"torn")
    assert asyncio.run(place.supply.clear()) == 0
    assert len(place.here()) == len(place.rows) - half, "what can't be read keeps everything"
    place.store.destroy("two")
    asyncio.run(place.supply.clear())
    assert place.here() == set()


def test_a_workspace_whose_store_holds_its_image_has_no_list(place: Place) -> None:
    assert kept.pieces(place.store.create("old")) == base.Pieces({})
    assert not any(place.store.folder("old").iterdir())
