"""A published golden system disk: a version of it and the parts it is made of."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


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
