"""The switcher on a phone that is held on its side: everything is there, within reach, and can be pressed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.test_sheet import asked, press, reads
from tests.unit.test_switcher import WIRE
from tests.unit.test_switcher_notices import POLICY, Line, Shown, where

pytestmark = pytest.mark.usefixtures("qtbot")


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    made.cards = [WIRE | {"policy": POLICY, "whereabouts": where(int(time.time()))}]
    yield made
    made.ours.close()


@pytest.fixture
def turned(qtbot: Any, line: Line) -> Iterator[Shown]:
    made = Shown(qtbot, line, phone=True)
    made.window.resize(1170, 412)  # between bars of the shell's own
    yield made
    made.close()


def test_a_code_is_typed_beside_its_form(turned: Shown, line: Line) -> None:
    line.tell(**line.cards[0] | {"event": "workspace", "run": "off", "shut": "code", "code": "locked"})
    reads(turned, "code")
    spots, inside = turned.window.sheet.spots, turned.window.sheet.rect()
    assert all(inside.contains(rect) and rect.width() >= 36 and rect.height() >= 44 for rect in spots.values())
    keys = [rect for name, rect in spots.items() if name.startswith("key ")]
    others = [rect for name, rect in spots.items() if not name.startswith("key ")]
    assert others and not any(one.intersects(other) for one in keys for other in others)
    for key in ("a", "⇧", "B", "7"):
        press(turned, f"key {key}")
    press(turned, "key ⏎")
    asked(turned, "unlock", code="aB7", new=False)


def test_a_form_that_is_too_high_is_pulled_up_and_pulling_presses_nothing(turned: Shown) -> None:
    from PySide6.QtCore import QPoint, Qt

    sheet, left = turned.window.sheet, Qt.MouseButton.LeftButton
    turned.desk._clerk.open()
    reads(turned, "details")
    below = sheet.spots["close"]
    assert not sheet.rect().contains(below)
    start = sheet.spots["backup"].center()
    turned.qtbot.mousePress(sheet, left, pos=start)
    for step in range(1, 12):
        turned.qtbot.mouseMove(sheet, start - QPoint(0, 15 * step))
    turned.qtbot.mouseRelease(sheet, left, pos=start - QPoint(0, 165))
    assert sheet.form is not None and sheet.form.name == "details", "a pull on a button pressed it"
    assert sheet.rect().contains(sheet.spots["close"])
    press(turned, "close")
    turned.qtbot.waitUntil(lambda: sheet.form is None, timeout=5000)


def test_all_applications_rows_are_on_the_sheet(turned: Shown) -> None:
    from twofold.switcher.launcher import App

    launcher = turned.window.launcher
    assert turned.desk.session is not None
    launcher.show_apps([App(f"app{n}", f"Application {n}", "", "", "") for n in range(16)])
    launcher.open(turned.desk.session.card, [turned.desk.session.card])
    cells = [launcher.cell(number) for number in range(16)]
    assert all(launcher.rect().contains(cell) for cell in cells)
    around = [launcher.more(), launcher._home(), launcher._mark(0), *cells]
    assert not any(launcher.search.geometry().intersects(each) for each in around)
