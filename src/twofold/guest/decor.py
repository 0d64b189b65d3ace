"""What neither the window manager nor the panel scales by itself: text, buttons and paddings, as files that both read.

Both keep the size of text that they found when they started. The panel starts again in a moment; the window manager must
not, since it lets go of the keyboard meanwhile: it is given other sizes instead and told to read them (`Xft.dpi` stands at
96 for it alone, see `openbox.resources`).
"""

from __future__ import annotations

import re
from pathlib import Path

_PANEL, _PANEL_SCALE = Path("/etc/xdg/tint2/tint2rc"), "scale_relative_to_screen_height = "
_WINDOWS = Path("/etc/xdg/openbox/rc.xml")
_THEME = Path("/usr/share/themes/Twofold/openbox-3/themerc")
_SIZED = re.compile(r"(?m)^((?:padding\.|border\.|window\.handle\.)(?:width|height): )(\d+)")


def write(runtime: Path, height: int, scale: int) -> None:
    """Write panel, window manager and theme for a screen of `height` pixels at `scale` percent into the session's folder."""
    # The panel's sizes go by the screen's height alone: tell it the height at which they are as written.
    _put(
        runtime / "tint2rc", _PANEL.read_text().replace(_PANEL_SCALE + "0", f"{_PANEL_SCALE}{height * 100 / scale:.1f}")
    )
    theme = runtime / "share/themes/Twofold-scaled/openbox-3"
    theme.mkdir(parents=True, exist_ok=True)
    _put(
        theme / "themerc",
        _SIZED.sub(lambda line: line[1] + str(max(1, int(line[2]) * scale // 100)), _THEME.read_text()),
    )
    for name, rows in buttons(scale).items():
        _put(theme / f"{name}.xbm", xbm(name, rows))
    _put(runtime / "openbox.xml", windows(_WINDOWS.read_text(), scale))


def windows(text: str, scale: int) -> str:
    """The window manager's configuration at `scale` percent."""
    text = text.replace("<name>Twofold</name>", "<name>Twofold-scaled</name>")
    return re.sub(r"<size>(\d+)</size>", lambda size: f"<size>{max(1, int(size[1]) * scale // 100)}</size>", text)


def buttons(scale: int) -> dict[str, list[list[bool]]]:
    """The title bar's pictures at `scale` percent, as rows of pixels."""
    size, line = max(5, 8 * scale // 100), max(1, round(scale / 80))
    every = range(size)
    edge = [[min(x, y, size - 1 - x, size - 1 - y) < line for x in every] for y in every]
    return {
        "close": [[min(abs(x - y), abs(size - 1 - x - y)) < max(1, line * 0.8) for x in every] for y in every],
        "max": edge,
        "max_toggled": [[edge[y][x] or y < 2 * line for x in every] for y in every],
        "iconify": [[y >= size - line for _ in every] for y in every],
    }


def xbm(name: str, rows: list[list[bool]]) -> str:
    """A picture as X bitmap, each row's lowest bit first (XReadBitmapFile(3)), which ends lines at 255 letters."""
    cells = [
        sum(1 << bit for bit, on in enumerate(row[at : at + 8]) if on) for row in rows for at in range(0, len(row), 8)
    ]
    lines = ",\n".join(", ".join(f"0x{cell:02x}" for cell in cells[at : at + 12]) for at in range(0, len(cells), 12))
    return (
        f"#define {name}_width {len(rows[0])}\n#define {name}_height {len(rows)}\n"
        f"static unsigned char {name}_bits[] = {{\n{lines}\n}};\n"
    )


def _put(path: Path, text: str) -> None:
    half = path.with_suffix(".new")
    half.write_text(text)
    half.rename(path)  # somebody may be reading it at this very moment
