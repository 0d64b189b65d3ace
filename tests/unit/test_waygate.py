"""A phone's gate: keys are Work's exactly while its window has the focus, and what may not be seen any more is taken back."""

from __future__ import annotations

import os
from typing import Any

import pytest

from twofold.model.errors import UnreachableError
from twofold.switcher.side import Layout, Locks, Moved, Side

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
A, TAB, SPACE, POWER, ONE, SHIFT = 30, 15, 57, 116, 2, 42  # linux/input-event-codes.h


class Guest:
    def __init__(self) -> None:
        self.heard: list[tuple[int, bool] | str] = []

    def key(self, code: int, down: bool) -> None:
        self.heard.append((code, down))

    def release_all(self) -> None:
        self.heard.append("all let go")

    def locks(self, locks: Locks) -> None:
        raise AssertionError(locks)


class Phone:
    """Two windows of one program: Work's, and one that stands for the person's. `front` is the compositor."""

    def __init__(self, qtbot: Any) -> None:
        from PySide6.QtWidgets import QLineEdit, QWidget

        from twofold.switcher.waygate import WayGate

        self.qtbot, self.guest = qtbot, Guest()
        self.sides: list[Side] = []
        self.chords: list[str] = []
        self.layouts: list[Layout] = []
        self.deaf = False
        self.personal, self.work = QWidget(), QWidget()
        self.line = QLineEdit(self.work)
        for each in (self.work, self.personal):
            qtbot.addWidget(each)
            each.show()
        self.focus(self.personal)
        self.gate = WayGate(
            self.work, self.guest, {"XKB_DEFAULT_LAYOUT": "de"}, on_move=self._moved, on_chord=self.chords.append,
            on_layout=self.layouts.append, front=self._front,
        )  # fmt: skip
        self.gate.start()

    def _moved(self, moved: Moved) -> None:
        self.sides.append(moved.side)

    def _front(self, environment: object, *, work: bool) -> None:
        if self.deaf:
            raise UnreachableError("The compositor is gone.")
        self.focus(self.work if work else self.personal)

    def focus(self, window: Any) -> None:
        window.activateWindow()
        self.qtbot.waitUntil(window.isActiveWindow, timeout=3000)

    def press(self, code: int, *held: str, down: bool = True, again: bool = False, text: str = "") -> None:
        from PySide6.QtCore import QEvent, Qt
        from PySide6.QtGui import QGuiApplication, QKeyEvent

        kind = QEvent.Type.KeyPress if down else QEvent.Type.KeyRelease
        modifiers = Qt.KeyboardModifier.NoModifier
        for each in held:
            modifiers |= Qt.KeyboardModifier[f"{each}Modifier"]
        key = Qt.Key.Key_Tab if code == TAB else Qt.Key.Key_A
        event = QKeyEvent(kind, key, modifiers, code + 8, 0, 0, text, again)
        QGuiApplication.sendEvent(QGuiApplication.focusWindow(), event)

    def tap(self, code: int, *held: str, text: str = "") -> None:
        self.press(code, *held, text=text)
        self.press(code, *held, down=False)


@pytest.fixture
def phone(qtbot: Any) -> Phone:
    return Phone(qtbot)


def test_keys_are_the_guests_exactly_while_its_window_has_the_focus(phone: Phone) -> None:
    phone.tap(A)
    assert phone.guest.heard == [] and not phone.gate.still_work()
    phone.focus(phone.work)  # the swipe: the compositor does it, and nobody asks us
    assert phone.gate.still_work()
    phone.tap(A)
    phone.tap(TAB)  # moves no focus of ours
    assert phone.guest.heard == [(A, True), (A, False), (TAB, True), (TAB, False)]
    phone.focus(phone.personal)
    phone.tap(A)
    assert phone.guest.heard[4:] == ["all let go"] and phone.sides == [Side.WORK, Side.PERSONAL]


def test_a_key_that_is_held_over_a_switch_is_let_go_where_it_was_pressed(phone: Phone) -> None:
    phone.focus(phone.work)
    phone.press(A)
    phone.press(A, again=True)  # its repeat is the guest's own affair
    phone.focus(phone.personal)
    phone.focus(phone.work)
    phone.press(A, down=False)
    assert phone.guest.heard == [(A, True), "all let go"]


def test_the_phones_own_keys_and_chords_are_not_the_guests(phone: Phone) -> None:
    phone.focus(phone.work)
    phone.tap(POWER)
    phone.tap(ONE, "Control", "Alt")
    assert phone.chords == ["1"] and phone.guest.heard == ["all let go"]
    assert phone.layouts == [Layout("pc105", "de", "", "")]


def test_a_capital_of_an_on_screen_keyboard_is_one_in_the_guest_and_a_real_shift_is_not_pressed_twice(
    phone: Phone,
) -> None:
    phone.focus(phone.work)
    phone.tap(A, "Shift")  # it says that Shift is on, and presses none
    assert phone.guest.heard == [(SHIFT, True), (A, True), (A, False), (SHIFT, False)]
    del phone.guest.heard[:]
    phone.press(SHIFT, "Shift")
    phone.tap(A, "Shift")
    phone.press(SHIFT, down=False)
    assert phone.guest.heard == [(SHIFT, True), (A, True), (A, False), (SHIFT, False)]


def test_while_our_own_line_is_typed_into_the_guest_hears_nothing(phone: Phone) -> None:
    phone.focus(phone.work)
    phone.tap(SPACE, "Control")
    assert phone.gate.side is Side.TYPING and not phone.gate.still_work()
    phone.line.setFocus()
    phone.tap(A, text="a")
    assert phone.line.text() == "a" and phone.guest.heard == ["all let go"]
    phone.gate.wish(Side.WORK)
    phone.tap(A, text="a")
    assert phone.line.text() == "a" and phone.guest.heard[1:] == [(A, True), (A, False)]
    assert phone.sides == [Side.WORK, Side.TYPING, Side.WORK]


def test_a_wish_is_granted_by_the_compositor_or_changes_nothing(phone: Phone) -> None:
    phone.gate.wish(Side.TYPING)  # there is nothing of ours in front to type into
    phone.gate.wish(Side.WORK)
    phone.gate.wish(Side.PERSONAL)
    assert phone.sides == [Side.WORK, Side.PERSONAL]
    phone.deaf = True
    phone.gate.wish(Side.WORK)
    assert phone.gate.side is Side.PERSONAL and not phone.work.isActiveWindow()


def test_what_the_compositor_has_already_is_not_handed_to_it_again(phone: Phone) -> None:
    from PySide6.QtCore import QRect
    from PySide6.QtGui import QExposeEvent, QRegion

    window = phone.work.windowHandle()

    def passed() -> bool:
        return not phone.gate.eventFilter(window, QExposeEvent(QRegion(QRect(0, 0, 10, 10))))

    phone.gate.close()  # Qt's own come to nobody from now on
    passed()
    assert not passed() and not passed()  # as Qt sends one at each change of the focus
    before = window.height()
    phone.work.resize(phone.work.width(), before + 10)
    phone.qtbot.waitUntil(lambda: window.height() != before, timeout=3000)
    assert passed() and not passed()
    phone.work.hide()
    phone.qtbot.waitUntil(lambda: not window.isExposed(), timeout=3000)
    assert passed()


def test_a_window_that_was_taken_back_comes_again_when_it_is_wanted(phone: Phone) -> None:
    phone.focus(phone.work)
    phone.gate.withdraw()
    phone.qtbot.waitUntil(lambda: phone.gate.side is Side.PERSONAL, timeout=3000)
    assert not phone.work.isVisible() and phone.guest.heard == ["all let go"]
    phone.deaf = True  # no window to bring to the front
    phone.gate.wish(Side.WORK)
    phone.qtbot.waitUntil(lambda: phone.gate.side is Side.WORK, timeout=3000)
    phone.gate.close()
    assert phone.guest.heard == ["all let go"] * 2
