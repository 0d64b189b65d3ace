"""Desktop entries: which applications are installed (freedesktop.org Desktop Entry Specification 1.5)."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FOLDERS = (Path("/usr/local/share/applications"), Path("/usr/share/applications"))


@dataclass(frozen=True)
class Entry:
    """One application. `icon` is the entry's icon name or path; `hidden` ones are not listed but can be launched."""

    id: str
    name: str
    comment: str
    keywords: str
    icon: str
    argv: tuple[str, ...]
    wm_class: str
    hidden: bool


def parse(path: Path) -> Entry | None:
    """Read one `.desktop` file; None where it is not an application that can be started."""
    keys: dict[str, str] = {}
    inside = False
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("["):
            inside = line.strip() == "[Desktop Entry]"
        elif inside and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            keys.setdefault(key.strip(), value.strip())
    if keys.get("Type") != "Application" or not keys.get("Exec") or keys.get("Hidden") == "true":
        return None
    try:
        argv = tuple(word for word in shlex.split(keys["Exec"]) if not (len(word) == 2 and word[0] == "%"))
    except ValueError:
        return None
    if not argv:
        return None
    hidden = keys.get("NoDisplay") == "true" or bool(keys.get("OnlyShowIn"))
    return Entry(
        path.stem, keys.get("Name", path.stem)[:120], keys.get("Comment", "")[:300], keys.get("Keywords", "")[:300],
        keys.get("Icon", ""), argv, keys.get("StartupWMClass", ""), hidden,
    )  # fmt: skip


def entries(folders: Iterable[Path] = FOLDERS) -> dict[str, Entry]:
    """All startable applications by id; an earlier folder wins."""
    found: dict[str, Entry] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.desktop")):
            entry = parse(path) if path.stem not in found else None
            if entry is not None:
                found[entry.id] = entry
    return found
