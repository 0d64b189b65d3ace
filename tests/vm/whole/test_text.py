"""Text that arrives in the guest as the person's own layout says: scan codes in, the guest's layout follows by itself."""

from __future__ import annotations

import time

import pytest

from tests.vm.whole.conftest import Sight, Whole, until
from twofold.platform.run import run

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

# Linux key codes (linux/input-event-codes.h) of places on the keyboard, named by what a US keyboard prints there.
KEYS = {
    "1": 2, "2": 3, "0": 11, "=": 13, "q": 16, "w": 17, "e": 18, "y": 21, "u": 22, "i": 23, "o": 24, "[": 26, "a": 30,
    ";": 39, "'": 40, "z": 44, "c": 46, "n": 49, "m": 50, "shift": 42, "altgr": 100, "menu": 127, "back": 14, "`": 41,
}  # fmt: skip

# Layout, variant, options; the place of a key and what it gives there, by which the layout is known; keys; text.
CASES = {
    "us": ("us", "", "", ("y", "y"), "y z q 1 shift+2 ;", "yzq1@;"),
    "de": ("de", "", "", ("y", "z"), "y z ; altgr+q altgr+e = e shift+= a `", "zyö@€éà"),
    "fr": ("fr", "", "", ("q", "a"), "q w 1 2 0 [ e altgr+0 altgr+e shift+1 ;", "az&éàê@€1m"),
    "us-intl": ("us", "intl", "", ("y", "y"), "' e ` a shift+' u altgr+n", "éàüñ"),
    "compose-altgr": ("us", "", "compose:ralt", ("y", "y"), "altgr o c altgr ' e altgr = e", "©é€"),
    "compose-menu": ("de", "", "compose:menu", ("y", "z"), "menu o c menu shift+2 u", "©ü"),
}


def press(desk: Sight, chord: str) -> None:
    """Places held together, then let go, as fingers do it."""
    codes = [KEYS[name] + 8 for name in chord.split("+")]
    for code in codes:
        desk.hands.press_code(code, True)
        time.sleep(0.015)
    for code in reversed(codes):
        desk.hands.press_code(code, False)
    time.sleep(0.03)


def empty(desk: Sight) -> None:
    until(lambda: desk.text() is not None, "the guest's text field")
    deadline = time.monotonic() + 20
    while desk.text() != "":
        press(desk, "back")
        assert time.monotonic() < deadline, f"the text field cannot be emptied: {desk.text()!r}"
    time.sleep(0.2)


@pytest.mark.parametrize("case", CASES)
def test_the_guest_writes_what_the_persons_layout_says(whole: Whole, desk: Sight, case: str) -> None:
    layout, variant, options, (place, letter), chords, wanted = CASES[case]
    words = ["setxkbmap", "-display", desk.server.name, "-layout", layout, "-variant", variant, "-option", ""]
    run([*words, *(["-option", options] if options else [])])
    began = time.monotonic()
    desk.to_work()
    whole.field(desk)
    empty(desk)
    while True:  # nobody tells the person when the guest has followed; a letter does
        press(desk, place)
        until(lambda: bool(desk.text()), "a letter")
        if desk.text() == letter and time.monotonic() - began > 1.5:
            break
        assert time.monotonic() - began < 15, f"the guest did not take the layout {case}: {desk.text()!r}"
        empty(desk)
    empty(desk)
    for chord in chords.split():
        press(desk, chord)
    until(lambda: desk.text() == wanted, f"{wanted!r} in the guest", 5)
    desk.to_personal()
