"""The words of docs/vault-format.md, version 1, and what a root says; read by tests/harness/vaultreader.py."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from blake3 import blake3

BLOCK, SLOT, SLOTS, FANOUT = 4096, 4128, 16384, 512
DATA, LIST, MAP, DIR, ROOT, DELTA, STREAM, INDEX, MARK = range(1, 10)
LAST, EARLIER_DURABLE = 1, 2  # a slot's flags
PREDECESSOR_DURABLE = 1  # a segment's flag
OPEN = 0xFFFFFFFF
ZERO, WHOLE, LOST = 1 << 63, 1 << 62, (1 << 64) - 1
STREAMS = 0xFFFF  # the device of STREAM and INDEX slots


class Broken(Exception):  # noqa: N818 - a state, not a mistake of the caller
    """What lies there is not what the format says; the text begins with the file."""


def digest(data: bytes) -> bytes:
    return blake3(data).digest()


def derive(context: str, material: bytes) -> bytes:
    return blake3(material, derive_key_context=context).digest()


def mac(key: bytes, data: bytes) -> bytes:
    return blake3(data, key=key).digest()


def split(address: int) -> tuple[int, int]:
    """(segment, index) of an address."""
    return address >> 14 & (1 << 48) - 1, address & SLOTS - 1


def join(segment: int, index: int) -> int:
    return segment << 14 | index


@dataclass(frozen=True)
class Segment:
    """What a segment's header says, or a root's table of it; `end` is None where only a successor knows."""

    number: int
    epoch: int
    salt: bytes
    pack: int = 0
    end: int | None = None
    flags: int = 0
    before: tuple[int, int, bytes] = (0, 0, bytes(16))  # the predecessor: number, end, digest of its salt


@dataclass(frozen=True)
class Slot:
    kind: int
    flags: int
    device: int
    durable: int
    block: int
    payload: bytes


@dataclass(frozen=True)
class Device:
    id: int
    name: str
    size: int
    flags: int
    pages: tuple[int, ...]


@dataclass(frozen=True)
class Generation:
    number: int
    time: int
    root: int
    pieces: int
    note: str
    head: int


@dataclass(frozen=True)
class Stream:
    name: str
    identity: bytes
    size: int
    stored: int
    head: str
    indexes: tuple[int, ...]


@dataclass(frozen=True)
class Root:
    address: int
    pieces: int
    counter: int
    features: tuple[int, int, int]
    head: tuple[int, bytes]
    reverted: int
    before: int
    devices: tuple[Device, ...]
    segments: dict[int, Segment]
    deltas: tuple[int, ...]
    generations: tuple[Generation, ...]
    streams: tuple[Stream, ...]


class Cursor:
    """Takes a root's content apart, field by field."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, shape: str) -> tuple[int, ...]:
        values = struct.unpack_from("<" + shape, self.data, self.at)
        self.at += struct.calcsize("<" + shape)
        return values

    def bytes(self, count: int) -> bytes:
        self.at += count
        if self.at > len(self.data):
            raise struct.error("cut short")
        return self.data[self.at - count : self.at]


def records(payload: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """(device, what, count, first, address) of a LIST, DELTA or INDEX."""
    (count,) = struct.unpack_from("<I", payload)
    if count > 170:
        raise Broken(f"a list of {count} records")
    for nth in range(count):
        yield struct.unpack_from("<HHIQQ", payload, 16 + 24 * nth)


def parse_root(content: bytes, address: int, pieces: int) -> Root:
    """Raises struct.error or Broken where the content is no root."""
    if content[:8] != b"TFROOT01":
        raise Broken("no root")
    whole = Cursor(content)
    whole.at = 8
    length, count = whole.take("II")
    if not 16 <= length <= len(content) or pieces != -(-length // BLOCK):
        raise Broken("a root of another length")
    whole.data = content[:length]
    parts: dict[int, Cursor] = {}
    for _ in range(count):
        tag, flags, size = whole.take("HHI")
        if tag in parts or (tag not in range(1, 7) and flags & 1):
            raise Broken(f"section {tag} twice, or not known here")
        parts[tag] = Cursor(whole.bytes(size))

    core = parts[1]
    counter, _, version, _, *features = core.take("QQIIQQQ")
    head = core.take("Q")[0], core.bytes(16)
    _, _, reverted, before = core.take("QQQQ")
    if version != 1 or features[0]:
        raise Broken(f"a root of version {version} with features {features}")

    devices = []
    for _ in range(parts[2].take("I")[0]):
        ident, flags, name, _, size, pages = parts[2].take("HHHHQI")
        if size % BLOCK or pages != -(-size // (1 << 30)):
            raise Broken(f"device {ident} has {size} bytes and {pages} pages")
        title = parts[2].bytes(name).decode()
        devices.append(Device(ident, title, size, flags, parts[2].take(f"{pages}Q")))

    segments: dict[int, Segment] = {}
    for _ in range(parts[3].take("I")[0]):
        number, pack, epoch, slots, _, _ = parts[3].take("QQIIII")
        if segments and number <= max(segments):
            raise Broken("the table of segments is out of order")
        end = None if slots == OPEN else slots
        segments[number] = Segment(number, epoch, parts[3].bytes(32), pack, end)

    deltas = parts[4].take(f"{parts[4].take('I')[0]}Q")

    generations = []
    for _ in range(parts[5].take("I")[0]):
        number, time, where, kept, note, data_head = parts[5].take("QQQIIQ")
        if not where:
            where, kept = address, pieces
        generations.append(Generation(number, time, where, kept, parts[5].bytes(note).decode(), data_head))

    streams = []
    for _ in range(parts[6].take("I")[0]):
        name, _, identity, size, stored, at = parts[6].take("HHIQQQ")
        salt, (indexes,) = parts[6].bytes(16), parts[6].take("I")
        label, blob = parts[6].bytes(name).decode(), parts[6].bytes(identity)
        streams.append(Stream(label, blob, size, stored, f"{at:016x}:{salt.hex()}", parts[6].take(f"{indexes}Q")))
    return Root(
        address, pieces, counter, (features[0], features[1], features[2]), head, reverted, before, tuple(devices),
        segments, deltas, tuple(generations), tuple(streams),
    )  # fmt: skip
