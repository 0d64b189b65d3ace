"""A published golden system disk: a version of it and the parts it is made of."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field
from typing import Any, TypeVar

from twofold.model.errors import BadInputError
from twofold.model.names import slug

SCHEMA = "twofold-image-1"
MAX_PARTS, MAX_APPS, MAX_SIZE = 16, 512, 1 << 44


class Arch(enum.StrEnum):
    """Debian's names of the processor architectures a guest can have."""

    AMD64 = "amd64"
    ARM64 = "arm64"


class Firmware(enum.StrEnum):
    """How the guest starts: our own images' kernel directly, any other disk through firmware."""

    DIRECT = "direct"
    UEFI = "uefi"
    BIOS = "bios"


class SystemMode(enum.StrEnum):
    """What becomes of writes to the system disk."""

    STATELESS = "stateless"  # read-only disk, a fresh overlay in memory at each start, the user's disk beside it
    PERSISTENT = "persistent"  # a writable disk, pinned to the image version it came from


@dataclass(frozen=True)
class Part:
    """One file of an image version: `kernel`, `initrd`, `system`, `user-template`.

    `size` in bytes, `sha256` in hex, both of the plain bytes.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class App:
    """An application known at build time. `icon` is the sha256 of a PNG, or empty."""

    id: str
    name: str
    icon: str = ""


@dataclass(frozen=True)
class ImageVersion:
    """The manifest of one immutable version. Signed by its publisher; `version` grows by one with each publish."""

    image: str
    version: int
    arch: Arch
    firmware: Firmware
    mode: SystemMode
    parts: tuple[Part, ...]
    cmdline: str = ""
    user_disk_size: int = 0
    has_agent: bool = False
    recipe: str = ""
    apps: tuple[App, ...] = field(default=())

    def part(self, name: str) -> Part | None:
        return next((part for part in self.parts if part.name == name), None)

    def to_wire(self) -> dict[str, Any]:
        """JSON's types alone: this is what a publisher signs."""
        body = dataclasses.asdict(self)
        return {"schema": SCHEMA} | body | {"parts": list(body["parts"]), "apps": list(body["apps"])}

    @classmethod
    def from_wire(cls, untrusted_manifest: object) -> ImageVersion:
        """Validate a manifest's shape. Its signature is checked before, over the bytes, by `trust`.

        Raises:
            BadInputError: a field is missing, unknown, or of the wrong type, size or characters.
        """
        names = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(untrusted_manifest, dict) or untrusted_manifest.get("schema") != SCHEMA:
            raise BadInputError("This is not an image this version can read.", next="Update Twofold.")
        body = {key: value for key, value in untrusted_manifest.items() if key != "schema"}
        if body.keys() != names:
            raise BadInputError(
                f"The image's fields are off: {', '.join(sorted(map(str, body.keys() ^ names)))[:200]}."
            )
        parts = [_row(Part, row) for row in _rows(body["parts"], "parts", MAX_PARTS)]
        apps = [_row(App, row) for row in _rows(body["apps"], "apps", MAX_APPS)]
        if len({part.name for part in parts}) != len(parts) or not parts:
            raise BadInputError("The image has no parts, or two of one name.")
        for part in parts:
            slug(part.name, "a part of an image")
            if not 0 <= part.size <= MAX_SIZE or len(part.sha256) != 64 or part.sha256.strip("0123456789abcdef"):
                raise BadInputError(f"The image's part {part.name} is malformed.")
        for name in ("version", "user_disk_size"):
            if type(body[name]) is not int or not 0 <= body[name] <= MAX_SIZE:
                raise BadInputError(f"The image's {name} is not a count.")
        for name in ("image", "arch", "firmware", "mode", "cmdline", "recipe"):
            if type(body[name]) is not str or len(body[name]) > 4096 or not body[name].isprintable():
                raise BadInputError(f"The image's {name} is not text.")
        if type(body["has_agent"]) is not bool:
            raise BadInputError("The image's has_agent is not yes or no.")
        try:
            kinds = {
                "arch": Arch(body["arch"]),
                "firmware": Firmware(body["firmware"]),
                "mode": SystemMode(body["mode"]),
            }
        except ValueError as off:
            raise BadInputError(
                f"The image needs what this version does not know: {off}.", next="Update Twofold."
            ) from off
        slug(body["image"], "an image")
        return cls(**(body | kinds | {"parts": tuple(parts), "apps": tuple(apps)}))


_Row = TypeVar("_Row", Part, App)


def _rows(untrusted_rows: object, what: str, most: int) -> list[object]:
    if not isinstance(untrusted_rows, list | tuple) or len(untrusted_rows) > most:
        raise BadInputError(f"The image's {what} are malformed.")
    return list(untrusted_rows)


def _row(kind: type[_Row], untrusted_row: object) -> _Row:
    types = {f.name: int if f.name == "size" else str for f in dataclasses.fields(kind)}
    if not isinstance(untrusted_row, dict) or untrusted_row.keys() != types.keys():
        raise BadInputError("The image's parts or applications are malformed.")
    for name, value in untrusted_row.items():
        if type(value) is not types[name] or (type(value) is str and len(value) > 200):
            raise BadInputError("The image's parts or applications are malformed.")
    return kind(**untrusted_row)
