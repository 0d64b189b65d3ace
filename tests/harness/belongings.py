"""A home folder that somebody lives in, and a digest of everything in it by which any change is found."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

OURS = ".twofold"  # where the tests and the demo put what is ours; everything else is the owner's


def settle(owner: Path) -> dict[str, str]:
    """Live in it; returns its digests."""
    for name, data in {
        "Documents/list.txt": b"bread\nmilk\n",
        "Documents/tax 2025.ods": os.urandom(90_000),
        "Pictures/garden.jpg": os.urandom(400_000),
        ".ssh/id_ed25519": b"-----BEGIN OPENSSH PRIVATE KEY-----\n",
        ".bashrc": b"alias ll='ls -l'\n",
    }.items():
        file = owner / name
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_bytes(data)
    (owner / ".ssh/id_ed25519").chmod(0o600)
    (owner / "Desktop").symlink_to("Documents")
    return belongings(owner)


def belongings(owner: Path) -> dict[str, str]:
    """Every file, folder and link but ours: rights, owner, time of change, size and content, as one digest each."""
    found = {}
    for path in sorted(owner.rglob("*")):
        if OURS in path.relative_to(owner).parts:
            continue
        facts, digest = path.lstat(), hashlib.sha256()
        digest.update(repr((facts.st_mode, facts.st_uid, facts.st_gid, facts.st_mtime_ns)).encode())
        if path.is_symlink():
            digest.update(os.fsencode(path.readlink()))
        elif path.is_file():
            digest.update(path.read_bytes())
        found[str(path.relative_to(owner))] = digest.hexdigest()
    return found
