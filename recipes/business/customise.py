#!/usr/bin/python3 -IS
"""Runs as root inside the new root tree, last: applies recipe.toml. Everything here gives the same bytes each time."""

from __future__ import annotations

import glob
import lzma
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

BUILD = Path("/twofold-build")
RECIPE = tomllib.loads((BUILD / "recipe.toml").read_text())


def sh(*argv: str) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def people() -> None:
    sh("useradd", "--create-home", "--shell", "/bin/bash", "--uid", "1000", "--groups", "audio,video,input", "user")
    Path("/etc/hostname").write_text("work\n")
    Path("/etc/hosts").write_text("127.0.0.1 localhost work\n::1 localhost\n")
    Path("/etc/fstab").write_text("")
    # The machine's identity is the workspace's; a constant here keeps the image the same for all.
    Path("/etc/machine-id").write_text("00000000000000000000000000000001\n")
    bus = Path("/var/lib/dbus/machine-id")
    bus.parent.mkdir(parents=True, exist_ok=True)
    bus.unlink(missing_ok=True)
    bus.symlink_to("/etc/machine-id")


def units() -> None:
    system = Path("/etc/systemd/system")
    for name in RECIPE["masks"]:
        (system / name).unlink(missing_ok=True)
        (system / name).symlink_to("/dev/null")
    # Generators start a process each at boot and find nothing here: no fstab, no disks of theirs, no getty.
    masked = Path("/etc/systemd/system-generators")
    masked.mkdir(parents=True, exist_ok=True)
    for generator in Path("/usr/lib/systemd/system-generators").iterdir():
        (masked / generator.name).symlink_to("/dev/null")
    for unit in sorted(system.glob("twofold-*.*")):
        if unit.is_file() and "[Install]" in unit.read_text():
            sh("systemctl", "enable", "--quiet", unit.name)
    sh("systemctl", "set-default", "--quiet", "multi-user.target")


def modules() -> None:
    root = next(Path("/usr/lib/modules").iterdir())
    release = root.name
    keep: set[str] = set()
    for name in RECIPE["modules"]:
        found = subprocess.run(
            ["modprobe", "--set-version", release, "--show-depends", name],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )  # a name that this architecture lacks shows nothing
        keep.update(
            os.path.realpath(line.split()[1]) for line in found.stdout.splitlines() if line.startswith("insmod")
        )
    for path in root.rglob("*.ko*"):
        if os.path.realpath(path) not in keep:
            path.unlink()
        elif path.suffix == ".xz":
            # Unpacked once here instead of at every boot.
            path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
            path.unlink()
    for folder, _, _ in os.walk(root, topdown=False):
        if not any(Path(folder).iterdir()):
            Path(folder).rmdir()
    sh("depmod", release)
    out = BUILD / "out"
    out.mkdir()
    shutil.copyfile(f"/boot/vmlinuz-{release}", out / "vmlinuz")
    shutil.copyfile("/usr/bin/busybox", out / "busybox")
    shutil.copytree(root, out / "modules")


def caches() -> None:
    # Fontconfig compares a cache with its folder's time, and the image's times are all 0.
    for folder in ("/usr/share/fonts", "/usr/local/share/fonts"):
        for path, _, _ in os.walk(folder):
            os.utime(path, (0, 0))
    sh("fc-cache", "--really-force", "--system-only")
    for theme in Path("/usr/share/icons").iterdir():
        if (theme / "index.theme").exists():
            sh("gtk-update-icon-cache", "--force", "--quiet", str(theme))
    sh("update-desktop-database", "-q")
    for folder in ("/usr/lib/twofold", "/usr/lib/python3.13"):
        sh("python3", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash", folder)


def icons() -> None:
    for name in RECIPE["hide"]:
        entry = Path("/usr/share/applications", f"{name}.desktop")
        if entry.exists():
            entry.write_text(entry.read_text().replace("[Desktop Entry]\n", "[Desktop Entry]\nNoDisplay=true\n", 1))
    sys.path.insert(0, "/usr/lib/twofold")
    from twofold.guest.icons import install

    install(Path("/usr/share/twofold"))
    shutil.copyfile("/usr/share/twofold/apps.json", BUILD / "out/apps.json")


def prune() -> None:
    for pattern in RECIPE["prune"]:
        for found in map(Path, glob.glob("/" + pattern, include_hidden=True)):  # noqa: PTH207 - Path.glob wants no leading /
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            else:
                found.unlink()


for step in (people, units, modules, caches, icons, prune):
    sys.stderr.write(f"twofold: {step.__name__}\n")
    step()
