"""A reader of vaults that shares no line with the code that writes them: docs/vault-format.md, version 1, read literally.

It is slow, holds every map in memory and never writes. What is not as the paper says raises `Broken`, which names the file.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.harness.vaultroot import (
    BLOCK,
    DATA,
    DELTA,
    DIR,
    EARLIER_DURABLE,
    FANOUT,
    INDEX,
    LAST,
    LIST,
    LOST,
    MAP,
    MARK,
    PREDECESSOR_DURABLE,
    ROOT,
    SLOT,
    SLOTS,
    STREAM,
    STREAMS,
    WHOLE,
    ZERO,
    Broken,
    Device,
    Generation,
    Root,
    Segment,
    Slot,
    derive,
    digest,
    join,
    mac,
    parse_root,
    records,
    split,
)


@dataclass
class State:
    """The devices of one moment: their maps as far as they are not in MAP slots."""

    devices: tuple[Device, ...]
    gained: dict[tuple[int, int], int] = field(default_factory=dict)


class Vault:
    """A vault, opened for reading. `keys`: epoch to 32 bytes. `anchor`: the file anchor's bytes, if it is to be compared."""

    def __init__(self, folder: Path, keys: dict[int, bytes], anchor: bytes | None = None) -> None:
        self.folder, self.keys = folder, keys
        self.files: dict[str, bytes] = {}
        self._superblock()
        self.headers = {s.number: s for name in self._names("s-") if (s := self._header(name))}
        self.packs: dict[int, dict[int, tuple[int, bytes]]] = {}
        self.segments: dict[int, Segment] = {}
        self.ciphers: dict[tuple[int, bytes], AESGCM] = {}
        self.replayed = 0  # slots
        self._take(self._newest_root())
        self._replay()
        if self.root.counter < self.promised:
            raise Broken(f"head.a or head.b: root {self.promised} was durable and is not here")
        if anchor is not None:
            self._compare(anchor)

    # Files

    def _names(self, prefix: str) -> list[str]:
        return sorted(path.name for path in self.folder.glob(prefix + "?" * 16))

    def _file(self, name: str) -> bytes:
        if name not in self.files:
            try:
                self.files[name] = (self.folder / name).read_bytes()
            except FileNotFoundError:
                raise Broken(f"{name}: missing") from None
        return self.files[name]

    def _superblock(self) -> None:
        data = self._file("vault")
        if len(data) != 128 or data[:8] != b"TFVAULT1" or digest(data[:96]) != data[96:]:
            raise Broken("vault: damaged")
        version, length, *features, self.id, self.made = struct.unpack_from("<IIQQQ16sQ", data, 8)
        if version != 1 or length != 128 or features[0]:
            raise Broken(f"vault: version {version}, features {features[0]:x}")
        self.features = tuple(features)

    def _key(self, what: str, epoch: int, more: bytes = b"") -> bytes:
        if epoch not in self.keys:
            raise Broken(f"no key of epoch {epoch}")
        return derive(f"twofold 2026-11 vault {what} key", self.keys[epoch] + self.id + more)

    def _header(self, name: str) -> Segment | None:
        data = self._file(name)[:256]
        if len(data) < 256 or data[:8] != b"TFSEGMT1":
            return None
        version, length, vault, number, epoch, flags, salt = struct.unpack_from("<II16sQII32s", data, 8)
        before, end, _, salted, features = struct.unpack_from("<QII16sQ", data, 80)
        if version != 1 or length != 256 or vault != self.id or features:
            return None
        if mac(self._key("header", epoch), data[:224]) != data[224:] or name != f"s-{number:016x}":
            return None
        return Segment(number, epoch, salt, flags=flags, before=(before, end, salted))

    def _pack(self, number: int) -> dict[int, tuple[int, bytes]]:
        """Where a pack's segments begin and which of their slots it keeps."""
        if number in self.packs:
            return self.packs[number]
        name = f"p-{number:016x}"
        whole = self._file(name)
        copies = range(len(whole) - 96 - 2112, 0, -2112)
        starts = [0, *(at for at in copies if whole[at : at + 8] == b"TFPACK01")]
        for start in starts[:-1]:
            with suppress(Broken, struct.error):
                return self._table(number, name, whole, start)
        return self._table(number, name, whole, starts[-1])

    def _table(self, number: int, name: str, whole: bytes, start: int) -> dict[int, tuple[int, bytes]]:
        data = whole[start:]
        magic, version, epoch, vault, mine, count, _, length = struct.unpack_from("<8sII16sQIIQ", data)
        body = 64 + 2112 * count
        if mac(self._key("header", epoch), data[:body]) != data[body : body + 32]:
            raise Broken(f"{name}: the header was changed")
        if (magic, version, vault, mine, length) != (b"TFPACK01", 1, self.id, number, len(whole)):
            raise Broken(f"{name}: another file's header")
        held = {}
        for nth in range(count):
            at = 64 + 2112 * nth
            segment, of, _, salt, offset = struct.unpack_from("<QII32sQ", data, at)
            told = self.segments.get(segment)
            if told and (told.epoch, told.salt) != (of, salt):
                raise Broken(f"{name}: segment {segment} is another one")
            held[segment] = (offset, data[at + 64 : at + 2112])
        self.packs[number] = held
        return held

    # Slots

    def _there(self, segment: Segment) -> int:
        """How many slots a segment's own file has room for."""
        return min(SLOTS, max(0, len(self._file(f"s-{segment.number:016x}")) - 256) // SLOT)

    def _place(self, segment: Segment, index: int) -> tuple[str, int]:
        if not segment.pack:
            return f"s-{segment.number:016x}", 256 + SLOT * index
        name, held = f"p-{segment.pack:016x}", self._pack(segment.pack)
        offset, kept = held.get(segment.number, (0, bytes(2048)))
        if not kept[index // 8] >> index % 8 & 1:
            raise Broken(f"{name}: slot {index} of segment {segment.number} is not in it")
        bits = int.from_bytes(kept, "little") & (1 << index) - 1
        return name, offset + SLOT * bits.bit_count()

    def _open(self, segment: Segment, index: int) -> Slot:
        name, at = self._place(segment, index)
        data = self._file(name)[at : at + SLOT]
        made = segment.epoch, struct.pack("<Q", segment.number) + segment.salt
        if made not in self.ciphers:
            self.ciphers[made] = AESGCM(self._key("segment", *made))
        try:
            plain = self.ciphers[made].decrypt(struct.pack("<IQ", index, 0), data[16:] + data[:16], self.id)
        except (InvalidTag, ValueError):
            raise Broken(f"{name}: slot {index} of segment {segment.number} does not open") from None
        kind, flags, device, durable, block = struct.unpack_from("<BBHIQ", plain)
        return Slot(kind, flags, device, durable, block, plain[16:])

    def slot(self, address: int, kind: int, device: int, block: int) -> bytes:
        """The payload at an address, if it is what it is said to be."""
        number, index = split(address)
        segment = self.segments.get(number)
        if not segment or (segment.end is not None and index >= segment.end):
            raise Broken(f"address {address:x} is outside the vault")
        found = self._open(segment, index)
        if (found.kind, found.device, found.block) != (kind, device, block):
            raise Broken(f"{self._place(segment, index)[0]}: slot {index} of segment {number} is of another block")
        return found.payload

    # Roots

    def _root(self, address: int, pieces: int) -> Root:
        content = b"".join(self.slot(address + nth, ROOT, 0, nth) for nth in range(pieces))
        try:
            return parse_root(content, address, pieces)
        except (struct.error, KeyError, UnicodeDecodeError) as error:
            raise Broken(f"the root at {address:x} is no root: {error}") from error

    def _head(self, name: str) -> tuple[int, int, int, Segment] | None:
        """(counter, address, pieces, segment) of a head that opens."""
        if not (self.folder / name).exists():
            return None
        data = self._file(name)
        if len(data) != 192 or data[:8] != b"TFHEAD01":
            return None
        version, epoch, vault, salt = struct.unpack_from("<II16s32s", data, 8)
        if version != 1 or vault != self.id or epoch not in self.keys:
            return None
        try:
            plain = AESGCM(self._key("head", epoch, salt)).decrypt(bytes(12), data[80:] + data[64:80], data[:64])
        except InvalidTag:
            return None
        counter, address, pieces, _, _, of, made = struct.unpack_from("<QQIIQ32sI", plain)
        return counter, address, pieces, Segment(split(address)[0], made, of)

    def _newest_root(self) -> Root:
        self.promised = 0
        heads = [head for name in ("head.a", "head.b") if (head := self._head(name))]
        for counter, address, pieces, segment in sorted(heads, key=lambda head: -head[0]):
            self.segments, self.promised = {segment.number: segment}, max(self.promised, counter)
            try:
                root = self._root(address, pieces)
            except Broken:
                continue
            if root.counter == counter:
                return root
        for number in sorted(self.headers, reverse=True):
            self.segments = {number: self.headers[number]}
            for index in reversed(range(self._there(self.headers[number]))):
                try:
                    first = self._open(self.headers[number], index)
                    if (first.kind, first.block) == (ROOT, 0):
                        (length,) = struct.unpack_from("<I", first.payload, 8)
                        return self._root(join(number, index), -(-length // BLOCK))
                except Broken:
                    continue
        raise Broken("head.a: no root was found, here or anywhere")

    def _take(self, root: Root) -> None:
        if root.features != self.features:
            raise Broken("vault: not the features of the root")
        self.root, self.segments = root, dict(root.segments)
        self.state = self._state(root)
        self.data_head = root.head

    def _state(self, root: Root) -> State:
        state = State(root.devices)
        for nth in root.deltas:
            # A DELTA's header has no block, a wrong one can't be told from it: its address alone says which it is.
            for device, what, count, first, address in records(self.slot(nth, DELTA, 0, 0)):
                for step in range(count):
                    state.gained[device, first + step] = address | ZERO if what else address + step
        return state

    # Replay

    def _replay(self) -> None:
        number, index = split(self.root.address + self.root.pieces - 1)
        segment, index, batch = self.segments[number], index + 1, list[tuple[int, Slot]]()
        while True:
            after = self._successor(segment)
            if after and after.before[1] < index:
                after = None  # it would end before what the root stands on
            end = after.before[1] if after else SLOTS
            while index < end:
                try:
                    slot = self._open(segment, index)
                except Broken as error:
                    self._prove_nothing_later(segment, index, error)
                    return self._ended(segment, index, batch)
                batch.append((join(segment.number, index), slot))
                index += 1
                self.replayed += 1
                if slot.flags & LAST:
                    self._apply(batch)
                    batch = []
            if not after:
                return self._ended(segment, index, batch)
            self.segments[segment.number] = replace(self.segments.get(segment.number, segment), end=end)
            self.segments[after.number] = segment = after
            index = 0

    def _ended(self, segment: Segment, index: int, batch: Sequence[tuple[int, Slot]]) -> None:
        """The log ends before the batch that was not whole."""
        number, slots = split(batch[0][0]) if batch else (segment.number, index)
        self.end = number, slots
        last = self.segments[number] = replace(self.segments[number], end=slots)
        for later in self.headers.values():
            continues = (later.before[0], later.before[2]) == (number, digest(last.salt)[:16])
            if later.number > number and not (continues and later.before[1] <= slots) and self._vouches(later):
                raise Broken(f"s-{later.before[0]:016x}: segment {later.number} says that it was flushed")

    def _successor(self, segment: Segment) -> Segment | None:
        mine = (segment.number, digest(segment.salt)[:16])
        after = [
            s for s in self.headers.values()
            if (s.before[0], s.before[2]) == mine and s.number > segment.number and s.epoch >= segment.epoch
        ]  # fmt: skip
        return max(after, key=lambda one: one.number, default=None)

    def _prove_nothing_later(self, segment: Segment, index: int, why: Broken) -> None:
        for later in range(index + 1, self._there(segment)):
            try:
                if self._open(segment, later).durable > index:
                    raise Broken(f"{why}, but slot {later} says that it was flushed") from why
            except Broken as error:
                if error.__cause__:
                    raise
        after = self._successor(segment)
        if after and after.flags & PREDECESSOR_DURABLE and after.before[1] > index:
            raise Broken(f"{why}, but segment {after.number} says that it was flushed") from why
        while after:
            if self._vouches(after, headers=False):
                raise Broken(f"{why}, but a slot of segment {after.number} says that it was flushed") from why
            after = self._successor(after)

    def _vouches(self, segment: Segment, *, headers: bool = True) -> bool:
        """Whether a segment says that those before it were durable."""
        for index in range(self._there(segment)):
            with suppress(Broken):
                if self._open(segment, index).flags & EARLIER_DURABLE:
                    return True
        return headers and bool(segment.flags & PREDECESSOR_DURABLE)

    def _apply(self, batch: Sequence[tuple[int, Slot]]) -> None:
        for address, slot in batch:
            if slot.kind == DATA:
                self.state.gained[slot.device, slot.block] = address
            elif slot.kind == LIST:
                for device, _, count, first, _ in records(slot.payload):
                    self.state.gained |= dict.fromkeys(((device, first + nth) for nth in range(count)), address | ZERO)
        last, slot = batch[-1]
        if slot.kind in (DATA, LIST, MARK):
            self.data_head = last, digest(self.segments[split(last)[0]].salt)[:16]
        if slot.kind == ROOT:
            known, root = self.segments, self._root(batch[0][0], len(batch))
            self._take(root)
            for number in root.segments:
                if number in known and known[number].salt != root.segments[number].salt:
                    raise Broken(f"s-{number:016x}: the root at {root.address:x} names another one")

    def _compare(self, anchor: bytes) -> None:
        magic, version, _, vault, counter, number, slots, _, salted = struct.unpack_from("<8sII16sQQII16s", anchor)
        if (magic, version) != (b"TFANCHR1", 1) or len(anchor) != 128 or digest(anchor[:96]) != anchor[96:]:
            raise Broken("the anchor: damaged")
        kept = self.segments.get(number)
        if vault != self.id or (kept and digest(kept.salt)[:16] != salted):
            raise Broken("the anchor: of another vault")
        if self.root.counter < counter or self.end < (number, slots):
            raise Broken("the anchor: newer than the vault")

    # What a caller asks

    @property
    def generations(self) -> tuple[Generation, ...]:
        return self.root.generations

    @property
    def head(self) -> str:
        """The text of the head."""
        return f"{self.id.hex()}:{self.data_head[0]:016x}:{self.data_head[1].hex()}"

    def at(self, generation: int) -> State:
        kept = next(one for one in self.root.generations if one.number == generation)
        return self._state(self._root(kept.root, kept.pieces))

    def entries(self, device: Device, state: State) -> dict[int, int]:
        """The map entries of all blocks that were ever written."""
        found: dict[int, int] = {}
        for page, address in enumerate(device.pages):
            leaves = struct.unpack("<512Q", self.slot(address, DIR, device.id, page)) if address else ()
            for leaf, at in enumerate(leaves, FANOUT * page):
                if at == LOST:
                    raise Broken(f"leaf {leaf} of {device.name} was lost before")
                if at & WHOLE:
                    content: Sequence[int] = [at & ~WHOLE] * FANOUT
                else:
                    content = struct.unpack("<512Q", self.slot(at, MAP, device.id, leaf)) if at else ()
                found |= {block: entry for block, entry in enumerate(content, FANOUT * leaf) if entry}
        found |= {block: entry for (of, block), entry in state.gained.items() if of == device.id}
        return {block: entry for block, entry in found.items() if block < device.size // BLOCK}

    def blocks(self, name: str, state: State | None = None) -> dict[int, bytes]:
        """What a device holds: the blocks that were ever written."""
        of = state or self.state
        device = next(one for one in of.devices if one.name == name)
        return {
            block: bytes(BLOCK) if entry & ZERO else self.slot(entry, DATA, device.id, block)
            for block, entry in sorted(self.entries(device, of).items())
        }

    def stream(self, name: str) -> bytes:
        told = next(one for one in self.root.streams if one.name == name)
        content = bytearray(told.size)
        for nth, index in enumerate(told.indexes):
            for _, _, count, first, address in records(self.slot(index, INDEX, STREAMS, nth)):
                for step in range(count):
                    page = self.slot(address + step, STREAM, STREAMS, first + step)
                    at = (first + step) * BLOCK
                    content[at : at + BLOCK] = page[: told.size - at]
        return bytes(content)
