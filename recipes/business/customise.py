#!/usr/bin/python3 -IS
"""Applies recipe.toml to a new root tree, last: `customise.py ROOT [EMULATOR]`. Everything here gives the same bytes each time.

It works on the tree from outside, so that it is one for every architecture. The tree's own programs run in it by `inside`; where
this machine's processor is of another kind, EMULATOR (a path in the tree) translates them, and no maintainer script has run.
"""

from __future__ import annotations

import glob
import lzma
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT, EMULATOR = Path(sys.argv[1]), sys.argv[2:]
BUILD = ROOT / "twofold-build"
RECIPE = tomllib.loads((BUILD / "recipe.toml").read_text())
_PLACES = ("usr/sbin", "usr/bin", "usr/lib/*-linux-gnu/*", "usr/lib/*-linux-gnu")


def at(path: str) -> Path:
    """A place of the finished system, in the tree."""
    return ROOT / path.lstrip("/")


def words(program: str) -> list[str]:
    """What runs one of the tree's programs in it. Those that it would start itself are not translated."""
    found = next(file for place in _PLACES for file in sorted(ROOT.glob(f"{place}/{program}")))
    return ["chroot", str(ROOT), *EMULATOR, f"/{found.relative_to(ROOT)}"]


def inside(program: str, *arguments: str) -> str:
    return sh(*words(program), *arguments)


def sh(*argv: str) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def people() -> None:
    if EMULATOR:
        import unpacked

        unpacked.configure(at, inside, RECIPE["alternatives"])
    for name, row in (("passwd", "user:x:1000:1000::/home/user:/bin/bash"), ("group", "user:x:1000:"),
                      ("shadow", "user:!:19675:0:99999:7:::"), ("gshadow", "user:!::")):  # fmt: skip
        text = at(f"/etc/{name}").read_text() + row + "\n"
        if name in ("group", "gshadow"):
            text = re.sub(r"^((?:audio|video|input):.*:)$", r"\1user", text, flags=re.M)
        at(f"/etc/{name}").write_text(text)
    at("/etc/hostname").write_text("work\n")
    at("/etc/hosts").write_text("127.0.0.1 localhost work\n::1 localhost\n")
    at("/etc/fstab").write_text("")
    # The machine's identity is the workspace's; a constant here keeps the image the same for all.
    at("/etc/machine-id").write_text("00000000000000000000000000000001\n")
    link(at("/var/lib/dbus/machine-id"), "/etc/machine-id")


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def units() -> None:
    system = at("/etc/systemd/system")
    for name in RECIPE["masks"]:
        link(system / name, "/dev/null")
    # Generators start a process each at boot and find nothing here: no fstab, no disks of theirs, no getty.
    for generator in at("/usr/lib/systemd/system-generators").iterdir():
        link(at("/etc/systemd/system-generators") / generator.name, "/dev/null")
    for unit in sorted(system.glob("twofold-*.*")):
        for target in re.findall(r"^WantedBy=(.*)$", unit.read_text() if unit.is_file() else "", re.M):
            link(system / f"{target}.wants" / unit.name, f"/etc/systemd/system/{unit.name}")
    link(system / "default.target", "/usr/lib/systemd/system/multi-user.target")


def modules() -> None:
    root = next(at("/usr/lib/modules").iterdir())
    release = root.name
    if EMULATOR:
        sh("depmod", "-b", str(ROOT), release)  # the kernel's package would have
    keep: set[str] = set()
    for name in RECIPE["modules"]:
        found = subprocess.run(
            ["modprobe", "-d", str(ROOT), "--set-version", release, "--show-depends", name],
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
    sh("depmod", "-b", str(ROOT), release)
    out = BUILD / "out"
    out.mkdir()
    shutil.copyfile(at(f"/boot/vmlinuz-{release}"), out / "vmlinuz")
    shutil.copyfile(at("/usr/bin/busybox"), out / "busybox")
    shutil.copytree(root, out / "modules")


def caches() -> None:
    # Fontconfig compares a cache with its folder's time, and the image's times are all 0.
    for folder in ("/usr/share/fonts", "/usr/local/share/fonts"):
        for path, _, _ in os.walk(at(folder)):
            os.utime(path, (0, 0))
    inside("fc-cache", "--really-force", "--system-only")
    for theme in at("/usr/share/icons").iterdir():
        if (theme / "index.theme").exists():
            inside("gtk-update-icon-cache", "--force", "--quiet", f"/usr/share/icons/{theme.name}")
    inside("update-desktop-database", "-q")
    for folder in ("/usr/lib/twofold", "/usr/lib/python3.13"):
        inside("python3", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash", folder)


def icons() -> None:
    for name in RECIPE["hide"]:
        entry = at(f"/usr/share/applications/{name}.desktop")
        if entry.exists():
            entry.write_text(entry.read_text().replace("[Desktop Entry]\n", "[Desktop Entry]\nNoDisplay=true\n", 1))
    sys.path.insert(0, str(at("/usr/lib/twofold")))
    sys.dont_write_bytecode = True
    from twofold.guest.icons import install

    install(ROOT, words("gdk-pixbuf-thumbnailer"))
    shutil.copyfile(at("/usr/share/twofold/apps.json"), BUILD / "out/apps.json")


def prune() -> None:
    for pattern in RECIPE["prune"]:
        for found in map(Path, glob.glob(f"{ROOT}/{pattern}", include_hidden=True)):  # noqa: PTH207 - Path.glob hides what is hidden
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            else:
                found.unlink()


if __name__ == "__main__":
    sys.path.insert(0, str(BUILD))
    for step in (people, units, modules, caches, icons, prune):
        sys.stderr.write(f"twofold: {step.__name__}\n")
        step()
