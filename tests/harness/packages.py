"""Debian packages for a guest to install over and over: real trees of this machine, in two versions, with scripts and a
conffile. And a writable system disk, made of the image, that has them aboard."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.harness.inside.plan import PACKAGES, VERSIONS, file_name
from twofold.image.build import Built
from twofold.platform.run import run

FOLDER = "srv/packages"
_FILES = 160  # of each version: dpkg makes each durable, which takes a slow processor a while
_POSTINST = """#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
mkdir -p /var/lib/{name}
echo {version} >/var/lib/{name}/configured
sync /var/lib/{name}/configured /var/lib/{name}
ldconfig
"""


def make(folder: Path) -> None:
    """All packages in all versions into `folder`."""
    files = sorted(
        path for path in Path("/usr/lib/python3").resolve().parent.glob("python3.*/**/*.py") if path.is_file()
    )
    assert len(files) >= PACKAGES * _FILES // 2
    for number in range(PACKAGES):
        for version in VERSIONS:
            _make(folder, number, version, files[number * _FILES // 2 :][:_FILES])


def _make(folder: Path, number: int, version: int, files: list[Path]) -> None:
    name = f"twofold-test-{number}"
    tree = folder / "tree"
    data = tree / "usr" / "share" / name
    data.mkdir(parents=True)
    for nth, path in enumerate(files):
        # Some files are in one version alone, and the rest differ.
        if nth % 7 == version:
            continue
        target = data / f"{nth % 9}" / f"{nth}-{path.name}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(f"{name} {version}\n".encode() + path.read_bytes())
    config = tree / "etc" / name / "settings"
    config.parent.mkdir(parents=True)
    config.write_text(f"version={version}\n")
    debian = tree / "DEBIAN"
    debian.mkdir()
    (debian / "control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\n"
        f"Description: files to install\n"
    )
    (debian / "conffiles").write_text(f"/etc/{name}/settings\n")
    (debian / "postinst").write_text(_POSTINST.format(name=name, version=version))
    (debian / "postinst").chmod(0o755)
    run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, folder / file_name(number, version)])
    shutil.rmtree(tree)


def writable_system(image: Built, folder: Path, size: int) -> Path:
    """The image's whole tree in an ext4 file system of `size` bytes, writable, with the packages: what an image in persistent
    mode or an imported disk is to a vault. Files belong to whoever makes it where that is no root; programs run as root."""
    tree = folder / "tree"
    run(["fsck.erofs", f"--extract={tree}", image.path("system")], timeout=120)
    (tree / FOLDER).mkdir(parents=True)
    make(tree / FOLDER)
    # The image was made in a hurry; installing is not.
    for hurry in (tree / "etc/dpkg/dpkg.cfg.d").iterdir():
        hurry.unlink()
    disk = folder / "system.ext4"
    with disk.open("wb") as file:
        file.truncate(size)
    run(["mkfs.ext4", "-q", "-F", "-E", "root_owner=0:0,lazy_itable_init=0", "-d", tree, disk], timeout=120)
    for each in tree.rglob("*"):
        if each.is_dir() and not each.is_symlink():
            os.chmod(each, 0o700)  # noqa: PTH101 - some folders let nobody in, and must go
    shutil.rmtree(tree)
    return disk
