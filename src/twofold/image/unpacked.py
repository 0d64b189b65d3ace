"""What Debian's maintainer scripts would have arranged in a tree whose packages were only unpacked.

Emulating those scripts takes a quarter of an hour; the few of their results that a virtual machine needs take a minute. Staged
beside a recipe's customise.py, which runs it (standard library alone).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

_FOLDERS = ("boot", "media", "mnt", "opt", "srv", "usr/local/bin", "usr/local/share/fonts", "var/opt", "var/spool/mail")
_SHADOW = "19675:0:99999:7:::"


def configure(at: Callable[[str], Path], inside: Callable[..., str], alternatives: Mapping[str, str]) -> None:
    """Arrange the tree. `at` gives a path's place in it, `inside` runs one of its programs in it and returns what that said;
    `alternatives` maps the names that update-alternatives would have made to what they stand for."""
    for folder in _FOLDERS:
        at(folder).mkdir(parents=True, exist_ok=True)
    _accounts(at, inside)
    _files(at)
    for name, target in alternatives.items():
        _link(at(name), target)
    _caches(at, inside)


def _accounts(at: Callable[[str], Path], inside: Callable[..., str]) -> None:
    for kind in ("passwd", "group"):
        shutil.copyfile(at(f"usr/share/base-passwd/{kind}.master"), at(f"etc/{kind}"))
        at(f"etc/{kind}").write_text(at(f"etc/{kind}").read_text().replace(":*:", ":x:"))
    for shadow, kind, rest in (("shadow", "passwd", _SHADOW), ("gshadow", "group", ":")):
        names = [line.split(":")[0] for line in at(f"etc/{kind}").read_text().splitlines()]
        at(f"etc/{shadow}").write_text("".join(f"{name}:*:{rest}\n" for name in names))
        at(f"etc/{shadow}").chmod(0o640)
        os.chown(at(f"etc/{shadow}"), 0, 42)  # group shadow
    inside("systemd-sysusers")


def _files(at: Callable[[str], Path]) -> None:
    shutil.copyfile(at("usr/share/libc-bin/nsswitch.conf"), at("etc/nsswitch.conf"))
    shutil.copyfile(at("usr/share/base-files/profile"), at("etc/profile"))
    _link(at("etc/localtime"), "/usr/share/zoneinfo/Etc/UTC")
    _link(at("etc/mtab"), "../proc/self/mounts")
    for name in ("10-hinting-slight", "70-no-bitmaps-except-emoji"):
        if at(f"usr/share/fontconfig/conf.avail/{name}.conf").exists():
            _link(at(f"etc/fonts/conf.d/{name}.conf"), f"/usr/share/fontconfig/conf.avail/{name}.conf")
    bundle, found = at("etc/ssl/certs/ca-certificates.crt"), sorted(at("usr/share/ca-certificates").rglob("*.crt"))
    if found:
        bundle.parent.mkdir(parents=True, exist_ok=True)
        bundle.write_bytes(b"".join(path.read_bytes() for path in found))


def _caches(at: Callable[[str], Path], inside: Callable[..., str]) -> None:
    inside("ldconfig")
    library = next(at("usr/lib").glob("*-linux-gnu"))
    below = f"/usr/lib/{library.name}"
    if at("usr/share/glib-2.0/schemas").is_dir():
        inside("glib-compile-schemas", "/usr/share/glib-2.0/schemas")
    if (library / "gio/modules").is_dir():
        inside("gio-querymodules", f"{below}/gio/modules")
    if at("usr/share/mime/packages").is_dir():
        inside("update-mime-database", "/usr/share/mime")
    # These two answer the modules they are asked about, by the paths they were given.
    for program, folder, cache in (
        ("gdk-pixbuf-query-loaders", "gdk-pixbuf-2.0/2.10.0/loaders", "gdk-pixbuf-2.0/2.10.0/loaders.cache"),
        ("gtk-query-immodules-3.0", "gtk-3.0/3.0.0/immodules", "gtk-3.0/3.0.0/immodules.cache"),
    ):
        files = sorted((library / folder).glob("*.so"))
        if files:
            (library / cache).write_text(inside(program, *(f"{below}/{folder}/{file.name}" for file in files)))


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
