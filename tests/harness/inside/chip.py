"""Uses a machine's TPM by raw commands on /dev/tpmrm0: `chip.py seal SECRET FILE`, `unseal FILE`, `count`, `extend`.

Prints one line. Standard library alone: it is laid into the machine as text. Numbers are TCG's (TPM 2.0 Library, part 2).
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

OWNER, COUNTER, PCR = 0x40000001, 0x01500016, 16
_PASSWORD = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)  # an empty one, as a session
# ECC P-256, restricted, decrypts: the same key of the same chip each time
_STORAGE = struct.pack(">HHIHHHHHHHHH", 0x23, 0x0B, 0x30472, 0, 6, 128, 0x43, 0x10, 3, 0x10, 0, 0)
_SEALED = struct.pack(">HHIHHH", 8, 0x0B, 0x452, 0, 0x10, 0)
_COUNTS = (
    0x02000000 | 1 << 17 | 1 << 18 | 1 << 1 | 1 << 2 | 1 << 4
)  # no lock-out; read and written by owner and password; counts


class RefusedError(Exception):
    """The chip's answer was this code."""


class Chip:
    def __init__(self, device: int | None = None) -> None:
        """`device` takes commands and gives answers, each in one piece."""
        self._device = os.open("/dev/tpmrm0", os.O_RDWR) if device is None else device

    def ask(self, code: int, handles: tuple[int, ...], rest: bytes) -> bytes:
        """A command with empty passwords; returns what follows the answer's header."""
        body = struct.pack(f">{len(handles)}I", *handles) + _PASSWORD + rest
        os.write(self._device, struct.pack(">HII", 0x8002, 10 + len(body), code) + body)
        answer = os.read(self._device, 4096)
        result = struct.unpack_from(">I", answer, 6)[0]
        if result:
            raise RefusedError(hex(result))
        return answer[10:]

    def primary(self) -> int:
        rest = _sized(_sized() + _sized()) + _sized(_STORAGE) + _sized() + bytes(4)
        return _number(self.ask(0x131, (OWNER,), rest))

    def seal(self, secret: bytes) -> bytes:
        rest = _sized(_sized() + _sized(secret)) + _sized(_SEALED) + _sized() + bytes(4)
        answer = self.ask(0x153, (self.primary(),), rest)[4:]
        private, rest = _cut(answer)
        public, _ = _cut(rest)
        return _sized(private) + _sized(public)

    def unseal(self, sealed: bytes) -> bytes:
        item = _number(self.ask(0x157, (self.primary(),), sealed))
        return _cut(self.ask(0x15E, (item,), b"")[4:])[0]

    def count(self) -> int:
        """One further, from a counter that is made where there is none."""
        public = struct.pack(">IHIHH", COUNTER, 0x0B, _COUNTS, 0, 8)
        try:
            self.ask(0x12A, (OWNER,), _sized() + _sized(public))
        except RefusedError as why:
            if str(why) != "0x14c":  # TPM_RC_NV_DEFINED
                raise
        self.ask(0x134, (OWNER, COUNTER), b"")
        value, _ = _cut(self.ask(0x14E, (OWNER, COUNTER), struct.pack(">HH", 8, 0))[4:])
        return int.from_bytes(value, "big")

    def extend(self) -> None:
        self.ask(0x182, (PCR,), struct.pack(">IH", 1, 0x0B) + bytes(31) + b"\1")


def _sized(data: bytes = b"") -> bytes:
    return struct.pack(">H", len(data)) + data


def _cut(data: bytes) -> tuple[bytes, bytes]:
    size = 2 + struct.unpack_from(">H", data)[0]
    return data[2:size], data[size:]


def _number(answer: bytes) -> int:
    return int(struct.unpack_from(">I", answer)[0])


def main(what: str, *words: str) -> str:
    chip = Chip()
    if what == "seal":
        Path(words[1]).write_bytes(chip.seal(words[0].encode()))
        return "sealed"
    if what == "unseal":
        return chip.unseal(Path(words[0]).read_bytes()).decode()
    if what == "extend":
        chip.extend()
        return "extended"
    return str(chip.count())


if __name__ == "__main__":
    try:
        print(main(*sys.argv[1:]))
    except RefusedError as why:
        print(f"refused {why}")
