"""Icons as plain PNGs, made once when the image is built, so that no SVG ever leaves the guest."""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from twofold.guest import programs
from twofold.guest.entries import FOLDERS, entries

SIZE = 128
MAX_BYTES = 65_536
_THEMES = ("hicolor", "Adwaita", "AdwaitaLegacy")
_KEEP = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def find(name: str, system: Path = Path("/")) -> Path | None:
    """The best file for an icon name: scalable first, then the largest bitmap."""
    if name.startswith("/"):
        path = system / name[1:]
        return path if path.is_file() else None
    root = system / "usr/share"
    ranked: list[tuple[int, Path]] = []
    for theme in _THEMES:
        for path in (root / "icons" / theme).glob(f"*/*/{name}.*"):
            if path.suffix in (".svg", ".png"):
                size = path.parts[-3].split("x")[0]
                ranked.append((100_000 if path.suffix == ".svg" else int(size) if size.isdigit() else 1, path))
    pixmaps = (path for path in (root / "pixmaps").glob(f"{name}.*") if path.suffix in (".svg", ".png", ".xpm"))
    ranked += [(90_000 if path.suffix == ".svg" else 2, path) for path in pixmaps]
    return max(ranked, key=lambda pair: (pair[0], str(pair[1])))[1] if ranked else None


def plain(png: bytes) -> bytes:
    """The same picture without anything but the picture: no text, no times.

    Raises:
        ValueError: not a whole PNG.
    """
    if not png.startswith(_SIGNATURE):
        raise ValueError("not a PNG")
    out, at = bytearray(_SIGNATURE), len(_SIGNATURE)
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        chunk = png[at : at + 12 + length]
        if len(chunk) != 12 + length or zlib.crc32(chunk[4:-4]) != struct.unpack(">I", chunk[-4:])[0]:
            raise ValueError("damaged PNG")
        if kind in _KEEP:
            out += chunk
        at += 12 + length
    return bytes(out)


def convert(source: Path, system: Path, thumbnailer: Sequence[str]) -> bytes:
    """`source` as a PNG of at most SIZE x SIZE."""
    with tempfile.NamedTemporaryFile(suffix=".png", dir=system / "tmp") as made:
        names = (f"/{path.relative_to(system)}" for path in (source, Path(made.name)))
        programs.run([*thumbnailer, "-s", str(SIZE), *names], seconds=60).check_returncode()
        return plain(Path(made.name).read_bytes())


def install(system: Path, thumbnailer: Sequence[str]) -> None:
    """Write `icons/<sha256>.png` and `apps.json` ({id: {"name", "icon"}}) into `usr/share/twofold` of the system at `system`.
    `thumbnailer` are the words that run gdk-pixbuf-thumbnailer there, so that the paths it is given are that system's."""
    root = system / "usr/share/twofold"
    folder = root / "icons"
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, dict[str, str]] = {}
    for entry in entries(system / str(place).lstrip("/") for place in FOLDERS).values():
        digest = ""
        source = find(entry.icon, system) if entry.icon and not entry.hidden else None
        if source is not None:
            png = convert(source, system, thumbnailer)
            if len(png) <= MAX_BYTES:
                digest = hashlib.sha256(png).hexdigest()
                (folder / f"{digest}.png").write_bytes(png)
        index[entry.id] = {"name": entry.name, "icon": digest, "hidden": "yes" if entry.hidden else ""}
    (root / "apps.json").write_text(json.dumps(index, sort_keys=True, indent=1) + "\n")
