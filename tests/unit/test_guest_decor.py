"""Sizes of the guest's window manager and panel at every scale."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from twofold.guest import decor

_OVERLAY = Path(__file__).resolve().parents[2] / "recipes/business/overlay"


@pytest.mark.parametrize("scale", [50, 100, 150, 200, 300, 400])
def test_the_window_managers_files_are_written_for_a_scale(
    scale: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_PANEL", "_WINDOWS", "_THEME"):
        monkeypatch.setattr(decor, name, _OVERLAY / getattr(decor, name).relative_to("/"))
    decor.write(tmp_path, 1600, scale)
    written = ElementTree.parse(tmp_path / "openbox.xml")
    rc = "{http://openbox.org/3.4/rc}"
    assert {size.text for size in written.iter(f"{rc}size")} == {str(scale // 10)}
    theme = tmp_path / "share/themes" / str(written.findtext(f"{rc}theme/{rc}name")) / "openbox-3"
    assert f"\npadding.width: {8 * scale // 100}\n" in (theme / "themerc").read_text()
    assert "color: #263238" in (theme / "themerc").read_text()
    assert {path.stem for path in theme.glob("*.xbm")} == {"close", "max", "max_toggled", "iconify"}
    assert f"scale_relative_to_screen_height = {160000 / scale:.1f}" in (tmp_path / "tint2rc").read_text()


@pytest.mark.parametrize("scale", [50, 100, 150, 200, 300])
def test_buttons_grow_with_the_scale_and_are_symmetric(scale: int) -> None:
    for name, rows in decor.buttons(scale).items():
        assert len(rows) == len(rows[0]) == max(5, 8 * scale // 100)
        assert all(row == row[::-1] for row in rows), name
        assert 0 < sum(map(sum, rows)) < len(rows) ** 2, name


def test_a_bitmap_has_its_lowest_bit_first() -> None:
    text = decor.xbm("close", [[True, False, False], [False, False, True]])
    assert max(map(len, decor.xbm("close", decor.buttons(400)["close"]).splitlines())) < 255
    assert "close_width 3" in text and "close_height 2" in text and "{\n0x01, 0x04\n}" in text
