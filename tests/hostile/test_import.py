"""Disk files made to harm: they reach for other files, swell, lie about their size, or are not what they say."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.image import partitions
from twofold.image.import_ import import_disk
from twofold.model.errors import BadInputError, DamagedError, RefusedError, TwofoldError

SECRET = Path("/etc/passwd")


def boot_disk(path: Path, size: int = 1 << 20) -> Path:
    """A disk with boot code and some noise."""
    body = bytearray(random.Random(1).randbytes(size))
    body[510:512] = b"\x55\xaa"
    path.write_bytes(body)
    return path


def qcow2(tmp_path: Path, *options: str) -> Path:
    target = tmp_path / "disk.qcow2"
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, boot_disk(tmp_path / "raw"), target], check=True
    )
    return target


def refused(file: Path, kind: type[TwofoldError], words: str, tmp_path: Path) -> None:
    """The import fails as it should and leaves nothing behind."""
    with pytest.raises(kind, match=words):
        import_disk(file, "x", tmp_path / "cache")
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert left == []


def test_a_backing_file_is_never_opened(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", SECRET, "-F", "raw", disk, "1M"], check=True)
    refused(disk, RefusedError, "backing file", tmp_path)


def test_a_json_backing_file_is_never_opened(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    reach = "json:" + json.dumps({"driver": "raw", "file": {"driver": "file", "filename": str(SECRET)}})
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", reach, "-F", "raw", disk, "1M"], check=True)
    refused(disk, RefusedError, "backing file", tmp_path)


def test_an_external_data_file_is_never_opened(tmp_path: Path) -> None:
    disk, data = tmp_path / "disk.qcow2", tmp_path / "data"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data}", disk, "1M"], check=True)
    refused(disk, RefusedError, "another file", tmp_path)


def test_an_encrypted_disk_is_refused(tmp_path: Path) -> None:
    disk = qcow2(tmp_path)
    with disk.open("r+b") as file:
        file.seek(32)
        file.write(struct.pack(">I", 2))
    refused(disk, RefusedError, "encrypted", tmp_path)


@pytest.mark.parametrize("size", [0, (2 << 40) + 512, (1 << 64) - 512])
def test_a_disk_that_claims_too_much_is_refused(size: int, tmp_path: Path) -> None:
    disk = qcow2(tmp_path)
    with disk.open("r+b") as file:
        file.seek(24)
        file.write(struct.pack(">Q", size))
    refused(disk, RefusedError, "bytes", tmp_path)


def test_unknown_features_are_not_guessed_at(tmp_path: Path) -> None:
    disk = qcow2(tmp_path)
    with disk.open("r+b") as file:
        file.seek(72)
        file.write(struct.pack(">Q", 1 << 40))
    refused(disk, BadInputError, "features not known", tmp_path)


@pytest.mark.parametrize("how", ["qcow2 -c", "qcow2", "vmdk", "vmdk -o subformat=streamOptimized", "vhdx"])
def test_a_disk_cut_short_is_said_to_be_damaged(how: str, tmp_path: Path) -> None:
    """QEMU alone reads zeroes past a file's end and would make holes of what is missing."""
    disk = tmp_path / "disk"
    raw = boot_disk(tmp_path / "raw")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", *how.split(), raw, disk], check=True)
    os.truncate(disk, disk.stat().st_size // 2)
    refused(disk, DamagedError, "cut short|cannot be read", tmp_path)


def test_a_raw_disk_cut_short_is_said_to_be_damaged(tmp_path: Path) -> None:
    disk = boot_disk(tmp_path / "disk")
    with disk.open("r+b") as file:
        file.seek(512)
        file.write(struct.pack("<8sIIIIQQ", b"EFI PART", 0x10000, 92, 0, 0, 1, 1 << 20))
    refused(disk, DamagedError, "cut short", tmp_path)


def test_a_raw_disk_is_never_taken_for_another_format(tmp_path: Path) -> None:
    """A guest that writes a qcow2 header over its own raw disk must not be probed into one: the first bytes decide once."""
    disk = tmp_path / "disk"
    header = bytearray(boot_disk(tmp_path / "raw").read_bytes())
    header[:8] = b"\x7fELF\1\1\1\0"
    disk.write_bytes(header)
    assert import_disk(disk, "x", tmp_path).path("system").read_bytes() == bytes(header)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x1f\x8b" + bytes(600), "gzip"),
        (b"PK\x03\x04" + bytes(600), "zip"),
        (b"conectix" + bytes(600), "VHD"),
        (b'# Disk DescriptorFile\nRW 2048 FLAT "/etc/passwd" 0\n', "other files"),
        (b"LUKS\xba\xbe" + bytes(600), "encrypted"),
        (b"", "not a disk"),
        (b"just text\n" * 100, "not a disk"),
    ],
)
def test_what_is_no_disk_is_named(body: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(body)
    refused(tmp_path / "file", BadInputError, words, tmp_path)


def vmdk(tmp_path: Path, old: bytes, new: bytes) -> Path:
    disk = tmp_path / "disk.vmdk"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", boot_disk(tmp_path / "raw"), disk], check=True)
    body = bytearray(disk.read_bytes())
    at = body.index(old)
    body[at : at + len(new)] = new
    disk.write_bytes(body)
    return disk


def test_a_vmdk_with_a_flat_extent_elsewhere_is_refused(tmp_path: Path) -> None:
    refused(vmdk(tmp_path, b"RW 2048 SPARSE", b'RW 1 FLAT "/etc/passwd" 0\n#'), RefusedError, "other files", tmp_path)


def test_a_vmdk_with_a_parent_is_refused(tmp_path: Path) -> None:
    refused(vmdk(tmp_path, b"parentCID=ffffffff", b"parentCID=12345678"), RefusedError, "parent", tmp_path)


def test_a_vmdk_that_is_only_a_description_is_refused(tmp_path: Path) -> None:
    disk = vmdk(tmp_path, b"KDMV", b"KDMV")
    with disk.open("r+b") as file:
        file.seek(12)
        file.write(bytes(8))
    refused(disk, RefusedError, "beside it", tmp_path)


def ova(tmp_path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    path = tmp_path / "a.ova"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for info, body in members:
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return path


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../escape.vmdk"), tarfile.TarInfo("/etc/cron.d/x.vmdk"), tarfile.TarInfo("a/b.vmdk"),
        link("x.vmdk", "/etc/passwd", tarfile.SYMTYPE), link("x.vmdk", "/etc/passwd", tarfile.LNKTYPE),
        link("x.vmdk", "", tarfile.CHRTYPE),
    ],
    ids=["up", "absolute", "folder", "symlink", "hardlink", "device"],
)  # fmt: skip
def test_an_ova_with_tricks_is_refused(member: tarfile.TarInfo, tmp_path: Path) -> None:
    refused(ova(tmp_path, (member, b"")), RefusedError, "no OVA needs", tmp_path)


def test_an_ova_has_one_disk(tmp_path: Path) -> None:
    two = [(tarfile.TarInfo(name), b"x") for name in ("a.vmdk", "b.vmdk")]
    refused(ova(tmp_path, *two), BadInputError, "2 disks", tmp_path)
    refused(ova(tmp_path, (tarfile.TarInfo("a.ovf"), b"x")), BadInputError, "0 disks", tmp_path)


def test_an_ova_in_an_ova_is_refused(tmp_path: Path) -> None:
    inner = ova(tmp_path, (tarfile.TarInfo("a.ovf"), b"x")).read_bytes()
    refused(ova(tmp_path, (tarfile.TarInfo("a.vmdk"), inner)), RefusedError, "another archive", tmp_path)


def test_an_ova_cut_short_is_refused(tmp_path: Path) -> None:
    path = ova(tmp_path, (tarfile.TarInfo("a.raw"), boot_disk(tmp_path / "raw").read_bytes()))
    os.truncate(path, 300_000)
    refused(path, BadInputError, "whole archive|cut short", tmp_path)


def test_a_bomb_is_bounded(tmp_path: Path) -> None:
    """A tiny file that stands for 512 GiB of zeroes: its disk is sparse, and nothing on it starts."""
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "512G"], check=True)
    refused(disk, BadInputError, "Nothing on this disk can be started", tmp_path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=8192), st.booleans())
def test_any_partition_table_is_read_or_refused(body: bytes, signed: bool) -> None:
    image = bytearray(body.ljust(8192, b"\0"))
    if signed:
        image[510:512], image[512:520] = b"\x55\xaa", b"EFI PART"
    fd = os.memfd_create("disk")
    try:
        os.write(fd, image)
        partitions.firmware(fd)
    except (BadInputError, DamagedError):
        pass
    finally:
        os.close(fd)
