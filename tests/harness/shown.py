"""An image with something to see and to type into: a boot sector (`shown.S`) of a green line, a count and an echo."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from tests.harness.company import COUNT_AT, SIZE, Tiny, tiny
from twofold.model.image import Part

GREEN = (0, 170, 0)  # of its first line
_BOOT = bytes.fromhex(
    "31c08ed88ec08ed0bc00708816007eb80300cd10ba0206b80001efb80042e86a00b800b88ec031ffb8202fb95000f3abba00"
    "0331dbb402cd1066ff060080b80043e84700bfa000668b160080b9080066c1c20488d0240f3c0a720204270430b40fabe2eb"
    "b401cd16740d30e4cd16b40ebb0700cd10ebedba0006edf6c4017407ba0406b80020effbf4ebaebe987c8a16007ecd13c38d"
    "740010000100008000000800000000000000"
)
assert COUNT_AT == 8 * 512, "shown.S names the block"


def shown(folder: Path, name: str) -> Tiny:
    """It starts under SeaBIOS within a second or two, goes on with the count that is on its disk, and obeys the power button."""
    built = tiny(folder, name)
    disk = bytearray(built.path("system").read_bytes())
    disk[:510] = _BOOT.ljust(510, b"\0")
    built.path("system").write_bytes(disk)
    part = Part("system", SIZE, hashlib.sha256(disk).hexdigest())
    return dataclasses.replace(built, manifest=dataclasses.replace(built.manifest, parts=(part,)))
