"""Disk files from outside, told apart by their own first bytes and refused where they reach for anything but themselves.

Sources: QEMU docs/interop/qcow2.rst; VMware Virtual Disk Format 1.1; [MS-VHDX] 3.1; POSIX ustar; UEFI 2.10, 5.3.
"""

from __future__ import annotations

import enum
import os
import re
import struct
import tarfile
from pathlib import Path
from typing import BinaryIO

from twofold.model.errors import BadInputError, RefusedError

MAX_SIZE = 2 << 40
_HEAD = 64 << 10
_KNOWN_BITS = 0b11001  # qcow2 incompatible features without harm: dirty, compression type, extended L2 entries
_DISK = (".vmdk", ".qcow2", ".img", ".raw", ".vhdx")


class Format(enum.StrEnum):
    """Named as QEMU names them; `ova` is our own word."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHDX = "vhdx"
    OVA = "ova"


_FOREIGN = {
    b"conectix": "an old VHD disk; convert it to VHDX first",
    b"<<< ": "a VirtualBox VDI disk; export the machine as OVA instead",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"\xfd7zXZ": "compressed with xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it first",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"COWD": "an old ESX disk; export the machine as OVA instead",
    b"# Disk DescriptorFile": "a description of a disk in other files; export the machine as OVA instead",
    b"LUKS\xba\xbe": "encrypted (LUKS); its key would have to be known here",
}


def detect(untrusted_file: BinaryIO) -> Format:
    """What the file is, by its magic bytes alone.

    Raises:
        BadInputError: nothing that can be imported; says what it is where that is known.
    """
    head = os.pread(untrusted_file.fileno(), _HEAD, 0)
    for magic, words in _FOREIGN.items():
        if head.startswith(magic):
            raise BadInputError(f"This file is {words}.", safe="Nothing was imported.")
    if head.startswith(b"QFI\xfb"):
        return Format.QCOW2
    if head.startswith(b"KDMV"):
        return Format.VMDK
    if head.startswith(b"vhdxfile"):
        return Format.VHDX
    if head[257:262] == b"ustar":
        return Format.OVA
    if head[510:512] == b"\x55\xaa" or head[512:520] == b"EFI PART" or head[4096:4104] == b"EFI PART":
        return Format.RAW
    raise BadInputError(
        "This file is not a disk that can be imported.",
        safe="Nothing was imported.",
        next="Give a qcow2, raw, vmdk or vhdx disk that a machine starts from, or an OVA.",
    )


def check(untrusted_file: BinaryIO, kind: Format) -> None:
    """Refuse a disk file that names other files, is encrypted, or is too large.

    Raises:
        RefusedError: it reaches outside or is encrypted. BadInputError: it is not well formed.
    """
    head = os.pread(untrusted_file.fileno(), _HEAD, 0)
    if kind is Format.QCOW2:
        _check_qcow2(head)
    elif kind is Format.VMDK:
        _check_vmdk(untrusted_file, head)


def _refuse(why: str, advice: str) -> RefusedError:
    return RefusedError(f"This disk {why}.", safe="Nothing was imported, no other file was opened.", next=advice)


def _check_qcow2(head: bytes) -> None:
    if len(head) < 72:
        raise BadInputError("This qcow2 disk is cut short.", safe="Nothing was imported.")
    version, backing, _, _, size, crypt = struct.unpack(">IQIIQI", head[4:36])
    if version not in (2, 3):
        raise BadInputError(f"This qcow2 disk has a version not known here ({version}).", safe="Nothing was imported.")
    if backing:
        raise _refuse(
            "stands on another file (a backing file)", "Make it stand alone:  qemu-img convert -O qcow2 OLD NEW"
        )
    if crypt:
        raise _refuse("is encrypted", "Remove the encryption where its key is known, then import it.")
    if version == 3:
        bits = struct.unpack(">Q", head[72:80])[0] if len(head) >= 80 else 1 << 63
        if bits & 0b100:
            raise _refuse("keeps its data in another file", "Make it stand alone:  qemu-img convert -O qcow2 OLD NEW")
        if bits & 0b10:
            raise BadInputError("This qcow2 disk is marked as damaged.", next="Look at it:  qemu-img check FILE")
        if bits & ~_KNOWN_BITS:
            raise BadInputError("This qcow2 disk uses features not known here.", safe="Nothing was imported.")
    _check_size(size)


def _check_vmdk(untrusted_file: BinaryIO, head: bytes) -> None:
    if len(head) < 80:
        raise BadInputError("This vmdk disk is cut short.", safe="Nothing was imported.")
    capacity, _, at, length = struct.unpack("<QQQQ", head[12:44])
    if capacity == 0 or at == 0 or not 0 < length <= 128:
        raise _refuse("describes files beside it", "Export the machine as OVA and import that.")
    _check_size(capacity * 512)
    text = os.pread(untrusted_file.fileno(), length * 512, at * 512).split(b"\0")[0].decode("ascii", "replace")
    # "parent" in the descriptor and a second extent are how a vmdk reaches into other files.
    parent = re.search(r"^\s*parentCID\s*=\s*(\w+)", text, re.M)
    if "parentFileNameHint" in text or (parent is not None and parent[1].lower() != "ffffffff"):
        raise _refuse("stands on another file (a parent)", "Export the machine as OVA and import that.")
    extents = re.findall(r"^\s*(?:RW|RDONLY|NOACCESS)\s+\d+\s+(\w+)", text, re.M)
    made = re.search(r'^\s*createType\s*=\s*"(\w+)"', text, re.M)
    if extents != ["SPARSE"] or made is None or made[1] not in ("monolithicSparse", "streamOptimized"):
        raise _refuse("keeps its data in other files", "Export the machine as OVA and import that.")


def _check_size(size: int) -> None:
    if not 0 < size <= MAX_SIZE:
        raise RefusedError(
            f"This disk says that it has {size} bytes; up to {MAX_SIZE >> 40} TiB can be imported.",
            safe="Nothing was imported.",
        )


def unpack_ova(untrusted_file: BinaryIO, target: Path) -> None:
    """Copy the one disk of an OVA to `target`. Names inside are only compared, never used as paths.

    Raises:
        BadInputError: not a whole archive, or not with one disk. RefusedError: links, folders or other tricks.
    """
    untrusted_file.seek(0)
    disks: list[tarfile.TarInfo] = []
    try:
        with tarfile.open(fileobj=untrusted_file, mode="r:") as tar:
            for number, member in enumerate(tar):
                plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._()+-]{0,127}", member.name)
                if number >= 64 or not member.isreg() or member.issparse() or not plain:
                    raise _refuse(f"holds something no OVA needs ({member.name[:60]!r})", "Export the machine again.")
                if member.name.lower().endswith(_DISK):
                    disks.append(member)
            if len(disks) != 1:
                raise BadInputError(
                    f"This OVA has {len(disks)} disks that can be imported; it must have one.",
                    safe="Nothing was imported.",
                    next="Export the machine with one disk.",
                )
            source = tar.extractfile(disks[0])
            assert source is not None
            with target.open("xb") as out:
                while block := source.read(1 << 20):
                    out.write(block)
            if target.stat().st_size != disks[0].size:
                raise BadInputError("This OVA is cut short.", safe="Nothing was imported.")
    except (tarfile.TarError, EOFError, ValueError) as why:
        raise BadInputError(f"This OVA is not a whole archive: {why}.", safe="Nothing was imported.") from why
