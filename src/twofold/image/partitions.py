"""How a disk starts: read from its partition table and, on an EFI system partition, from its directory. Reads only.

Sources: UEFI 2.10, chapter 5 (GPT) and 13.3 (FAT); Microsoft FAT specification 1.03. All bytes here are untrusted.
"""

from __future__ import annotations

import os
import struct
import uuid

from twofold.model.errors import BadInputError, DamagedError
from twofold.model.image import Arch, Firmware

_ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").bytes_le
_LOADERS = {b"BOOTX64 EFI": Arch.AMD64, b"BOOTAA64EFI": Arch.ARM64}
_MAX_DIRECTORY = 1 << 20


def firmware(fd: int) -> tuple[Firmware, Arch]:
    """What starts the raw disk `fd`, and for which processor.

    Raises:
        BadInputError: nothing on it can be started. DamagedError: it is cut short.
    """
    mbr = os.pread(fd, 512, 0)
    for start in _esps(fd, mbr):
        arch = _loader(fd, start)
        if arch is not None:
            return Firmware.UEFI, arch
    if mbr[510:512] == b"\x55\xaa" and any(mbr[:440]):
        return Firmware.BIOS, Arch.AMD64
    raise BadInputError(
        "Nothing on this disk can be started: no EFI loader, no boot code.",
        safe="Nothing was imported.",
        next="Import the disk that the machine starts from.",
    )


def _esps(fd: int, mbr: bytes) -> list[int]:
    """Byte offsets of EFI system partitions."""
    found: list[int] = []
    for sector in (512, 4096):
        head = os.pread(fd, 92, sector)
        if head[:8] != b"EFI PART":
            continue
        backup = struct.unpack("<Q", head[32:40])[0]
        if backup * sector >= os.fstat(fd).st_size:
            raise DamagedError(
                "This disk is cut short: its partition table ends beyond it.",
                safe="Nothing was imported; the file is unchanged.",
                next="Copy it again from where it came.",
            )
        table, count, size = struct.unpack("<QII", head[72:88])
        if not (128 <= size <= 4096 and count <= 1024 and table < 1 << 40):
            continue
        entries = os.pread(fd, count * size, table * sector)
        found += [
            struct.unpack("<Q", entries[at + 32 : at + 40])[0] * sector
            for at in range(0, len(entries) - 47, size)
            if entries[at : at + 16] == _ESP
        ]
    found += [
        struct.unpack("<I", mbr[at + 8 : at + 12])[0] * 512
        for at in range(446, 510, 16)
        if mbr[at + 4 : at + 5] == b"\xef"
    ]
    return [start for start in found if 0 < start < 1 << 50]


def _loader(fd: int, start: int) -> Arch | None:
    """The processor of EFI/BOOT/BOOT….EFI on the FAT file system at `start`."""
    boot = os.pread(fd, 512, start)
    if len(boot) < 512 or boot[510:512] != b"\x55\xaa":
        return None
    sector, cluster, reserved, fats, root_count = struct.unpack("<HBHBH", boot[11:19])
    fat_size = struct.unpack("<H", boot[22:24])[0] or struct.unpack("<I", boot[36:40])[0]
    if sector not in (512, 1024, 2048, 4096) or not cluster or not fats:
        return None
    root = start + (reserved + fats * fat_size) * sector
    data = root + -(-root_count * 32 // sector) * sector
    step = cluster * sector

    def folder(number: int) -> bytes:
        # A loader's folders are a cluster or a few, written in one go; a scattered one is read as far as it is together.
        return os.pread(fd, min(max(step, 8192), _MAX_DIRECTORY), data + (number - 2) * step)

    if root_count:
        listing = os.pread(fd, min(root_count * 32, _MAX_DIRECTORY), root)
    else:
        listing = folder(struct.unpack("<I", boot[44:48])[0])
    for name in (b"EFI        ", b"BOOT       "):
        number = _find(listing, name, is_folder=True)
        if number < 2:
            return None
        listing = folder(number)
    return next((arch for name, arch in _LOADERS.items() if _find(listing, name, is_folder=False) >= 2), None)


def _find(listing: bytes, name: bytes, *, is_folder: bool) -> int:
    """The first cluster of a directory's entry, 0 where there is none."""
    for at in range(0, len(listing) - 31, 32):
        entry = listing[at : at + 32]
        if entry[0] == 0:
            break
        if entry[:11] == name and bool(entry[11] & 0x10) == is_folder and entry[11] != 0x0F:
            high, low = struct.unpack("<H", entry[20:22])[0], struct.unpack("<H", entry[26:28])[0]
            return int(high << 16 | low)
    return 0
