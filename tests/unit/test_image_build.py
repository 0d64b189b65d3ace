"""The parts of a build that need no build: keys, the initramfs, the kernel, the user's disk, what is kept."""

from __future__ import annotations

import json
import lzma
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from twofold.image import initrd, kernel, recipe, rootfs, unpacked
from twofold.image.build import load, user_template
from twofold.model.errors import BadInputError, DamagedError, MissingError, NotFoundError
from twofold.model.image import Arch

BUSINESS = Path(__file__).parents[2] / "recipes/business"
GUEST = Path(__file__).parents[2] / "src/twofold/guest"


def key(folder: Path, arch: Arch = Arch.AMD64) -> str:
    return recipe.key(folder, GUEST, recipe.read(folder, arch), arch)


def test_the_business_recipe_reads_for_both_processors() -> None:
    ours = recipe.read(BUSINESS, Arch.ARM64)
    assert ours.packages[0] == "linux-image-arm64"
    assert "ext4" in ours.initrd["first"] and "xen_blkfront" in ours.initrd["xen"]
    assert key(BUSINESS) != key(BUSINESS, Arch.ARM64)


def test_a_build_has_a_new_key_when_any_file_changes(tmp_path: Path) -> None:
    copy = tmp_path / "r"
    shutil.copytree(BUSINESS, copy, symlinks=True)
    first = key(copy)
    assert first == key(BUSINESS)
    script = copy / "overlay/usr/lib/twofold/session"
    script.chmod(0o644)
    second = key(copy)
    (copy / "overlay/etc/asound.conf").write_text("")
    assert len({first, second, key(copy)}) == 3


def test_a_recipe_that_is_not_there_or_not_understood_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        recipe.read(tmp_path, Arch.AMD64)
    (tmp_path / "recipe.toml").write_text('name = "../x"')
    with pytest.raises(BadInputError):
        recipe.read(tmp_path, Arch.AMD64)


def test_the_initramfs_holds_modules_in_the_order_they_load(tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    (modules / "kernel").mkdir(parents=True)
    for name in ("a", "b-c", "d"):
        (modules / "kernel" / f"{name}.ko").write_text(name)
    (modules / "modules.dep").write_text(
        "kernel/a.ko: kernel/b-c.ko kernel/d.ko\nkernel/b-c.ko: kernel/d.ko\nkernel/d.ko:\n"
    )
    (tmp_path / "i.cpio").write_bytes(initrd.build(b"#!init", b"busybox", modules, {"first": ("a", "absent")}))
    body = (tmp_path / "i.cpio").read_bytes()
    assert b"first_list='d b_c a'" in body
    # The kernel's own reading of the format: 110 bytes of head in hex, names and bodies on 4 bytes.
    names, at = [], 0
    while True:
        fields = [int(body[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = body[at + 110 : at + 110 + fields[11] - 1].decode()
        if name == "TRAILER!!!":
            break
        names.append(name)
        at = -(-(-(-(at + 110 + fields[11]) // 4) * 4 + fields[6]) // 4) * 4
    assert names[-3:] == ["modules/a.ko", "modules/b_c.ko", "modules/d.ko"]
    assert {"init", "bin/busybox", "dev/console", "modules/lists"} <= set(names)


def test_the_kernel_is_taken_out_of_its_wrapping() -> None:
    elf = b"\x7fELF" + bytes(4000)
    packed = lzma.compress(elf, lzma.FORMAT_XZ) + struct.pack("<I", len(elf))
    head = bytearray(512 * 5)
    head[0x1F1], head[0x202:0x206] = 4, b"HdrS"
    head[0x248:0x250] = struct.pack("<II", 16, len(packed))
    assert kernel.uncompressed(bytes(head) + bytes(16) + packed) == elf
    assert kernel.uncompressed(b"MZ" + bytes(9000)) == b"MZ" + bytes(9000)
    with pytest.raises(BadInputError):
        kernel.uncompressed(bytes(head) + bytes(16) + b"\x02!L\x18" + packed[4:])


def test_a_user_disk_is_small_stored_whole_unrolled_and_always_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        user_template(tmp_path / name, 4 << 30)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").stat().st_size < 128 << 20
    with (tmp_path / "a").open("r+b") as file:
        file.truncate(4 << 30)
    subprocess.run(["e2fsck", "-fn", tmp_path / "a"], check=True, capture_output=True)


def test_what_is_staged_belongs_to_root_and_has_no_times() -> None:
    import io
    import tarfile

    ours = recipe.read(BUSINESS, Arch.AMD64)
    first = rootfs.stage(ours, GUEST)
    assert first == rootfs.stage(ours, GUEST)
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        members = {member.name: member for member in tar}
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, 0)}
    assert members["./usr/lib/twofold/agent"].mode == 0o755
    assert "./usr/lib/twofold/twofold/guest/main.py" in members
    assert not any("__pycache__" in name for name in members)


def test_what_is_only_unpacked_is_staged_with_what_arranges_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import tarfile

    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert rootfs.emulator(Arch.AMD64) is None
    with pytest.raises(MissingError, match="arm64"):
        rootfs.emulator(Arch.ARM64)
    qemu = tmp_path / "qemu-aarch64"
    qemu.write_bytes(b"translator")
    qemu.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(qemu) if name == "qemu-aarch64" else None)
    assert rootfs.emulator(Arch.ARM64) == qemu
    with tarfile.open(fileobj=io.BytesIO(rootfs.stage(recipe.read(BUSINESS, Arch.ARM64), GUEST, qemu))) as tar:
        names = {member.name: member.mode for member in tar}
    assert names["./twofold-build/qemu"] == 0o755 and "./twofold-build/unpacked.py" in names
    # Another arranger, another build: what it makes is in the image.
    ours = recipe.read(BUSINESS, Arch.ARM64)
    keys = {recipe.key(BUSINESS, GUEST, ours, Arch.ARM64, file) for file in (None, qemu, Path(unpacked.__file__))}
    assert len(keys) == 3


def test_what_maintainer_scripts_would_have_made(tmp_path: Path) -> None:
    for name, text in {
        "usr/share/base-passwd/passwd.master": "root:*:0:0:root:/root:/bin/bash\n",
        "usr/share/base-passwd/group.master": "root:*:0:\nshadow:*:42:\n",
        "usr/share/libc-bin/nsswitch.conf": "passwd: files\n",
        "usr/share/base-files/profile": "# profile\n",
        "usr/lib/aarch64-linux-gnu/gdk-pixbuf-2.0/2.10.0/loaders/svg.so": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("usr/bin", "etc"):
        (tmp_path / name).mkdir()
    ran: list[tuple[str, ...]] = []

    def inside(program: str, *arguments: str) -> str:
        ran.append((program, *arguments))
        return f"{program} says\n"

    def owned(path: Path, user: int, group: int) -> None:
        assert (path.name in ("shadow", "gshadow"), user, group) == (True, 0, 42)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.chown", owned)
        unpacked.configure(lambda path: tmp_path / path, inside, {"usr/bin/awk": "mawk"})
    assert (tmp_path / "etc/passwd").read_text() == "root:x:0:0:root:/root:/bin/bash\n"
    assert (tmp_path / "etc/gshadow").read_text() == "root:*::\nshadow:*::\n"
    assert (tmp_path / "usr/bin/awk").readlink() == Path("mawk")
    folder = "/usr/lib/aarch64-linux-gnu/gdk-pixbuf-2.0/2.10.0"
    assert ("gdk-pixbuf-query-loaders", f"{folder}/loaders/svg.so") in ran  # the paths of the finished system
    assert (tmp_path / folder[1:] / "loaders.cache").read_text() == "gdk-pixbuf-query-loaders says\n"
    assert ("systemd-sysusers",) in ran and ("ldconfig",) in ran


def test_sources_come_from_this_machines_own_configuration() -> None:
    asked = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True, check=True
    )
    for line in rootfs.sources("trixie"):
        assert line.split()[-3] in asked.stdout.splitlines()
        assert line.split()[-2].startswith("trixie")


def test_a_kept_build_that_is_not_whole_is_said(tmp_path: Path) -> None:
    with pytest.raises(DamagedError):
        load(tmp_path)
    manifest = {
        "image": "x", "version": 0, "arch": "amd64", "firmware": "direct", "mode": "stateless", "cmdline": "",
        "parts": [{"name": "kernel", "size": 4, "sha256": "0" * 64}], "user_disk_size": 0, "has_agent": True, "recipe": "",
        "apps": [],
    }  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "kernel").write_text("four")
    assert load(tmp_path).manifest.part("kernel") is not None
    assert load(tmp_path).first_boot is None, "nobody recorded one"
    (tmp_path / "first-boot.json").write_text('{"schema": "twofold-first-boot-1", "ranges": [["kernel", 0, 4]]}')
    assert load(tmp_path).first_boot == [["kernel", 0, 4]]
    (tmp_path / "first-boot.json").write_text("{}")
    with pytest.raises(DamagedError):
        print(load(tmp_path).first_boot)
    (tmp_path / "kernel").write_text("tor")
    with pytest.raises(DamagedError):
        load(tmp_path)
