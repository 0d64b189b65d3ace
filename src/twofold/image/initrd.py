"""The initramfs: a cpio archive (newc, kernel's Documentation/driver-api/early-userspace/buffer-format) of our own making."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path


def cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """An archive of (path, mode, bytes), owned by root, times 0. Folders need no bytes."""
    out = bytearray()
    number = 0
    for number, (path, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        rdev = (5, 1) if path == "dev/console" else (0, 0)
        name = path.encode() + b"\0"
        head = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in head) + name
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def closure(names: Iterable[str], modules: Path) -> list[Path]:
    """The files of modules and of all they need, in the order in which they load. Absent ones are passed over."""
    needs: dict[str, list[str]] = {}
    by_name: dict[str, str] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, deps = line.partition(":")
        needs[path] = deps.split()
        by_name[_plain(path)] = path
    order: dict[str, None] = {}

    def add(path: str) -> None:
        for dependency in needs[path]:
            add(dependency)
        order.setdefault(path)

    for name in names:
        if name in by_name:
            add(by_name[name])
    return [modules / path for path in order]


def _plain(path: str) -> str:
    return Path(path).name.split(".ko")[0].replace("-", "_")


def build(init: bytes, busybox: bytes, modules: Path, lists: Mapping[str, tuple[str, ...]]) -> bytes:
    """The initramfs with `init`, busybox and the modules of `lists`; each list becomes a shell variable `<name>_list`."""
    folder = stat.S_IFDIR | 0o755
    entries: list[tuple[str, int, bytes]] = [
        (name, folder, b"") for name in ("bin", "dev", "proc", "sys", "root", "modules")
    ]
    entries.append(("dev/console", stat.S_IFCHR | 0o600, b""))
    entries += [("init", stat.S_IFREG | 0o755, init), ("bin/busybox", stat.S_IFREG | 0o755, busybox)]
    files: dict[str, Path] = {}
    text = ""
    for name, wanted in sorted(lists.items()):
        paths = closure(wanted, modules)
        files.update({_plain(str(path)): path for path in paths})
        text += f"{name}_list='{' '.join(_plain(str(path)) for path in paths)}'\n"
    entries.append(("modules/lists", stat.S_IFREG | 0o644, text.encode()))
    entries += [(f"modules/{name}.ko", stat.S_IFREG | 0o644, path.read_bytes()) for name, path in sorted(files.items())]
    return cpio(entries)
