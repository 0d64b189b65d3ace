"""The kernel as the hypervisor likes it best.

A bzImage unpacks itself on the guest's processor, which costs seconds where that processor is emulated. The ELF file inside
it starts at once through its PVH note (Xen's and QEMU's direct boot, both accept it); it is unpacked here, once.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from pathlib import Path

from twofold.model.errors import BadInputError
from twofold.platform.run import run


def uncompressed(bzimage: bytes) -> bytes:
    """The ELF kernel in a bzImage (Linux Documentation/arch/x86/boot.rst: payload_offset); anything else as it is.

    Raises:
        BadInputError: a bzImage whose payload cannot be unpacked.
    """
    if len(bzimage) < 0x268 or bzimage[0x202:0x206] != b"HdrS":
        return bzimage  # arm64's Image is not packed
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = ((bzimage[0x1F1] or 4) + 1) * 512 + offset
    payload = bzimage[start : start + length]
    if payload.startswith(b"\xfd7zXZ\0"):
        elf = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
    elif payload.startswith(b"\x1f\x8b"):
        elf = zlib.decompressobj(31).decompress(payload)
    elif payload.startswith(b"\x28\xb5\x2f\xfd"):
        elf = run(["zstd", "-dcq"], stdin=payload[:-4]).stdout
    else:
        raise BadInputError(f"The kernel is packed in a way not known here ({payload[:4].hex()}).")
    if not elf.startswith(b"\x7fELF"):
        raise BadInputError("The kernel's payload is not an ELF file.")
    return elf


def unpack(source: Path, target: Path) -> None:
    target.write_bytes(uncompressed(source.read_bytes()))
