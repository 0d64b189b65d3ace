"""Real disks, made by others, in every format that can be imported: the same bytes come out, and how they start is seen."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from twofold.image.import_ import import_disk
from twofold.model.errors import BadInputError, NotFoundError
from twofold.model.image import Arch, Firmware, SystemMode

GRUB = Path("/usr/lib/grub-rescue/grub-rescue-usb.img")
MEMTEST = Path("/usr/lib/memtest86+/memtest86+x64.iso")
SOURCES = [pytest.param(path, id=path.stem, marks=pytest.mark.skipif(not path.exists(), reason=f"{path} is not installed"))
           for path in (GRUB, MEMTEST)]  # fmt: skip
FORMATS = {
    "raw": ["-O", "raw"],
    "qcow2": ["-O", "qcow2"],
    "qcow2-packed": ["-O", "qcow2", "-c"],
    "qcow2-old": ["-O", "qcow2", "-o", "compat=0.10"],
    "vmdk": ["-O", "vmdk"],
    "vmdk-stream": ["-O", "vmdk", "-o", "subformat=streamOptimized"],
    "vhdx": ["-O", "vhdx"],
}


def make(source: Path, target: Path, how: str) -> Path:
    subprocess.run(["qemu-img", "convert", "-f", "raw", *FORMATS[how], source, target], check=True)
    return target


def efi_disk(path: Path) -> Path:
    """A GPT disk with an EFI system partition that holds memtest86+ as its loader; made with mtools and by hand."""
    import struct
    import uuid
    import zlib

    size, start = 40 << 20, 2048
    fat = path.with_suffix(".fat")
    subprocess.run(
        ["mkfs.vfat", "-C", "-F", "32", "-s", "1", fat, str((36 << 20) >> 10)], check=True, capture_output=True
    )
    for argv in (["mmd", "::/EFI", "::/EFI/BOOT"], ["mcopy", "/boot/memtest86+x64.efi", "::/EFI/BOOT/BOOTX64.EFI"]):
        subprocess.run([argv[0], "-i", fat, *argv[1:]], check=True)
    entry = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").bytes_le + bytes(range(16))
    entry += struct.pack("<QQQ", start, start + ((36 << 20) >> 9) - 1, 0) + "esp".encode("utf-16-le").ljust(72, b"\0")
    table = entry.ljust(128 * 128, b"\0")
    head = bytearray(struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, 1, (size >> 9) - 1, 34, (size >> 9) - 34,
                                 bytes(16), 2, 128, 128, zlib.crc32(table)))  # fmt: skip
    head[16:20] = struct.pack("<I", zlib.crc32(head))
    with path.open("wb") as out:
        out.truncate(size)
        out.write(bytes(446) + struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff" * 3, 1, (size >> 9) - 1))
        out.seek(510)
        out.write(b"\x55\xaa" + head)
        out.seek(1024)
        out.write(table)
        out.seek(start << 9)
        out.write(fat.read_bytes())
    return path


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("source", SOURCES)
def test_a_disk_comes_out_as_it_was(source: Path, how: str, tmp_path: Path) -> None:
    steps: list[str] = []
    built = import_disk(make(source, tmp_path / "disk", how), "old-pc", tmp_path, lambda step, *_: steps.append(step))
    manifest, system = built.manifest, built.path("system").read_bytes()
    assert system.rstrip(b"\0") == source.read_bytes().rstrip(b"\0")
    assert len(system) % 4096 == 0
    assert (manifest.mode, manifest.has_agent, manifest.version) == (SystemMode.PERSISTENT, False, 0)
    # grub's rescue disk has an EFI partition beside its boot code, memtest's too: the better of both is taken.
    assert manifest.firmware in (Firmware.UEFI, Firmware.BIOS)
    assert "Converting the disk" in steps or how == "raw"


@pytest.mark.skipif(not GRUB.exists(), reason="grub-rescue-pc is not installed")
def test_a_second_import_does_nothing(tmp_path: Path) -> None:
    disk = make(GRUB, tmp_path / "disk", "qcow2")
    first = import_disk(disk, "old-pc", tmp_path)
    steps: list[str] = []
    again = import_disk(disk, "old-pc", tmp_path, lambda step, *_: steps.append(step))
    assert again == first
    assert set(steps) == {"Reading the disk"}
    assert [path.name for path in (tmp_path / "builds").iterdir()] == [first.folder.name]


@pytest.mark.skipif(not GRUB.exists(), reason="grub-rescue-pc is not installed")
def test_boot_code_means_bios(tmp_path: Path) -> None:
    assert import_disk(make(GRUB, tmp_path / "disk", "qcow2"), "old-pc", tmp_path).manifest.firmware is Firmware.BIOS


@pytest.mark.skipif(not Path("/boot/memtest86+x64.efi").exists(), reason="memtest86+ is not installed")
def test_an_efi_partition_with_a_loader_means_uefi(tmp_path: Path) -> None:
    manifest = import_disk(make(efi_disk(tmp_path / "efi"), tmp_path / "disk", "vhdx"), "new-pc", tmp_path).manifest
    assert (manifest.firmware, manifest.arch) == (Firmware.UEFI, Arch.AMD64)


@pytest.mark.skipif(not GRUB.exists(), reason="grub-rescue-pc is not installed")
def test_an_ova_with_one_disk(tmp_path: Path) -> None:
    make(GRUB, tmp_path / "machine-disk1.vmdk", "vmdk-stream")
    (tmp_path / "machine.ovf").write_text("<Envelope/>")
    with tarfile.open(tmp_path / "machine.ova", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("machine.ovf", "machine-disk1.vmdk"):
            tar.add(tmp_path / name, name)
    built = import_disk(tmp_path / "machine.ova", "old-pc", tmp_path)
    assert built.path("system").read_bytes().rstrip(b"\0") == GRUB.read_bytes().rstrip(b"\0")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(NotFoundError):
            import_disk(path, "x", tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInputError, match="not a file"):
        import_disk(tmp_path / "pipe", "x", tmp_path)
